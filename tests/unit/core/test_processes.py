"""Both ends of a front-end's lane in one process: requests and answers cross it, nonsense ends its author alone."""

from __future__ import annotations

import asyncio
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lane_pair import NBYTES, Pair, request, run, until

from triton_async.errors import InvalidArg, NotFound, ServerError, Unsupported
from triton_async.infer.request import InferRequest
from triton_async.infer.response import ResponseSink
from triton_async.processes import defines
from triton_async.processes.calls import decoded, encoded


class Heard(ResponseSink):
    """Notes what comes."""

    def __init__(self) -> None:
        self.responses: list[Any] = []
        self.n_released = 0

    def on_response(self, response: Any) -> None:
        self.responses.append(response)

    def on_released(self, request: Any) -> None:
        self.n_released += 1

    def over(self) -> bool:
        return bool(self.responses) and self.n_released > 0


@pytest.mark.parametrize("count", [1, 1024, 1025, 100_000])
def test_tensors_come_back_whatever_their_size(tmp_path: Path, count: int) -> None:
    async def scenario(both: Pair) -> None:
        sent = np.arange(count, dtype=np.float32).reshape(1, -1)
        body = both.pool.acquire(sent.nbytes)  # as a front-end receives it
        memoryview(body)[:] = sent.tobytes()
        for source in (sent, np.frombuffer(body, np.float32).reshape(1, -1)):
            response = await both.remote.infer(request(source, id="\ud800x", parameters={"a": 2.5, "b": True}))
            assert response.outputs[0].numpy().tolist() == sent.tolist()
            assert response.request.id == "\ud800x"
            del response
        del source, body
        await asyncio.sleep(0.02)
        assert both.model_process.in_flight == both.front_end.in_flight == 0
        assert both.model_process.n_lent == both.front_end.n_lent == 0
        assert not both.problems

    run(tmp_path, scenario)


def test_who_hears_that_it_is_to_begin_speaks_from_then_on(tmp_path: Path) -> None:
    async def scenario(both: Pair) -> None:
        begun = asyncio.Event()

        def begin() -> None:
            both.when_told = None
            both.model_process.tell(encoded({"pid": 1}))
            both.model_process.share(both.reactor.turn)
            begun.set()

        both.when_told = begin
        both.publish()
        async with asyncio.timeout(20):
            await begun.wait()
            sent = np.arange(4, dtype=np.float32).reshape(1, -1)
            response = await both.remote.infer(request(sent))
        assert response.outputs[0].numpy().tolist() == sent.tolist()

    run(tmp_path, scenario)


def test_what_refuses_a_request_is_what_the_server_says(tmp_path: Path) -> None:
    async def scenario(both: Pair) -> None:
        with pytest.raises(InvalidArg, match="data-type is 'INT32'"):
            await both.remote.infer(request(np.ones((1, 1), np.int32)))
        with pytest.raises(NotFound, match="unknown model: 'other' is not found"):
            await both.remote.infer(InferRequest("other"))
        heard = Heard()
        both.remote.submit(request(np.ones((9, 1), np.float32)), heard)
        await until(lambda: heard.n_released)
        assert [(one.refused, one.final) for one in heard.responses] == [(True, True)]

    run(tmp_path, scenario)


def test_what_has_no_room_on_the_ring_waits_and_comes_in_order(tmp_path: Path) -> None:
    async def scenario(both: Pair) -> None:
        heard = Heard()
        array = np.zeros((1, 500), np.float32)
        for number in range(3000):
            both.remote.submit(request(array, id=str(number)), heard)
        assert both.model_process.waiting > 0
        await until(lambda: not (heard.n_released < 3000))
        assert [one.request.id for one in heard.responses] == [str(number) for number in range(3000)]
        assert both.model_process.waiting == both.front_end.waiting == 0
        heard.responses.clear()

    run(tmp_path, scenario)


def test_calls_cross_with_whatever_they_bring(tmp_path: Path) -> None:
    async def scenario(both: Pair) -> None:
        assert await both.remote.model_is_ready("numbers")
        with pytest.raises(ServerError, match="explicit model load / unload is not allowed"):
            await both.remote.load_model("numbers", {"file:1/model": bytes(300_000), "config": "{}"})
        with pytest.raises(Unsupported):
            await both.remote.register_system_region("a", "/a", 0, 4)
        assert len(await both.remote.metrics_parts()) >= 1
        await asyncio.sleep(0.02)
        assert both.model_process.n_lent == both.front_end.n_lent == 0

    run(tmp_path, scenario)


def test_requests_of_a_front_end_that_ends_are_cancelled(tmp_path: Path) -> None:
    async def scenario(both: Pair) -> None:
        heard = Heard()
        for _ in range(20):
            both.remote.submit(request(np.ones((1, 5000), np.float32)), heard)
        await asyncio.sleep(0)
        both.model_process.close()
        await until(lambda: both.front_end.closed)
        assert both.problems == [("front-end", None)]
        assert both.front_end.in_flight == 0

    run(tmp_path, scenario)


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def asked(number: int, model: int, form: bytes, *rest: bytes, how: int = 0, form_nbytes: int | None = None) -> bytes:
    """A request to a model, of a form but for its model, version, priority and timeout."""
    form = struct.pack("<QqQQ", model, -1, 0, 0) + form
    nbytes = len(form) if form_nbytes is None else form_nbytes
    head = struct.pack("<BBIQqqQQi", 1, how, nbytes, number, 0, 0, 0, 0, 0)
    return head + form + b"".join(rest)


