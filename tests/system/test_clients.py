"""tritonclient in all its flavours: sync, async_infer, asyncio, streaming, compressed, concurrent."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from server_process import ServerProcess
from triton_clients import (
    PROTOCOLS,
    add_sub_rows,
    assert_add_sub,
    client_module,
    infer,
    make_inputs,
)
from tritonclient.utils import InferenceServerException

# A client that hears nothing for this long has been forgotten.
ANSWER_SECONDS = 60


def ready(client: Any, model: str, version: str) -> bool:
    """Whether the version is ready; over gRPC newer servers answer an error for what they do not know."""
    try:
        return bool(client.is_model_ready(model, version))
    except InferenceServerException as error:
        assert "Request for unknown model" in error.message()
        return False


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_health_and_metadata(server: ServerProcess, protocol: str) -> None:
    options: dict[str, Any] = {"as_json": True} if protocol == "grpc" else {}
    with client_module(protocol).InferenceServerClient(server.url(protocol)) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("simple")
        assert client.is_model_ready("simple", "1")
        assert not ready(client, "simple", "2")
        assert not ready(client, "absent", "")
        assert "classification" in client.get_server_metadata(**options)["extensions"]
        metadata = client.get_model_metadata("simple", **options)
    assert metadata["versions"] == ["1"]
    assert metadata["platform"] == "onnxruntime_onnx"
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["INPUT0", "INPUT1"]
    assert [int(dim) for dim in metadata["outputs"][0]["shape"]] == [-1, 16]


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("rows", [1, 8])
def test_http_sync(server: ServerProcess, compression: str | None, rows: int) -> None:
    module = client_module("http")
    arrays, expected = add_sub_rows(3, rows)
    with module.InferenceServerClient(server.http_url) as client:
        result = client.infer(
            "simple",
            make_inputs(module, arrays),
            request_id="sync",
            request_compression_algorithm=compression,
            response_compression_algorithm=compression,
        )
    assert_add_sub(result, expected)
    assert result.get_response()["id"] == "sync"


@pytest.mark.parametrize("binary", [(True, False), (False, True), (False, False)])
def test_http_json_and_binary_tensors_mix(server: ServerProcess, binary: tuple[bool, bool]) -> None:
    module = client_module("http")
    arrays, expected = add_sub_rows(4, 2)
    inputs = []
    for (name, array), as_binary in zip(arrays.items(), binary, strict=True):
        inputs.append(module.InferInput(name, list(array.shape), "INT32"))
        inputs[-1].set_data_from_numpy(array, binary_data=as_binary)
    wanted = [
        module.InferRequestedOutput("OUTPUT0", binary_data=binary[1]),
        module.InferRequestedOutput("OUTPUT1", binary_data=binary[0]),
    ]
    with module.InferenceServerClient(server.http_url) as client:
        assert_add_sub(client.infer("simple", inputs, outputs=wanted), expected)


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_grpc_sync(server: ServerProcess, compression: str | None) -> None:
    module = client_module("grpc")
    arrays, expected = add_sub_rows(5, 4)
    with module.InferenceServerClient(server.grpc_url) as client:
        result = client.infer(
            "simple", make_inputs(module, arrays), request_id="sync", compression_algorithm=compression
        )
    assert_add_sub(result, expected)
    assert result.get_response().id == "sync"


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_large_tensors(server: ServerProcess, protocol: str, compression: str | None) -> None:
    # More than gRPC's default message size and HTTP/2's default windows.
    values = np.random.default_rng(2).random((2, 1_500_000), dtype=np.float32)
    options: dict[str, Any] = {}
    if compression:
        name = "request_compression_algorithm" if protocol == "http" else "compression_algorithm"
        options[name] = compression
    (answer,) = infer(server, protocol, "identity_fp32", {"INPUT0": values}, ["OUTPUT0"], **options)
    assert np.array_equal(answer, values)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_requested_output_only(server: ServerProcess, protocol: str) -> None:
    module = client_module(protocol)
    arrays, expected = add_sub_rows(6)
    wanted = [module.InferRequestedOutput("OUTPUT1")]
    with module.InferenceServerClient(server.url(protocol)) as client:
        result = client.infer("simple", make_inputs(module, arrays), outputs=wanted)
    assert result.as_numpy("OUTPUT0") is None
    assert np.array_equal(result.as_numpy("OUTPUT1"), expected[1])


def test_http_async_infer(server: ServerProcess) -> None:
    module = client_module("http")
    with module.InferenceServerClient(server.http_url, concurrency=8) as client:
        pending = []
        for number in range(40):
            arrays, expected = add_sub_rows(number, 1 + number % 8)
            pending.append((client.async_infer("simple", make_inputs(module, arrays)), expected))
        for request, expected in pending:
            assert_add_sub(request.get_result(), expected)


def test_grpc_async_infer(server: ServerProcess) -> None:
    module = client_module("grpc")
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    expected = {}
    with module.InferenceServerClient(server.grpc_url) as client:
        for number in range(40):
            arrays, expected[str(number)] = add_sub_rows(number, 1 + number % 8)
            client.async_infer(
                "simple",
                make_inputs(module, arrays),
                callback=lambda result, error: answers.put((result, error)),
                request_id=str(number),
            )
        while expected:
            result, error = answers.get(timeout=ANSWER_SECONDS)
            assert error is None
            assert_add_sub(result, expected.pop(result.get_response().id))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_asyncio(server: ServerProcess, protocol: str) -> None:
    module = client_module(protocol, ".aio")

    async def ask(client: Any, number: int) -> None:
        arrays, expected = add_sub_rows(number, 1 + number % 8)
        assert_add_sub(await client.infer("simple", make_inputs(module, arrays)), expected)

    async def main() -> None:
        async with module.InferenceServerClient(server.url(protocol)) as client:
            assert await client.is_model_ready("simple")
            await asyncio.gather(*(ask(client, number) for number in range(40)))

    asyncio.run(main())


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_grpc_stream(server: ServerProcess, compression: str | None) -> None:
    module = client_module("grpc")
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    expected = {}
    with module.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(
            callback=lambda result, error: answers.put((result, error)), compression_algorithm=compression
        )
        for number in range(40):
            arrays, expected[str(number)] = add_sub_rows(number)
            client.async_stream_infer("simple", make_inputs(module, arrays), request_id=str(number))
        while expected:
            result, error = answers.get(timeout=ANSWER_SECONDS)
            assert error is None
            assert_add_sub(result, expected.pop(result.get_response().id))
        client.stop_stream()


def test_error_on_a_stream_leaves_the_stream_open(server: ServerProcess) -> None:
    module = client_module("grpc")
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    arrays, expected = add_sub_rows(7)
    with module.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        client.async_stream_infer("absent", make_inputs(module, arrays), request_id="wrong")
        result, error = answers.get(timeout=ANSWER_SECONDS)
        assert "unknown model" in str(error)
        client.async_stream_infer("simple", make_inputs(module, arrays), request_id="right")
        result, error = answers.get(timeout=ANSWER_SECONDS)
        assert error is None
        assert_add_sub(result, expected)
        client.stop_stream()


def test_asyncio_stream(server: ServerProcess) -> None:
    module = client_module("grpc", ".aio")
    cases = {str(number): add_sub_rows(number) for number in range(20)}

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for name, (arrays, _) in cases.items():
            yield {"model_name": "simple", "inputs": make_inputs(module, arrays), "request_id": name}

    async def main() -> None:
        seen = set()
        async with module.InferenceServerClient(server.grpc_url) as client:
            async for result, error in client.stream_infer(requests()):
                assert error is None
                name = result.get_response().id
                assert_add_sub(result, cases[name][1])
                seen.add(name)
        assert seen == set(cases)

    asyncio.run(main())


def test_mixed_shapes_from_many_clients(server: ServerProcess) -> None:
    """Eight threads, both protocols: rows of different lengths must never be mixed up in a batch."""

    def work(worker: int) -> None:
        protocol = PROTOCOLS[worker % 2]
        module = client_module(protocol)
        with module.InferenceServerClient(server.url(protocol)) as client:
            for turn in range(25):
                shape = (1 + turn % 4, [3, 16, 1000][(turn + worker) % 3])
                values = np.full(shape, worker * 100 + turn, dtype=np.float32)
                values[:, 0] += 0.5
                result = client.infer("identity_fp32", make_inputs(module, {"INPUT0": values}))
                assert np.array_equal(result.as_numpy("OUTPUT0"), values)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
