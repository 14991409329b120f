"""Decoupled models over ModelStreamInfer: many responses, none, empty final ones, errors, slow and lost clients."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as client
from grpc_harness import Running, serving, until
from scripted_backend import ScriptedBackend, write_script
from tritonclient.utils import InferenceServerException

Heard = tuple[str, str | None, bool | None]


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
def running(tmp_path: Path, express: bool, backend: ScriptedBackend) -> Iterator[Running]:
    write_script(tmp_path, "d", instances=2)
    write_script(tmp_path, "plain", decoupled=False)
    with serving(tmp_path, express=express, backends=backend) as running:
        yield running


class Stream:
    """A client's stream: (id, text or None for no outputs, whether it said that it is the final one) of each answer."""

    def __init__(self, running: Running) -> None:
        self.found: queue.Queue[Any] = queue.Queue()
        self.triton = client.InferenceServerClient(running.url)
        self.triton.start_stream(lambda result, error: self.found.put((result, error)))

    def send(self, model: str, *lines: str, id: str = "", **more: Any) -> None:
        array = np.array([line.encode() for line in lines], dtype=object)
        tensor = client.InferInput("SCRIPT", array.shape, "BYTES")
        tensor.set_data_from_numpy(array)
        self.triton.async_stream_infer(model, [tensor], request_id=id, **more)

    def next(self, timeout: float = 20) -> Heard:
        result, error = self.found.get(timeout=timeout)
        if error is not None:
            return "", f"error: {error.message()}", None
        response = result.get_response()
        values = result.as_numpy("OUT")
        final = response.parameters["triton_final_response"].bool_param
        return response.id, None if values is None else values[0].decode(), final

    def close(self, *, cancel: bool = False) -> list[Heard]:
        """What else was heard up to the end of the stream."""
        self.triton.stop_stream(cancel_requests=cancel)
        self.triton.close()
        left = []
        while not self.found.empty():
            left.append(self.next())
        return left


@pytest.fixture
def stream(running: Running) -> Stream:
    return Stream(running)


CASES: list[tuple[tuple[str, ...], list[tuple[str | None, bool | None]]]] = [
    (("say a", "say b", "end"), [("a", False), ("b", False)]),
    (("say a", "end b"), [("a", False), ("b", True)]),
    (("end a",), [("a", True)]),
    (("end",), []),
    (("later", "say a", "end b"), [("a", False), ("b", True)]),
    (("say a", "fail no", "say b", "end"), [("a", False), ("error: no", None), ("b", False)]),
    (("raise no",), [("error: RuntimeError: no", None)]),
    (("say a", "raise no"), [("a", False), ("error: RuntimeError: no", None)]),
    (("end a", "raise no"), [("a", True)]),
    (("say a", "drop"), [("a", False), ("error: model 'd' gave up a request without a final response", None)]),
]


@pytest.mark.parametrize(("lines", "expected"), CASES)
def test_responses(stream: Stream, lines: tuple[str, ...], expected: list[tuple[str | None, bool | None]]) -> None:
    stream.send("d", *lines, id="i")
    heard = stream.close()
    assert [(text, final) for _, text, final in heard] == expected
    assert all(id == "i" for id, text, _ in heard if not (text or "").startswith("error"))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [(("end",), [(None, True)]), (("say a", "end"), [("a", False), (None, True)]), (("end a",), [("a", True)])],
)
def test_empty_final_responses_come_when_asked_for(
    stream: Stream, lines: tuple[str, ...], expected: list[tuple[str | None, bool]]
) -> None:
    stream.send("d", *lines, enable_empty_final_response=True)
    assert [(text, final) for _, text, final in stream.close()] == expected


def test_an_ordinary_model_has_one_final_response_whatever_is_asked_for(stream: Stream) -> None:
    stream.send("plain", "end a", enable_empty_final_response=True)
    assert stream.close() == [("", "a", True)]