EMPTY = struct.pack("<BHH", 0, 0, 0)
NO_ID = struct.pack("<I", 0)
NONSENSE = {
    "no kind": b"\xff", "a kind of the other side": b"\x02" + u64(1), "cut request": asked(99, 0, EMPTY)[:40],
    "request for no model": asked(99, 0, EMPTY, NO_ID),
    "form of no length": asked(99, 0, EMPTY, NO_ID, form_nbytes=0),
    "form of another length": asked(99, 0, EMPTY, NO_ID, form_nbytes=1 << 31),
    "free": b"\x0a\x01\0\0\0" + u64(7),
    "spilled outside": b"\x0b" + u64(1, NBYTES - 8, 64), "spilled nowhere": b"\x0b" + u64(1, 2**63, 8),
    "spilled nothing": b"\x0b" + u64(1, 0, 0), "call": b"\x07" + u64(1) + encoded(["close", []]),
    "call of no list": b"\x07" + u64(1) + b"{}", "not JSON": b"\x09{", "news of no dict": b"\x09[]",
}  # fmt: skip


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_of_a_front_end_ends_it_alone(tmp_path: Path, what: str) -> None:
    async def scenario(both: Pair) -> None:
        both.say("front-end", NONSENSE[what])
        await until(lambda: both.front_end.closed)
        assert both.problems[0][0] == "front-end"
        assert both.problems[0][1]
        assert (await both.server.infer(request(np.ones((1, 1), np.float32)))).error is None

    run(tmp_path, scenario)


@pytest.mark.parametrize("message", [
    b"\xff", asked(99, 0, EMPTY, NO_ID), b"\x02" + u64(5) + b"\x01" + u64(0, 1), b"\x03" + u64(5),
    b"\x0a\x01\0\0\0" + u64(7), b"\x0b" + u64(1, 2**40, 64), b"\x09{",
])  # fmt: skip
def test_nonsense_of_the_model_process_ends_it_for_the_front_end(tmp_path: Path, message: bytes) -> None:
    async def scenario(both: Pair) -> None:
        both.say("model process", message)
        await until(lambda: both.model_process.closed)
        assert both.problems[0][0] == "model process"
        assert both.problems[0][1]

    run(tmp_path, scenario)


@pytest.mark.parametrize("tail", [2 * defines.RING_NBYTES, 2**64 - 64])
def test_a_position_that_can_not_be_is_nonsense(tmp_path: Path, tail: int) -> None:
    async def scenario(both: Pair) -> None:
        both.write("front-end", b"", tail)
        await until(lambda: both.front_end.closed)
        assert both.problems[0] == ("front-end", "has written to its ring what is no message")

    run(tmp_path, scenario)


def test_whatever_a_front_end_writes_the_server_goes_on(tmp_path: Path) -> None:
    """Broken copies of real messages, which reach further than noise."""

    async def scenario(both: Pair) -> None:
        chance = random.Random(7)
        model = next(iter(both.front_end.known()))
        text = struct.pack("<I", 1) + b"i"
        form = struct.pack("<BHHHBBB", 0, 0, 1, 0, 11, 2, 0) + struct.pack("<Qqq", 8, 1, 2)
        real = [
            asked(1 << 40, model, form, text, bytes(8)),
            b"\x04" + u64(3), b"\x05" + u64(3) + struct.pack("<I", 1), b"\x06" + u64(9) + b"\1",
            b"\x0a" + struct.pack("<I", 2) + u64(1, 2), b"\x0b" + u64(1, 4096, 64),
        ]  # fmt: skip
        for _ in range(300):
            message = bytearray(chance.choice(real))
            for _ in range(chance.randint(0, 3)):
                message[chance.randrange(len(message))] = chance.choice((0, 1, 255, chance.randrange(256)))
            both.say("front-end", bytes(message[: chance.randint(1, len(message))]))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if both.front_end.closed:
                both.close()
                both = Pair(both.server, tmp_path)
                both.publish()
                model = next(iter(both.front_end.known()))
        assert (await both.server.infer(request(np.ones((1, 1), np.float32)))).error is None
        both.close()

    run(tmp_path, scenario)


@pytest.mark.parametrize("value", [
    None, True, 1, 2.5, "\u00e4", b"\0\xff", [], {}, {"b": b"x", "d": {"b": [1, {"d": None}]}, 3: ()}
])  # fmt: skip
def test_what_is_told_is_the_same_on_the_other_side(value: Any) -> None:
    def lists(of: Any) -> Any:
        if isinstance(of, (list, tuple)):
            return [lists(one) for one in of]
        return {key: lists(one) for key, one in of.items()} if isinstance(of, dict) else of

    assert decoded(encoded(value)) == lists(value)
