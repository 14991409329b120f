"""What goes wrong in the server itself: every call ends with INTERNAL and no word of what it was, and others go on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_harness import Running, serving, write_model
from tritonclient.grpc import service_pb2

from triton_async.frontends.grpc import server as grpc_server

SECRET = "secret at /srv/models, 0x7f00dead"
PREFIX = "/inference.GRPCInferenceService/"


async def fail(*_: Any) -> None:
    raise RuntimeError(SECRET)


def ask(channel: grpc.Channel, path: str, *requests: bytes) -> tuple[grpc.StatusCode, str, list[bytes]]:
    """What a call ends with, and what came before that."""
    rpc = channel.stream_stream(path, request_serializer=bytes, response_deserializer=bytes)
    answers: list[bytes] = []
    try:
        answers += rpc(iter(requests), timeout=30)
    except grpc.RpcError as error:
        return error.code(), error.details() or "", answers
    return grpc.StatusCode.OK, "", answers


def request(model: str, **more: Any) -> bytes:
    made = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[b"\0\0\x80\x3f"], **more)
    made.inputs.add(name="INPUT0", datatype="FP32", shape=[1])
    return bytes(made.SerializeToString())


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Running, grpc.Channel, list[str]]]:
    """A server all of whose handlers fail."""
    write_model(tmp_path, "m")
    known: list[str] = []
    made = grpc_server.handlers

    def handlers(*arguments: Any, **more: Any) -> Any:
        found = {path: handler._replace(func=fail) for path, handler in made(*arguments, **more).items()}
        known[:] = found
        return found

    monkeypatch.setattr(grpc_server, "handlers", handlers)
    with serving(tmp_path) as running, grpc.insecure_channel(running.url) as channel:
        yield running, channel, known


def test_an_exception_in_a_handler_is_an_answer(
    served: tuple[Running, grpc.Channel, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    _, channel, known = served
    assert len(known) > 20
    # The express lane has no handlers, unless it is asked for what it leaves to them.
    express = (f"{PREFIX}ModelInfer", f"{PREFIX}ModelStreamInfer")
    with caplog.at_level(logging.ERROR):
        for path in known:
            if path not in express:
                assert ask(channel, path, b"") == (grpc.StatusCode.INTERNAL, "Internal server error", []), path
        assert sum(record.exc_info is not None for record in caplog.records) == len(known) - len(express)
    code, _, answers = ask(channel, express[0], request("m"))
    assert code is grpc.StatusCode.OK and len(answers) == 1


def test_so_is_one_beside_the_handlers(
    served: tuple[Running, grpc.Channel, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    running, channel, _ = served

    def explain(name: str, version: int) -> Exception:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(running.server.repository, "explain", explain)
    for _ in range(3):
        assert ask(channel, f"{PREFIX}ModelInfer", request("nobody")) == (
            grpc.StatusCode.INTERNAL, "Internal server error", [],
        )  # fmt: skip
        code, _, answers = ask(channel, f"{PREFIX}ModelInfer", request("m"))
        assert code is grpc.StatusCode.OK and len(answers) == 1
    # A stream ends, and its connection goes on.
    code, text, _ = ask(channel, f"{PREFIX}ModelStreamInfer", request("m", id="a"), request("nobody", id="b"))
    assert (code, text) == (grpc.StatusCode.INTERNAL, "Internal server error")
    code, text, answers = ask(channel, f"{PREFIX}ModelStreamInfer", request("m", id="c"))
    (found,) = map(service_pb2.ModelStreamInferResponse.FromString, answers)
    assert (code, found.error_message, found.infer_response.id) == (grpc.StatusCode.OK, "", "c")
