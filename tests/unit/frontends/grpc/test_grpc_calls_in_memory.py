"""Calls without a port are answered as through one: same messages, same statuses; nothing is left of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_harness import Running, serving, write_model
from grpclib.const import Status

from triton_async import protos
from triton_async.frontends.grpc import server as grpc_server
from triton_async.frontends.grpc.calls_in_memory import CallFailed, InMemoryCalls
from triton_async.frontends.grpc.health import Health

SERVICE = "/inference.GRPCInferenceService/"
VALUES = np.float32([1, 2, 3])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root: Path = tmp_path_factory.mktemp("models")
    write_model(root, "m")
    write_model(root, "slow", delay_ms=50)
    write_model(root, "decoupled", more="model_transaction_policy { decoupled: true }")
    with serving(root, "--model-control-mode=explicit", "--load-model=*") as found:
        yield found


@pytest.fixture
def calls(running: Running) -> InMemoryCalls:
    async def make() -> InMemoryCalls:
        return InMemoryCalls(grpc_server.handlers(running.server, Health(running.server), "none", 8))

    return running.call(make())  # type: ignore[no-any-return]


def message(kind: str, **fields: Any) -> Any:
    return protos.message(f"inference.{kind}")(**fields)


def infer(model: str = "m", shape: int = 3) -> Any:
    found = message("ModelInferRequest", model_name=model, id="7")
    found.inputs.add(name="INPUT0", datatype="FP32", shape=[shape])
    found.raw_input_contents.append(VALUES.tobytes())
    return found


UNARY = {
    "ServerLive": message("ServerLiveRequest"),
    "ServerReady": message("ServerReadyRequest"),
    "ServerMetadata": message("ServerMetadataRequest"),
    "ModelReady": message("ModelReadyRequest", name="m"),
    "ModelMetadata": message("ModelMetadataRequest", name="m"),
    "ModelConfig": message("ModelConfigRequest", name="m"),
    "RepositoryIndex": message("RepositoryIndexRequest"),
    "ModelInfer": infer(),
}
FAILING = {
    "no such model": ("ModelInfer", infer("nope")),
    "wrong shape": ("ModelInfer", infer(shape=4)),
    "decoupled": ("ModelInfer", infer("decoupled")),
    "no metadata": ("ModelMetadata", message("ModelMetadataRequest", name="nöpe")),
    "no region": ("SystemSharedMemoryStatus", message("SystemSharedMemoryStatusRequest", name="x")),
}


@pytest.mark.parametrize("rpc", UNARY)
def test_unary_calls_are_answered_as_through_the_port(running: Running, calls: InMemoryCalls, rpc: str) -> None:
    data = UNARY[rpc].SerializeToString()
    with grpc.insecure_channel(running.url) as channel:
        expected = channel.unary_unary(SERVICE + rpc)(data)
    assert running.call(calls.unary(SERVICE + rpc, data)) == expected


@pytest.mark.parametrize("case", FAILING)
def test_failures_have_the_ports_statuses_and_texts(running: Running, calls: InMemoryCalls, case: str) -> None:
    rpc, request = FAILING[case]
    data = request.SerializeToString()
    with grpc.insecure_channel(running.url) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(SERVICE + rpc)(data)
    with pytest.raises(CallFailed) as failed:
        running.call(calls.unary(SERVICE + rpc, data))
    code, text = refused.value.code(), refused.value.details()
    assert (failed.value.status.name, failed.value.message) == (code.name, text)


def test_bytes_that_are_no_message_are_refused(running: Running, calls: InMemoryCalls) -> None:
    for rpc in ("ModelInfer", "ModelMetadata"):
        with pytest.raises(CallFailed) as failed:
            running.call(calls.unary(SERVICE + rpc, b"\xff\xff\xff"))
        assert failed.value.status in (Status.INTERNAL, Status.INVALID_ARGUMENT)


def test_an_unknown_method_is_unimplemented(running: Running, calls: InMemoryCalls) -> None:
    with pytest.raises(CallFailed) as failed:
        running.call(calls.unary(SERVICE + "Nope", b""))
    assert failed.value.status is Status.UNIMPLEMENTED


async def _requests(*models: str) -> AsyncIterator[bytes]:
    for model in models:
        yield infer(model).SerializeToString()


def test_streams_answer_each_request_and_end(running: Running, calls: InMemoryCalls) -> None:
    async def main() -> list[str]:  # answers of several models in any order
        found = []
        async for data in calls.stream(SERVICE + "ModelStreamInfer", _requests("m", "nope", "decoupled", "m")):
            answer = message("ModelStreamInferResponse")
            answer.ParseFromString(data)
            found.append(answer.error_message or answer.infer_response.model_name)
        return found

    assert sorted(running.call(main())) == ["Request for unknown model: 'nope' is not found", "decoupled", "m", "m"]


def test_metadata_reaches_the_gate(running: Running) -> None:
    from triton_async.frontends.gate import Gate

    async def make() -> InMemoryCalls:
        gate = Gate({"inference": ("key", "secret")}, None, frozenset())
        return InMemoryCalls(grpc_server.handlers(running.server, Health(running.server), "none", 8, gate=gate))

    calls, data = running.call(make()), infer().SerializeToString()
    with pytest.raises(CallFailed) as failed:
        running.call(calls.unary(SERVICE + "ModelInfer", data))
    assert failed.value.status is Status.UNAVAILABLE
    assert running.call(calls.unary(SERVICE + "ModelInfer", data, [("key", "secret")]))


def test_a_client_that_leaves_cancels_its_call(running: Running, calls: InMemoryCalls) -> None:
    async def main() -> None:
        data = infer("slow").SerializeToString()
        first = asyncio.ensure_future(calls.unary(SERVICE + "ModelInfer", data))
        second = asyncio.ensure_future(calls.unary(SERVICE + "ModelInfer", data))
        await asyncio.sleep(0.01)
        second.cancel()
        await first
        stream = calls.stream(SERVICE + "ModelStreamInfer", _requests("slow", "slow", "slow"))
        assert await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        await calls.drain()

    (before,) = running.server.statistics("slow")
    running.call(main())
    (after,) = running.server.statistics("slow")
    # The first, one of the stream, and the one that ran when it was left.
    assert after["inference_count"] - before["inference_count"] <= 3


def test_drain_ends_streams_whose_client_would_go_on(running: Running, calls: InMemoryCalls) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield infer().SerializeToString()
        await asyncio.Event().wait()

    async def main() -> None:
        stream = calls.stream(SERVICE + "ModelStreamInfer", endless())
        assert await anext(stream)
        draining = asyncio.ensure_future(calls.drain())
        with pytest.raises(CallFailed) as failed:
            await anext(stream)
        assert failed.value.status is Status.UNAVAILABLE
        await draining

    running.call(main())
