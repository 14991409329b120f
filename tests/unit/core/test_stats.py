"""Statistics of a model: Triton's fields, durations that fit into each other, batches by size."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from core_harness import request, run, running, write_model
from gated_backend import GatedBackend

from triton_async.core.stats import ModelStatistics
from triton_async.errors import InternalError, InvalidArg

DURATIONS = ["success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"]


def test_a_new_model_has_every_field_at_zero() -> None:
    none = {"count": 0, "ns": 0}
    assert ModelStatistics().as_dict("m", "1") == {
        "name": "m", "version": "1", "last_inference": 0, "inference_count": 0, "execution_count": 0,
        "inference_stats": dict.fromkeys(DURATIONS, none), "response_stats": {}, "batch_stats": [], "memory_usage": [],
    }  # fmt: skip


def test_batches_are_counted_by_their_size(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=8,
                more="instance_group { count: 1 kind: KIND_CPU } dynamic_batching { preferred_batch_size: [ 6 ] "
                "max_queue_delay_microseconds: 60000000 }")  # fmt: skip

    async def test() -> None:
        async with running(tmp_path) as server:
            for rows in ([1, 2, 3], [6], [8], [2, 2, 2]):
                await asyncio.gather(*(server.infer(request("m", [[0]] * count)) for count in rows))
            entry = server.statistics("m")[0]
            batches = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in entry["batch_stats"]}
            assert batches == {6: 3, 8: 1}
            assert (entry["inference_count"], entry["execution_count"]) == (26, 4)
            assert entry["inference_stats"]["success"]["count"] == 8
            assert abs(entry["last_inference"] / 1000 - time.time()) < 3600

    run(test)


def test_the_parts_of_a_request_fit_into_it(tmp_path: Path) -> None:
    write_model(tmp_path, "m", delay_ms=3)

    async def test() -> None:
        async with running(tmp_path) as server:
            for _ in range(5):
                await server.infer(request("m", [1]))
            spent: dict[str, Any] = server.statistics("m")[0]["inference_stats"]
            parts = [spent[name]["ns"] for name in ("queue", "compute_input", "compute_infer", "compute_output")]
            assert sum(parts) <= spent["success"]["ns"]
            assert spent["compute_infer"]["ns"] >= 5 * 3_000_000
            assert all(spent[name]["count"] == 5 for name in ("success", "queue", "compute_infer", "compute_output"))

    run(test)


def test_failures_are_not_inferences(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    backend = GatedBackend()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            task = asyncio.ensure_future(server.infer(request("m", [1])))
            event = await backend.run_gate.arrival()
            backend.batches[-1].clear()
            event.set()
            with pytest.raises(InternalError):
                await task
            entry = server.statistics("m")[0]
            assert (entry["inference_count"], entry["execution_count"], entry["last_inference"]) == (0, 0, 0)
            assert entry["inference_stats"]["fail"]["count"] == 1
            assert entry["inference_stats"]["success"]["count"] == 0

    run(test)


def test_all_models_or_one_are_listed_by_name_and_version(tmp_path: Path) -> None:
    for name in ("b", "a"):
        directory = write_model(tmp_path, name, more="version_policy { all { } }")
        for version in ("2", "10"):
            (directory / version).mkdir()

    async def test() -> None:
        async with running(tmp_path) as server:
            def listed(*question: Any) -> list[tuple[str, str]]:
                return [(entry["name"], entry["version"]) for entry in server.statistics(*question)]

            assert listed() == [(name, version) for name in ("a", "b") for version in ("1", "2", "10")]
            assert listed("b") == [("b", "1"), ("b", "2"), ("b", "10")]
            assert listed("a", 10) == [("a", "10")]
            with pytest.raises(InvalidArg, match="requested model version is not available for model 'a'"):
                listed("a", 3)

    run(test)
