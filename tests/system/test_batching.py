"""Dynamic batching as the statistics show it, and every request gets its own answer."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from extra_models import LARGEST_BATCH
from server_process import ServerProcess
from triton_clients import PROTOCOLS, Array, add_sub_rows, assert_add_sub, client_module, make_inputs

REQUESTS = 64


def statistics(server: ServerProcess, model: str) -> dict[str, Any]:
    with client_module("http").InferenceServerClient(server.http_url) as client:
        (entry,) = client.get_inference_statistics(model)["model_stats"]
    found: dict[str, Any] = entry
    return found


def ask_at_once(
    server: ServerProcess, protocol: str, model: str, cases: list[tuple[dict[str, Array], list[Array]]]
) -> None:
    """Send all cases before the first answer is awaited; check each answer."""
    module = client_module(protocol, ".aio")

    async def ask(client: Any, arrays: dict[str, Array], expected: list[Array]) -> None:
        assert_add_sub(await client.infer(model, make_inputs(module, arrays)), expected)

    async def main() -> None:
        async with module.InferenceServerClient(server.url(protocol)) as client:
            await asyncio.gather(*(ask(client, *case) for case in cases))

    asyncio.run(main())


def executed_sizes(before: dict[str, Any], after: dict[str, Any]) -> dict[int, int]:
    """Batch size -> how often it was executed between the two."""
    old = {entry["batch_size"]: entry["compute_infer"]["count"] for entry in before.get("batch_stats", [])}
    new = {entry["batch_size"]: entry["compute_infer"]["count"] for entry in after["batch_stats"]}
    grown = {size: count - old.get(size, 0) for size, count in new.items()}
    return {size: count for size, count in grown.items() if count}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_concurrent_requests_share_executions(server: ServerProcess, protocol: str) -> None:
    before = statistics(server, "patient")
    ask_at_once(server, protocol, "patient", [add_sub_rows(number) for number in range(REQUESTS)])
    after = statistics(server, "patient")
    assert after["inference_count"] - before["inference_count"] == REQUESTS
    executions = after["execution_count"] - before["execution_count"]
    assert REQUESTS // LARGEST_BATCH <= executions < REQUESTS
    sizes = executed_sizes(before, after)
    assert sum(sizes.values()) == executions
    assert sum(size * count for size, count in sizes.items()) == REQUESTS
    assert 1 < max(sizes) <= LARGEST_BATCH
    success = after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"]
    assert success == REQUESTS


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_rows_are_counted_not_requests(server: ServerProcess, protocol: str) -> None:
    cases = [add_sub_rows(number, 1 + number % 5) for number in range(REQUESTS)]
    rows = sum(len(expected[0]) for _, expected in cases)
    before = statistics(server, "patient")
    ask_at_once(server, protocol, "patient", cases)
    after = statistics(server, "patient")
    sizes = executed_sizes(before, after)
    assert after["inference_count"] - before["inference_count"] == rows
    assert sum(size * count for size, count in sizes.items()) == rows
    assert max(sizes) <= LARGEST_BATCH
    assert after["execution_count"] - before["execution_count"] < REQUESTS


def test_metrics_count_the_same(server: ServerProcess) -> None:
    labels = '{model="patient",version="1"}'
    names = ["nv_inference_request_success", "nv_inference_count", "nv_inference_exec_count"]
    old = server.metrics()
    ask_at_once(server, "http", "patient", [add_sub_rows(number, 2) for number in range(20)])
    new = server.metrics()
    success, count, executions = (new[name + labels] - old[name + labels] for name in names)
    assert (success, count) == (20, 40)
    assert 1 <= executions < 20


def test_different_lengths_do_not_share_a_batch(server: ServerProcess) -> None:
    module = client_module("grpc", ".aio")

    async def ask(client: Any, number: int) -> None:
        values = np.full((1, 2 + number % 3), number, dtype=np.float32)
        result = await client.infer("identity_fp32", make_inputs(module, {"INPUT0": values}))
        assert np.array_equal(result.as_numpy("OUTPUT0"), values)

    async def main() -> None:
        async with module.InferenceServerClient(server.grpc_url) as client:
            await asyncio.gather(*(ask(client, number) for number in range(REQUESTS)))

    asyncio.run(main())