def test_requests_answer_each_other_out_of_order(stream: Stream, backend: ScriptedBackend) -> None:
    stream.send("d", "hold", "say a", "end b", id="1")
    stream.send("d", "say c", "end d", id="2")
    assert [stream.next(), stream.next()] == [("2", "c", False), ("2", "d", True)]
    backend.gate.set()
    assert [stream.next(), stream.next()] == [("1", "a", False), ("1", "b", True)]
    assert stream.close() == []


def test_other_calls_are_refused(running: Running) -> None:
    array = np.array([b"end"], dtype=object)
    tensor = client.InferInput("SCRIPT", [1], "BYTES")
    tensor.set_data_from_numpy(array)
    with client.InferenceServerClient(running.url) as triton:
        with pytest.raises(InferenceServerException) as caught:
            triton.infer("d", [tensor])
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
        assert caught.value.message() == "ModelInfer RPC doesn't support models with decoupled transaction policy"
        assert triton.get_model_config("d").config.model_transaction_policy.decoupled


def test_a_slow_reader_holds_the_sender_back_and_nobody_else(
    running: Running, backend: ScriptedBackend
) -> None:
    go_on = threading.Event()
    heard: list[str] = []

    def slow(result: Any, error: Any) -> None:
        assert error is None
        go_on.wait(60)
        heard.append(result.get_response().id)

    with client.InferenceServerClient(running.url) as triton:
        triton.start_stream(slow)
        array = np.array([b"flood 5000 20000", b"end"], dtype=object)
        tensor = client.InferInput("SCRIPT", array.shape, "BYTES")
        tensor.set_data_from_numpy(array)
        triton.async_stream_infer("d", [tensor], request_id="flood")
        seen = -1

        def stands() -> bool:
            nonlocal seen
            before, seen = seen, backend.sent
            threading.Event().wait(0.1)
            return backend.waits > 0 and before == backend.sent

        until(stands, "the sender waits")
        assert backend.sent < 5000
        other = Stream(running)
        other.send("d", "end a")
        assert other.close() == [("", "a", True)]
        go_on.set()
        triton.stop_stream()
    assert len(heard) == 5000


def test_fewer_responses_may_wait_where_that_is_configured(
    tmp_path: Path, express: bool, backend: ScriptedBackend
) -> None:
    write_script(tmp_path, "d")
    with serving(tmp_path, express=express, backends=backend, max_waiting=1) as running:
        stream = Stream(running)
        stream.send("d", "flood 300 100", "end a")
        assert [text for _, text, _ in stream.close()][-1] == "a"
        assert backend.waits > 0


def test_a_client_that_goes_cancels(running: Running, backend: ScriptedBackend) -> None:
    stream = Stream(running)
    stream.send("d", "say a", "hold", "flood 1000000 10")
    assert stream.next()[1] == "a"
    stream.close(cancel=True)
    backend.gate.set()
    assert backend.cancelled.wait(20)
    until(lambda: statistics(running)["inference_stats"]["fail"]["count"] == 1, "it is counted")


def statistics(running: Running) -> Any:
    async def ask() -> Any:
        return running.server.statistics("d")[0]

    return running.call(ask())


def test_statistics(running: Running) -> None:
    stream = Stream(running)
    stream.send("d", "say a", "fail no", "end")
    assert len(stream.close()) == 2
    until(lambda: statistics(running)["execution_count"] == 1, "the execution is over")
    with client.InferenceServerClient(running.url) as triton:
        [found] = triton.get_inference_statistics("d").model_stats
    assert (found.inference_count, found.execution_count, found.inference_stats.success.count) == (1, 1, 1)
    counts = {
        number: (entry.success.count, entry.fail.count, entry.empty_response.count, entry.compute_infer.count)
        for number, entry in found.response_stats.items()
    }
    assert counts == {"0": (1, 0, 0, 1), "1": (0, 1, 0, 1), "2": (0, 0, 1, 0)}
    assert found.response_stats["0"].success.ns > 0
