"""What slow, silent and greedy clients may hold of the server, and for how long."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from core_harness import run, write_model
from express_harness import Wire, express, split
from http_harness import Client, ask, head, infer_body, message, serving

from triton_async import defines
from triton_async.frontends.http import body as http_body
from triton_async.frontends.http.deadlines import check

INFER = "/v2/models/m/infer"
PAGE_NBYTES = os.sysconf("SC_PAGE_SIZE")


def infer(size: int = 2, **members: object) -> bytes:
    body, headers = infer_body(np.zeros(size, np.float32), **members)
    return message("POST", INFER, body, headers)


def chunks(size: int = 2) -> tuple[bytes, bytes]:
    """Head and body for the slow lane."""
    body, headers = infer_body(np.zeros(size, np.float32))
    text = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return head("POST", INFER + "?", [*headers, ("Transfer-Encoding", "chunked")]), text


def status(wire: Wire) -> list[bytes]:
    return [answer.split()[1] for answer in split(bytes(wire.output))]


def resident_nbytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_NBYTES


@pytest.mark.parametrize(
    ("rate", "given_up"),
    [(1, True), (defines.HTTP_BODY_MIN_NBYTES_PER_S // 2, True), (2 * defines.HTTP_BODY_MIN_NBYTES_PER_S, False)],
)
def test_a_body_that_dribbles_is_given_up(tmp_path: Path, rate: int, given_up: bool) -> None:
    write_model(tmp_path, "m")
    whole = infer(250_000)
    seconds = int(3 * defines.HTTP_BODY_TIMEOUT_S)

    async def test() -> None:
        async with express(tmp_path) as (server, listener):
            wire = Wire(listener)
            # A good start does not help for ever.
            at = 200_000
            wire.send(whole[:at])
            for _ in range(seconds):
                wire.send(whole[at : at + rate])
                at += rate
                listener.hub.tick()
            if given_up:
                assert status(wire) == [b"408"]
                assert server.pool.leased == 0
            else:
                wire.send(whole[at:])
                assert [answer.split()[1] for answer in await wire.answers(1)] == [b"200"]
            wire.leave()

    run(test)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_dribbles_into_the_slow_lane_is_given_up(
    tmp_path: Path, announced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_body, "HTTP_BODY_TIMEOUT_S", 0.2)
    write_model(tmp_path, "m")
    start, text = chunks(2_000)
    if announced:
        start, text = head("POST", INFER + "?", [("Content-Length", "100000")]), bytes(100_000)

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            client = await Client.connect(endpoint.port)
            await client.send(start)
            answer = asyncio.ensure_future(client.receive())
            for at in range(400):
                if answer.done():
                    break
                client.writer.write(text[at : at + 1])
                await asyncio.sleep(0.01)
            assert (await answer).status == 408
            client.close()

    run(test)


def test_an_announced_body_costs_nothing_until_it_comes(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    nbytes = defines.HTTP_MAX_BODY_NBYTES // 4
    fields = [("Content-Length", str(nbytes)), ("Inference-Header-Content-Length", "100")]

    async def test() -> None:
        async with express(tmp_path) as (server, listener):
            before = resident_nbytes()
            wires = [Wire(listener) for _ in range(4)]
            for wire in wires:
                wire.send(head("POST", INFER, fields) + b"{")
            assert server.pool.leased_nbytes >= 4 * nbytes
            assert resident_nbytes() - before < 16 << 20
            for wire in wires:
                wire.leave()
            assert server.pool.leased == 0
            # Nor is what it came to kept for others. A thread gives back what is large.
            async with asyncio.timeout(20):
                while resident_nbytes() - before >= 16 << 20:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    run(test)


@pytest.mark.parametrize("lane", ["express", "slow"])
def test_the_bodies_being_received_are_bounded(tmp_path: Path, lane: str) -> None:
    """Large ones are refused; what comes at once is answered all the same."""
    write_model(tmp_path, "m")
    large = infer(100_000) if lane == "express" else b"".join(chunks(100_000))

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            receiving = listener.receiving
            receiving.limit = 500_000
            holder, other, small = Wire(listener), Wire(listener), Wire(listener)
            holder.send(large[:-1])
            await asyncio.sleep(0.01)
            other.send(large[:-1])
            await other.until(lambda wire: status(wire) == [b"503"])
            small.send(infer())
            assert [answer.split()[1] for answer in await small.answers(1)] == [b"200"]
            holder.send(large[-1:])
            assert [answer.split()[1] for answer in await holder.answers(1)] == [b"200"]
            assert receiving.nbytes == 0
            holder.send(large[:-1])
            await asyncio.sleep(0.01)
            assert receiving.nbytes > 0
            holder.leave()
            await asyncio.sleep(0.01)
            assert receiving.nbytes == 0

    run(test)


@pytest.mark.parametrize("accepts", [10, 0])
def test_last_bytes_that_nobody_reads_are_given_up(tmp_path: Path, accepts: int) -> None:
    """Fewer than the socket's write limit: nothing tells the connection that it waits."""
    write_model(tmp_path, "m")

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Deaf(listener)
            wire.accepts = accepts
            wire.send(infer())
            wire.protocol.eof_received()
            await wire.until(lambda wire: wire.closing)  # type: ignore[attr-defined]
            for _ in range(int(defines.HTTP_WRITE_TIMEOUT_S)):
                listener.hub.tick()
            assert not wire.closed
            for _ in range(3):
                listener.hub.tick()
            assert wire.closed

    run(test)


