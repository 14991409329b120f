"""ModelStreamInfer: order, errors on the stream and as status, bounds, cancellation."""

from __future__ import annotations

import asyncio
import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as client
from grpc_harness import Running, serving, until, write_model
from test_grpc_clients import tensor
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException


@pytest.fixture
def stream(shared: Running) -> Any:
    """A client with a started stream, and the queue of what it received."""
    found: queue.Queue[Any] = queue.Queue()
    with client.InferenceServerClient(shared.url) as triton:
        triton.start_stream(lambda result, error: found.put(error or result))
        yield triton, found
        triton.stop_stream()


def send(triton: Any, model: str, size: int, **more: Any) -> None:
    triton.async_stream_infer(model, [tensor(np.full(size, size, np.float32))], request_id=str(size), **more)


def test_answers_keep_the_order_of_requests(stream: Any) -> None:
    triton, found = stream
    for size in range(1, 600):
        send(triton, "slow" if size == 1 else "fp32", size)
    for size in range(1, 600):
        result = found.get(timeout=10)
        response = result.get_response()
        assert response.id == str(size)
        assert response.parameters["triton_final_response"].bool_param
        assert result.as_numpy("OUTPUT0").tolist() == [size] * size


def test_errors_leave_the_stream_open(stream: Any) -> None:
    triton, found = stream
    send(triton, "slow", 1)
    send(triton, "nope", 2)
    send(triton, "fp32", 3)
    assert found.get(timeout=10).get_response().id == "1"
    assert found.get(timeout=10).message() == "Request for unknown model: 'nope' is not found"
    assert found.get(timeout=10).get_response().id == "3"


def test_decoupled_models_answer_on_streams_only(stream: Any) -> None:
    triton, found = stream
    with pytest.raises(InferenceServerException) as caught:
        triton.infer("decoupled", [tensor(np.zeros(1, np.float32))])
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert caught.value.message() == "ModelInfer RPC doesn't support models with decoupled transaction policy"
    send(triton, "slow", 1)
    send(triton, "decoupled", 2)
    # Not held back by the ordinary request before it.
    assert found.get(timeout=10).get_response().id == "2"
    assert found.get(timeout=10).get_response().id == "1"


def test_errors_end_the_stream_when_asked(shared: Running) -> None:
    found: queue.Queue[Any] = queue.Queue()
    with client.InferenceServerClient(shared.url) as triton:
        triton.start_stream(lambda result, error: found.put(error or result), headers={"triton_grpc_error": "true"})
        send(triton, "fp32", 1)
        send(triton, "nope", 2)
        assert found.get(timeout=10).get_response().id == "1"
        error = found.get(timeout=10)
        assert error.status() == "StatusCode.NOT_FOUND"
        assert error.message() == "Request for unknown model: 'nope' is not found"
        triton.stop_stream()


def test_cancelled_streams_drop_their_requests(tmp_path: Path, express: bool) -> None:
    write_model(tmp_path, "slow", delay_ms=50, more="instance_group { count: 1 kind: KIND_CPU }")
    with serving(tmp_path, express=express) as running, client.InferenceServerClient(running.url) as triton:
        triton.start_stream(lambda result, error: None)
        for _ in range(100):
            send(triton, "slow", 1)
        until(lambda: running.server.statistics("slow")[0]["execution_count"] >= 1, "first execution")
        triton.stop_stream(cancel_requests=True)
        model = running.server.repository.models["slow"].versions[1].loaded.model
        until(lambda: model.in_flight == 0, "nothing in flight")
        assert running.server.statistics("slow")[0]["execution_count"] < 10


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_messages_that_are_worth_compressing_come_compressed(shared: Running, algorithm: str) -> None:
    values = np.zeros(20_000, np.float32)  # gRPC sends as it is what compressing would not make smaller

    async def main() -> None:
        async def requests() -> Any:
            for index in range(3):
                values[0] = index
                yield {"model_name": "fp32", "inputs": [tensor(values, module=aio)]}

        async with aio.InferenceServerClient(shared.url) as triton:
            seen = 0
            async for result, error in triton.stream_infer(requests(), compression_algorithm=algorithm):
                assert error is None
                assert result.as_numpy("OUTPUT0")[0] == seen and result.as_numpy("OUTPUT0").size == values.size
                seen += 1
            assert seen == 3

    asyncio.run(main())


def test_aio_streams(shared: Running) -> None:
    async def main() -> None:
        async def requests() -> Any:
            for index in range(300):
                yield {
                    "model_name": "fp32",
                    "inputs": [tensor(np.full(3, index, np.float32), module=aio)],
                    "request_id": str(index),
                }

        async with aio.InferenceServerClient(shared.url) as triton:
            seen = 0
            async for result, error in triton.stream_infer(requests(), compression_algorithm="gzip"):
                assert error is None
                assert result.as_numpy("OUTPUT0").tolist() == [seen] * 3
                seen += 1
            assert seen == 300

    asyncio.run(main())
