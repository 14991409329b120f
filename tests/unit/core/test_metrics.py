"""The metrics page: Triton's families and labels, counts that add up, text that a scraper can read."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from core_harness import request, run, running, write_model
from gated_backend import PATIENCE_S, GatedBackend

from triton_async.core.server import InferenceServer
from triton_async.errors import ServerError
from triton_async.infer.request import InferRequest

LABEL = r'[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"([a-z_]+)(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")
FAMILIES = {
    "nv_inference_request_success": "counter", "nv_inference_request_failure": "counter",
    "nv_inference_count": "counter", "nv_inference_exec_count": "counter",
    "nv_inference_request_duration_us": "counter", "nv_inference_queue_duration_us": "counter",
    "nv_inference_compute_input_duration_us": "counter", "nv_inference_compute_infer_duration_us": "counter",
    "nv_inference_compute_output_duration_us": "counter", "nv_inference_pending_request_count": "gauge",
    "nv_model_load_duration_secs": "gauge", "nv_cpu_utilization": "gauge", "nv_cpu_memory_total_bytes": "gauge",
    "nv_cpu_memory_used_bytes": "gauge", "nv_pinned_memory_pool_total_bytes": "gauge",
    "nv_pinned_memory_pool_used_bytes": "gauge", "triton_async_live_objects": "gauge",
}  # fmt: skip


async def read(server: InferenceServer) -> dict[str, dict[str, float]]:
    """Family -> labels as written -> value; every line is checked."""
    found: dict[str, dict[str, float]] = {}
    kinds: dict[str, str] = {}
    text = b"".join(await server.metrics_parts()).decode()
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            continue
        if line.startswith("# TYPE "):
            _, _, name, kinds[name] = line.split(" ")
            found[name] = {}
            continue
        match = SAMPLE.fullmatch(line)
        assert match is not None, line
        assert match[2] not in found[match[1]]
        found[match[1]][match[2] or ""] = float(match[3])
    assert kinds == {name: kind for name, kind in FAMILIES.items() if name in kinds}
    return found


def test_every_family_is_there_with_its_type(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path) as server:
            found = await read(server)
            assert list(found) == [*list(FAMILIES)]
            assert found["nv_cpu_memory_total_bytes"][""] >= found["nv_cpu_memory_used_bytes"][""] > 0
            assert 0 <= found["nv_cpu_utilization"][""] <= 1

    run(test)


@pytest.mark.parametrize(("option", "missing"), [
    ("--allow-cpu-metrics=false", "nv_cpu_"), ("--metrics-config=counter_latencies=false", "_duration_us"),
])  # fmt: skip
def test_families_can_be_switched_off(tmp_path: Path, option: str, missing: str) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path, option) as server:
            assert list(await read(server)) == [name for name in FAMILIES if missing not in name]

    run(test)


def test_counts_add_up(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=4, more="dynamic_batching { }")

    async def test() -> None:
        async with running(tmp_path) as server:
            await asyncio.gather(*(server.infer(request("m", [[1], [2]])) for _ in range(10)))
            for bad in (request("m", [[1]] * 9), InferRequest("m"), request("nope", [[1]])):
                with pytest.raises(ServerError):
                    await server.infer(bad)
            found = await read(server)
            labels = 'model="m",version="1"'
            assert found["nv_inference_request_success"] == {labels: 10}
            assert found["nv_inference_count"] == {labels: 20}
            assert 5 <= found["nv_inference_exec_count"][labels] <= 10
            reasons = {'CANCELED': 0, 'REJECTED': 0, 'BACKEND': 0, 'OTHER': 0}
            assert found["nv_inference_request_failure"] == {
                f'model="m",reason="{reason}",version="1"': count for reason, count in reasons.items()
            }
            assert found["nv_inference_pending_request_count"] == {labels: 0}
            assert found["nv_inference_request_duration_us"][labels] >= found["nv_inference_queue_duration_us"][labels]
            statistics = server.statistics("m")[0]["inference_stats"]
            for name, spent in (("queue", "queue"), ("success", "request"), ("compute_infer", "compute_infer")):
                assert found[f"nv_inference_{spent}_duration_us"][labels] == statistics[name]["ns"] // 1000

    run(test)


def test_pending_requests_and_live_objects_are_seen_while_they_wait(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more="instance_group { count: 1 kind: KIND_CPU }")
    backend = GatedBackend()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            before = (await read(server))["triton_async_live_objects"]
            tasks = [asyncio.ensure_future(server.infer(request("m", [index]))) for index in range(5)]
            first = await backend.run_gate.arrival()
            found = await read(server)
            assert found["nv_inference_pending_request_count"] == {'model="m",version="1"': 4}
            alive = found["triton_async_live_objects"]
            assert alive['kind="request"'] == before['kind="request"'] + 5
            assert alive['kind="batch"'] == before['kind="batch"'] + 2
            backend.run_gate.open()
            first.set()
            await asyncio.gather(*tasks)
            tasks.clear()
            for _ in range(PATIENCE_S * 500):
                if (await read(server))["triton_async_live_objects"] == before:
                    break
                await asyncio.sleep(0.002)
            else:
                raise AssertionError("not all are gone")

    run(test)


def test_only_ready_versions_are_listed_and_an_unload_ends_their_counters(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path, "--model-control-mode=explicit", "--load-model=m") as server:
            await server.infer(request("m", [1]))
            assert (await read(server))["nv_inference_count"] == {'model="m",version="1"': 1}
            await server.unload_model("m")
            assert (await read(server))["nv_inference_count"] == {}
            await server.load_model("m")
            assert (await read(server))["nv_inference_count"] == {'model="m",version="1"': 0}

    run(test)


def test_counters_go_on_when_a_model_is_loaded_anew_while_it_serves(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "m")
    backend = GatedBackend()
    backend.run_gate.shut = True
    labels = 'model="m",version="1"'

    async def test() -> None:
        async with running(tmp_path, "--model-control-mode=explicit", "--load-model=m", backends=backend) as server:
            async def counted() -> list[float]:
                page = await read(server)
                families = "nv_inference_request_success", "nv_inference_count", "nv_inference_exec_count"
                failures = page["nv_inference_request_failure"]['model="m",reason="BACKEND",version="1"']
                return [*(page[family][labels] for family in families), failures]

            for turn in range(12):
                # Begun before a reload, and answered behind it.
                good, bad = (asyncio.ensure_future(server.infer(request("m", [value]))) for value in (1, 2))
                first = await backend.run_gate.arrival()
                before = await read(server)
                (directory / "1" / "weights").write_text(str(turn))
                await server.load_model("m")
                assert await counted() == [turn] * 4
                spent = "nv_inference_queue_duration_us"
                assert (await read(server))[spent] == before[spent]
                first.set()
                second = await backend.run_gate.arrival()
                backend.fail_next = True
                second.set()
                await good
                with pytest.raises(ServerError):
                    await bad
                assert await counted() == [turn + 1] * 4
            # Another series.
            write_model(tmp_path, "m", more='metric_tags { key: "a" value: "b" }')
            await server.load_model("m")
            assert set((await read(server))["nv_inference_count"].values()) == {0}

    run(test)


@pytest.mark.parametrize("value", ['quote " in it', "back\\\\slash", "new\\nline", "é\u2028", ""])
def test_tags_of_a_model_become_labels_and_cannot_forge_a_line(tmp_path: Path, value: str) -> None:
    escaped = value.replace('"', '\\"')
    write_model(tmp_path, "m", more=f'metric_tags {{ key: "team" value: "{escaped}" }}')

    async def test() -> None:
        async with running(tmp_path) as server:
            labels = list((await read(server))["nv_inference_count"])
            assert len(labels) == 1
            assert labels[0].startswith('_team="')
            assert labels[0].endswith('",model="m",version="1"')

    run(test)