class Deaf(Wire):
    """Its few unsent bytes keep it open after `close`; it is far from full."""

    closing = False

    def write(self, data: bytes) -> None:
        taken = data[: self.accepts]
        self.output += taken
        self.unsent += data[len(taken) :]
        self._changed.set()

    def close(self) -> None:
        self.closing = True
        self._changed.set()

    def abort(self) -> None:
        Wire.close(self)


def test_a_lost_connection_lets_go_of_its_transport(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.send(infer() + message("GET", "/v2/health/live"))
            await wire.answers(2)
            protocol = wire.protocol
            gone = weakref.ref(wire)
            wire.leave()
            del wire
            await asyncio.sleep(0.01)
            assert gone() is None
            protocol.abort()
            check(protocol)

    run(test)


def test_answers_that_nobody_reads_are_bounded_over_all_connections(tmp_path: Path) -> None:
    """The connection that holds the most goes first; who reads is served on."""
    write_model(tmp_path, "m")
    answer_nbytes = 200_000  # the requests of each are read in one turn of the loop

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            listener.hub.max_unsent_nbytes = 6 * answer_nbytes
            wires = [Wire(listener) for _ in range(5)]
            good = Wire(listener)
            held: Callable[[], int] = lambda: sum(len(wire.unsent) for wire in wires if not wire.closed)  # noqa: E731
            for count, wire in enumerate(wires, 1):
                wire.accepts = 0
                # Later answers wait in the connection, behind the one that fills its socket.
                wire.send(infer(answer_nbytes // 4) * count)
                await wire.until(lambda wire: bool(wire.unsent))
                await asyncio.sleep(0.05)
                assert held() <= 6 * answer_nbytes
                good.send(infer())
                await good.answers(count)
            assert [wire.closed for wire in wires] == [False, False, False, True, True]
            for wire in wires[:3]:
                wire.read_all()
            for count, wire in enumerate(wires[:3], 1):
                await wire.answers(count)
            assert listener.hub.unsent_nbytes == 0

    run(test)


@pytest.mark.parametrize("path", [
    "/v2/models/m/infer", "/v2/models/m/generate", "/v2/models/m/generate_stream", "/v2/repository/index",
    "/v2/repository/models/m/load", "/v2/repository/models/m/unload", "/v2/trace/setting",
    "/v2/models/m/trace/setting", "/v2/logging",
])  # fmt: skip
def test_json_that_is_too_deep_is_refused_on_every_route(tmp_path: Path, path: str) -> None:
    write_model(tmp_path, "m")

    def nested(depth: int) -> bytes:
        """An object with lists in it, `depth` deep in all."""
        return b'{"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"

    async def test() -> None:
        async with serving(tmp_path, "--model-control-mode=explicit", "--load-model=m") as (_, endpoint):
            taken = await ask(endpoint.port, "POST", path, nested(100))
            assert b"nesting" not in taken.body, taken
            # What lies around the data of a tensor counts, too; members that nobody reads are only passed over.
            read = not path.endswith(("/infer", "/generate", "/generate_stream", "/load"))
            refused = await ask(endpoint.port, "POST", path, nested(104 if read else 1100))
            assert refused.status == 400, refused
            assert "JSON nesting depth exceeds maximum allowed limit (100)" in refused.error

    run(test)
