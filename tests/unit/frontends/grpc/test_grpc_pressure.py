"""What waits on a stream is bounded: requests that are not read, and answers of any kind that do not leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from compiled import load
from gated_backend import GatedBackend
from grpc_harness import Running, serving, write_model
from grpc_wire import STREAM, Wire
from raw_http2 import message

from triton_async import defines, protos
from triton_async.datatypes import from_name
from triton_async.frontends.grpc import infer
from triton_async.infer.tensor import Tensor, make

driver = load("grpc_streams")

SLOTS = defines.GRPC_MAX_STREAM_REQUESTS
BLOCK = defines.GRPC_BACKLOG_BLOCK_NBYTES
WINDOW = defines.GRPC_STREAM_WINDOW_NBYTES
UNAVAILABLE = "14"
TURNS = 5000


@pytest.fixture(scope="module")
def backend() -> GatedBackend:
    return GatedBackend()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, backend: GatedBackend) -> Iterator[Running]:
    """`many` is decoupled."""
    root: Path = tmp_path_factory.mktemp("pressure")
    write_model(root, "fp32")
    write_model(root, "many", more="model_transaction_policy { decoupled: true }")
    with serving(root, backends=backend) as running:
        yield running


def body(id: str, model: str = "fp32", nbytes: int = 64) -> bytes:
    request = protos.message("inference.ModelInferRequest")(model_name=model, id=id, raw_input_contents=[bytes(nbytes)])
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[nbytes // 4])
    return message(request.SerializeToString())


def ids(data: bytes | bytearray) -> list[str]:
    """Of the responses in a stream's answer."""
    response = protos.message("inference.ModelStreamInferResponse")
    found = []
    at = 0
    while at < len(data):
        end = at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")
        found.append(response.FromString(bytes(data[at + 5 : end])).infer_response.id)
        at = end
    return found


async def until(condition: Callable[[], Any]) -> None:
    """In turns of the loop, not in time."""
    for _ in range(TURNS):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("not reached")


async def turns() -> None:
    """Whatever was put on the loop's list has been done."""
    for _ in range(20):
        await asyncio.sleep(0)


class Stream:
    """One stream on a connection of its own. `lane`: "express", or "slow" for the one that service handlers answer."""

    def __init__(self, server: Running, lane: str, window: int = 1 << 28) -> None:
        self.wire = Wire(server.endpoint.lane, window)
        # A message that is not compressed is allowed where they may be.
        self.id = self.wire.begin(STREAM, **({"grpc_encoding": "gzip"} if lane == "slow" else {}))
        self.wire.flush()

    @property
    def requests(self) -> Any:
        """Its StreamRequests; None before there are any, and when the call is over."""
        found = driver.streams(self.wire.protocol)
        if found:
            return driver.requests_of(found[0])
        return Recorded.made[-1] if Recorded.made else None

    def send(self, data: bytes) -> None:
        size = 1 << 16
        for at in range(0, len(data), size):
            self.wire.h2.send_data(self.id, data[at : at + size])
        self.wire.flush()

    def end(self) -> None:
        self.wire.h2.end_stream(self.id)
        self.wire.flush()

    @property
    def room(self) -> int:
        """Bytes that the client may send."""
        return int(self.wire.h2.local_flow_control_window(self.id))

    def let(self, nbytes: int) -> None:
        """Lets the server send so much."""
        self.wire.h2.increment_flow_control_window(nbytes, self.id)
        self.wire.flush()

    async def ask(self, id: str) -> Any:
        """Sends a request to the decoupled model; its slot."""
        self.send(body(id, "many"))
        return await self.slot(id)

    async def slot(self, id: str) -> Any:
        """Of a request that was sent, as soon as the server has it."""
        await until(lambda: self.requests is not None and id in driver.slots(self.requests))
        return driver.slots(self.requests)[id]

    @property
    def answers(self) -> list[str]:
        return ids(self.wire.answers.get(self.id, b""))


