"""What takes long of one gRPC call is for another thread: others are answered, its own order is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc_harness import Running, serving, until, write_model
from raw_http2 import INFER, RawClient, message

from triton_async import defines, protos
from triton_async.protocol.grpc_codec import is_long_message

SERVICE = "/inference.GRPCInferenceService/"
STREAM = SERVICE + "ModelStreamInfer"
OK, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INVALID_ARGUMENT = 0, 4, 8, 3
LONG = defines.JSON_OFFLOAD_NBYTES // 2
STRINGS = defines.STRINGS_OFFLOAD_ELEMENTS + 1


def infer(model: str, datatype: str, count: int, **more: Any) -> Any:
    request = protos.message("inference.ModelInferRequest")(model_name=model, **more)
    request.inputs.add(name="INPUT0", datatype=datatype, shape=[count])
    return request


def small(id: str = "") -> bytes:
    return message(infer("fp32", "FP32", 1, id=id, raw_input_contents=[bytes(4)]).SerializeToString())


def typed(id: str = "", model: str = "fp32") -> bytes:
    request = infer(model, "FP32", LONG, id=id)
    request.inputs[0].contents.fp32_contents.extend([1.5] * LONG)
    return message(request.SerializeToString())


def strings(id: str = "") -> bytes:
    raw = b"\0\0\0\0" * STRINGS
    return message(infer("strings", "BYTES", STRINGS, id=id, raw_input_contents=[raw]).SerializeToString())


def classes(id: str = "", model: str = "fp32") -> bytes:
    count = defines.JSON_OFFLOAD_ELEMENTS + 1
    request = infer(model, "FP32", count, id=id, raw_input_contents=[np.arange(count, dtype=np.float32).tobytes()])
    request.outputs.add(name="OUTPUT0").parameters["classification"].int64_param = 2
    return message(request.SerializeToString())


LONG_ONES: dict[str, Callable[..., bytes]] = {"typed contents": typed, "strings": strings, "classes": classes}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    write_model(tmp_path, "fp32")
    write_model(tmp_path, "strings", datatype="TYPE_STRING")
    write_model(tmp_path, "decoupled", more="model_transaction_policy { decoupled: true }")
    with serving(tmp_path) as running:
        yield running


@contextmanager
def busy_thread(server: Running) -> Iterator[Callable[[], None]]:
    """Nothing is done on other threads until what is yielded is called."""
    free = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(free.wait, 20)
        server.loop.call_soon_threadsafe(server.loop.set_default_executor, executor)
        try:
            yield free.set
        finally:
            free.set()


@pytest.mark.parametrize("kind", LONG_ONES)
def test_others_are_answered_meanwhile(server: Running, kind: str) -> None:
    with busy_thread(server) as go, RawClient(server.url) as greedy, RawClient(server.url) as light:
        call = greedy.begin(INFER)
        greedy.send(call, LONG_ONES[kind]())
        for _ in range(3):
            assert light.call(INFER, small()).status == OK
        # Of the same connection too.
        assert greedy.call(INFER, small()).status == OK
        go()
        assert greedy.receive(call).status == OK


@pytest.mark.parametrize("kind", LONG_ONES)
def test_a_stream_keeps_its_order(server: Running, kind: str) -> None:
    with busy_thread(server) as go, RawClient(server.url) as client, RawClient(server.url) as light:
        call = client.begin(STREAM)
        client.send(call, small("0") + LONG_ONES[kind]("1") + small("2") + LONG_ONES[kind]("3") + small("4"))
        assert light.call(INFER, small()).status == OK
        go()
        answer = client.receive(call)
        assert answer.status == OK
        assert ids(answer.data) == ["0", "1", "2", "3", "4"]


def ids(data: bytes) -> list[str]:
    found = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        response = protos.message("inference.ModelStreamInferResponse").FromString(data[5 : 5 + size])
        assert not response.error_message
        found.append(response.infer_response.id)
        data = data[5 + size :]
    return found


@pytest.mark.parametrize("path", [INFER, STREAM])
@pytest.mark.parametrize("kind", LONG_ONES)
def test_a_client_that_leaves_meanwhile_costs_nothing(server: Running, kind: str, path: str) -> None:
    """`serving` sees that nothing stays."""
    with busy_thread(server) as go:
        with RawClient(server.url) as client:
            client.send(client.begin(path), LONG_ONES[kind](), end=path == INFER)
            time.sleep(0.1)
        until(lambda: not server.endpoint.connected, "the client is gone")
        go()
    with RawClient(server.url) as other:
        assert other.call(INFER, small()).status == OK


def test_a_deadline_that_comes_meanwhile(server: Running) -> None:
    with busy_thread(server) as go, RawClient(server.url) as client:
        assert client.call(INFER, typed(), grpc_timeout="200m").status == DEADLINE_EXCEEDED
        go()
        assert client.call(INFER, typed()).status == OK


def test_what_is_long_is_not_raw_contents() -> None:
    count = defines.JSON_OFFLOAD_NBYTES // 4
    raw = infer("m", "FP32", 100 * count, raw_input_contents=[bytes(400 * count)]).SerializeToString()
    assert not is_long_message(raw)
    assert not is_long_message(raw + b"\x3a\x00" * (count // 2))
    assert is_long_message(raw + b"\x3a\x00" * 2 * count + b"\x08\x01")
    request = infer("m", "FP32", count)
    request.inputs[0].contents.fp32_contents.extend([1.0] * (count - 50))
    assert not is_long_message(request.SerializeToString())
    request.inputs[0].contents.fp32_contents.extend([1.0] * 50)
    assert is_long_message(request.SerializeToString())


@pytest.mark.parametrize("path", [INFER, STREAM])
def test_requests_beyond_the_memory_for_them_are_refused_at_once(tmp_path: Path, path: str) -> None:
    write_model(tmp_path, "fp32", delay_ms=300)
    with serving(tmp_path) as server:
        # Two may be in flight when a third one comes.
        server.server.max_held_nbytes = 2 * (defines.REQUEST_NBYTES + 4)
        with RawClient(server.url) as client:
            calls = [client.begin(path) for _ in range(4)]
            for call in calls:
                client.send(call, small())
            refused = client.receive(calls[3])
            text = refused.headers.get("grpc-message")
            if path == STREAM:
                text = protos.message("inference.ModelStreamInferResponse").FromString(refused.data[5:]).error_message
            assert text == "too many bytes of requests are in flight, try again later"
            assert refused.status == (RESOURCE_EXHAUSTED if path == INFER else OK)
        with RawClient(server.url) as client:
            until(lambda: client.call(INFER, small()).status == OK, "there is room again")


def test_what_is_decoded_elsewhere_counts_as_in_flight(server: Running) -> None:
    server.server.max_held_nbytes = len(typed())
    with busy_thread(server) as go, RawClient(server.url) as client:
        calls = [client.begin(INFER) for _ in range(3)]
        for call in calls:
            client.send(call, typed())
        assert client.receive(calls[2]).status == RESOURCE_EXHAUSTED
        server.server.max_held_nbytes = 1 << 30
        go()
        assert client.receive(calls[0]).status == OK


@pytest.mark.parametrize("rpc", ["ModelConfig", "RepositoryIndex", "SystemSharedMemoryStatus"])
def test_control_calls_have_a_bound_of_bytes(server: Running, rpc: str) -> None:
    with RawClient(server.url) as client:
        # Field 1 as a string; of the model name's RPC that is the name, which is then unknown.
        def ask(nbytes: int) -> Any:
            body = b"\x0a" + varint(nbytes - 4) + b"x" * (nbytes - 4)
            assert len(body) == nbytes
            return client.call(SERVICE + rpc, message(body))

        largest = ask(defines.CONTROL_MAX_NBYTES)
        assert largest.status != RESOURCE_EXHAUSTED
        refused = ask(defines.CONTROL_MAX_NBYTES + 1)
        assert refused.status == RESOURCE_EXHAUSTED
        assert "Received message larger than max" in refused.headers["grpc-message"]


def varint(number: int) -> bytes:
    found = b""
    while number >= 128:
        found += bytes([number % 128 + 128])
        number //= 128
    return found + bytes([number])


def test_control_calls_have_a_bound_of_fields(server: Running) -> None:
    def parameters(count: int) -> bytes:
        request = protos.message("inference.RepositoryModelUnloadRequest")(model_name="nope")
        for number in range(count - 1):
            request.parameters[f"a parameter {number}"].string_param = "x"
        return message(request.SerializeToString())

    def levels(count: int) -> bytes:
        request = protos.message("inference.TraceSettingRequest")()
        request.settings["trace_rate"].value.extend(["a value"] * (count - 3))
        return message(request.SerializeToString())

    most = defines.JSON_MAX_CONTROL_VALUES
    with RawClient(server.url) as client:
        for rpc, make in (("RepositoryModelUnload", parameters), ("TraceSetting", levels)):
            assert len(make(most)) > defines.NOGIL_NBYTES
            good, bad = (client.call(SERVICE + rpc, make(count)) for count in (most, most + 1))
            assert "fields" not in good.headers["grpc-message"]
            assert bad.status == INVALID_ARGUMENT
            assert bad.headers["grpc-message"] == f"the request has more than {most} fields"