class Recorded(infer.InferStream):
    """Streams of the slow lane, where a test finds them."""

    made: list[Any] = []  # noqa: RUF012

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.made.append(self)


MakeStream = Callable[..., Awaitable[Stream]]
Test = Callable[[MakeStream], Awaitable[None]]


@pytest.fixture(params=["express", "slow"])
def run(
    server: Running, backend: GatedBackend, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., None]:
    """Runs a test on the loop of the server; it is given what makes streams. `by_hand`: models give no answers, the
    test does so in their place.
    """
    monkeypatch.setattr(infer, "InferStream", Recorded)

    async def main(test: Test, by_hand: bool) -> None:
        backend.run_gate.shut = by_hand
        streams: list[Stream] = []

        async def make_stream(window: int = 1 << 28) -> Stream:
            streams.append(Stream(server, request.param, window))
            await until(lambda: streams[-1].requests is not None)
            return streams[-1]

        try:
            await test(make_stream)
        finally:
            for each in streams:
                each.wire.abort()
            Recorded.made.clear()
            backend.run_gate.open()
            backend.batches.clear()

    return lambda test, by_hand=False: server.call(main(test, by_hand))


def output(nbytes: int) -> Tensor:
    return make("OUTPUT0", from_name("FP32"), [nbytes // 4], bytes(nbytes))


# -- requests ------------------------------------------------------------------------------------------


def test_what_is_not_read_is_copied_once(server: Running, backend: GatedBackend) -> None:
    """Not again for each message that is read of it."""

    async def test() -> None:
        backend.run_gate.shut = True
        stream = Stream(server, "express")
        names = [str(i) for i in range(20 * SLOTS)]
        data = b"".join(map(body, names))
        stream.send(data)
        stream.end()
        await stream.wire.read()
        (call,) = driver.streams(stream.wire.protocol)
        backlog = driver.backlog_of(call)
        waiting = backlog.nbytes
        assert len(data) // 2 < waiting < len(data)
        assert driver.unconsumed(call) == waiting
        backend.run_gate.open()
        while stream.id not in stream.wire.ended:
            assert backlog.held_nbytes <= backlog.nbytes + 2 * BLOCK
            await asyncio.sleep(0)
        assert stream.answers == names
        assert backlog.copied_nbytes == waiting
        assert backlog.held_nbytes == backlog.nbytes == 0
        stream.wire.abort()

    server.call(test())


@pytest.mark.parametrize("nbytes", [4000, 100_000])
def test_a_client_that_does_not_read_stops_the_reading(run: Callable[..., None], nbytes: int) -> None:
    """It may send what the requests before the bound take, and a window."""

    async def test(make_stream: MakeStream) -> None:
        stream = await make_stream(0)
        requests = map(str, range(10_000))
        names: list[str] = []
        sent, rest = 0, b""
        while True:
            if stream.room == 0:
                await stream.wire.read()
                if stream.requests.unanswered == 0 and not stream.requests.may_read:
                    await turns()  # the window may be about to be opened
                    if stream.room == 0:
                        break
                await asyncio.sleep(0.001)
                continue
            if not rest:
                names.append(next(requests))
                rest = body(names[-1], nbytes=nbytes)
            piece, rest = rest[: stream.room], rest[stream.room :]
            stream.send(piece)
            sent += len(piece)
            # The slow lane takes a little for sent before it has left.
            assert sent <= SLOTS * (nbytes + 100) + WINDOW + (1 << 17)
        # The window is given back by halves.
        assert sent >= max(WINDOW, SLOTS * nbytes + WINDOW // 2)
        assert not stream.answers
        stream.let(1 << 30)
        await until(lambda: stream.room >= len(rest))
        stream.send(rest)
        stream.end()
        await until(lambda: stream.id in stream.wire.ended)
        assert stream.answers == names

    run(test)


# -- answers -------------------------------------------------------------------------------------------


def test_answers_that_are_not_final_count_until_they_have_left(run: Callable[..., None]) -> None:
    async def test(make_stream: MakeStream) -> None:
        stream = await make_stream(0)
        slot = await stream.ask("first")
        for _ in range(SLOTS - 1):
            assert stream.requests.may_read
            driver.deliver(slot, [output(1 << 16)])
        assert not stream.requests.may_read
        stream.send(body("second", "many"))
        await turns()
        assert set(driver.slots(stream.requests)) == {"first"}
        stream.let(1 << 28)
        second = await stream.slot("second")
        driver.deliver(slot, [], final=True)
        driver.deliver(second, [output(4)], final=True)
        stream.end()
        await until(lambda: stream.id in stream.wire.ended)
        assert stream.answers == ["first"] * (SLOTS - 1) + ["second"]

    run(test, by_hand=True)


def test_their_bytes_count_too(server: Running, backend: GatedBackend) -> None:
    async def test() -> None:
        backend.run_gate.shut = True
        stream = Stream(server, "express", 0)
        slot = await stream.ask("first")
        large = output(1 << 28)  # never touched
        for _ in range(defines.GRPC_MAX_HELD_NBYTES // large.nbytes):
            assert stream.requests.may_read
            driver.deliver(slot, [large])
        assert not stream.requests.may_read
        # Its model goes on nevertheless.
        driver.deliver(slot, [large])
        assert stream.requests is None
        stream.wire.abort()
        backend.run_gate.open()

    server.call(test())


def test_answers_beyond_all_bounds_end_the_call(run: Callable[..., None]) -> None:
    async def test(make_stream: MakeStream) -> None:
        stream = await make_stream(0)
        slot = await stream.ask("first")
        requests = stream.requests
        for _ in range(defines.GRPC_MAX_STREAM_ANSWERS):
            driver.deliver(slot, [])
        assert not requests.ended
        driver.deliver(slot, [])
        assert requests.ended
        stream.let(1 << 30)
        await until(lambda: stream.id in stream.wire.ended)
        assert stream.wire.trailers[stream.id]["grpc-status"] == UNAVAILABLE
        assert stream.wire.trailers[stream.id]["grpc-message"] == "too many responses wait for this client"
        assert len(stream.answers) == defines.GRPC_MAX_STREAM_ANSWERS

    run(test, by_hand=True)


def test_who_makes_many_answers_is_told_when_to_wait_and_when_to_go_on(run: Callable[..., None]) -> None:
    async def test(make_stream: MakeStream) -> None:
        stream = await make_stream(0)
        slot = await stream.ask("first")
        told: list[int] = []
        count = 0
        while not driver.congested(slot):
            driver.deliver(slot, [output(1 << 17)])
            count += 1
        # Bytes or number, whichever comes first.
        assert count == min(SLOTS, defines.GRPC_CONGESTED_NBYTES >> 17)
        driver.on_relief(slot, lambda: told.append(1))
        driver.on_relief(slot, lambda: told.append(2))
        await turns()
        assert told == []
        stream.let(1 << 20)
        await turns()
        assert told == []
        stream.let(1 << 28)
        await until(lambda: told == [1, 2])
        assert not driver.congested(slot)
        while not driver.congested(slot):
            driver.deliver(slot, [])
        driver.on_relief(slot, lambda: told.append(3))
        # The client goes.
        stream.wire.h2.reset_stream(stream.id, 8)
        stream.wire.flush()
        await until(lambda: told == [1, 2, 3])
        assert not driver.congested(slot)

    run(test, by_hand=True)


def test_requests_without_an_answer_make_room(run: Callable[..., None]) -> None:
    """Nothing is sent for them, so nothing leaves that could tell."""

    async def test(make_stream: MakeStream) -> None:
        stream = await make_stream()
        names = [str(i) for i in range(3 * SLOTS)]
        stream.send(b"".join(body(name, "many") for name in names))
        stream.end()
        for name in names:
            driver.deliver(await stream.slot(name), [], final=True)
        await until(lambda: stream.id in stream.wire.ended)
        assert stream.wire.trailers[stream.id]["grpc-status"] == "0"
        assert stream.answers == []

    run(test, by_hand=True)
