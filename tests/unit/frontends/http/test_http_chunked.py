"""Bodies in chunks through the connection, in either lane: whole, bounded, and at a cost that cuts do not change."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
from core_harness import run, write_model
from express_harness import Wire, express, split
from http_harness import head, infer_body

from triton_async import defines
from triton_async.frontends.http.relay import Relay

INFER = "/v2/models/m/infer"


def framed(body: bytes, size: int) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(body[i : i + size]), body[i : i + size]) for i in range(0, len(body), size))


def chunked(values: np.ndarray, size: int, path: str = INFER) -> bytes:
    body, headers = infer_body(values)
    return head("POST", path, [*headers, ("Transfer-Encoding", "chunked")]) + framed(body, size) + b"0\r\n\r\n"


def statuses(wire: Wire) -> list[str]:
    return [answer[9:12].decode() for answer in split(bytes(wire.output))]


@pytest.fixture
def relayed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the full parser is fed."""
    found: list[bytes] = []
    feed = Relay.feed

    def watch(relay: Relay, data: bytes) -> None:
        found.append(data)
        feed(relay, data)

    monkeypatch.setattr(Relay, "feed", watch)
    return found


@pytest.mark.parametrize("path", [INFER, INFER + "?"], ids=["express", "slow lane"])
@pytest.mark.parametrize(("count", "size"), [(5_000, 1), (5_000, 7), (100_000, 4096), (200_000, 1 << 20)])
def test_bodies_come_whole_however_they_are_cut(tmp_path: Path, path: str, count: int, size: int) -> None:
    write_model(tmp_path, "m")
    values = np.random.default_rng(count).random(count, np.float32)

    async def test() -> None:
        async with express(tmp_path) as (server, listener):
            wire = Wire(listener)
            wire.send(chunked(values, size, path) * 2, 60_001)
            for answer in await wire.answers(2):
                assert answer.endswith(values.tobytes())
            del answer
            assert listener.receiving.nbytes == 0
            wire.leave()
            assert server.pool.leased == 0

    run(test)


def test_the_full_parser_sees_few_chunks(tmp_path: Path, relayed: list[bytes]) -> None:
    """What it does for each of them costs a hundred times what it does for a byte."""
    write_model(tmp_path, "m")
    values = np.zeros(10_000, np.float32)
    stream = chunked(values, 1, INFER + "?").replace(b"\r\n0\r\n\r\n", b'\r\n0;a="b"\r\nX: y\r\nHost: z\r\n\r\n')

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.send(stream, 50_000)
            (answer,) = await wire.answers(1)
            assert answer.endswith(values.tobytes())

    run(test)
    sent = b"".join(relayed)
    assert len(relayed) == -(-len(stream) // 50_000)
    assert len(re.findall(rb"\r\n[0-9a-f]+\r\n", sent)) <= len(relayed) + 1
    assert sent.endswith(b"\r\n0\r\n\r\n")
    assert sent.count(b"Host") == 1


@pytest.mark.parametrize("path", [INFER, INFER + "?", "/v2/repository/index"])
@pytest.mark.parametrize(
    "bad",
    [
        b"zz", b"5\r\nhello\r\n0\r\nbroken\r\n\r\n", b"0\r\nX : y", b"0\r\nX: \0", b"0\r\nX: y\r\n z", b"5\nhello",
        b"3\r\nhello",
    ],
)  # fmt: skip
def test_a_body_that_turns_bad_is_refused_at_the_byte(tmp_path: Path, path: str, bad: bytes) -> None:
    """However late: nobody waits for its end, and stopping does not wait for it either."""
    write_model(tmp_path, "m")
    start = head("POST", path, [("Transfer-Encoding", "chunked")]) + framed(b"{}", 1)

    async def test() -> None:
        async with express(tmp_path) as (server, listener):
            for cut in range(len(bad)):
                wire = Wire(listener)
                wire.send(start + bad[:cut])
                await asyncio.sleep(0)
                wire.send(bad[cut:], 1)
                assert statuses(wire) == ["400"], cut
                assert b'{"error":"malformed request body"}' in wire.output
                wire.leave()
            assert server.pool.leased == 0
            await asyncio.sleep(0.01)
            async with asyncio.timeout(1):
                await listener.close(5)

    run(test)


@pytest.mark.parametrize("path", [INFER, INFER + "?"], ids=["express", "slow lane"])
def test_the_limits_hold(tmp_path: Path, path: str) -> None:
    write_model(tmp_path, "m")
    start = head("POST", path, [("Transfer-Encoding", "chunked")])
    limit = 1 << 22

    async def test() -> None:
        async with express(tmp_path) as (server, listener):
            wire = Wire(listener)
            wire.send(start + framed(b" " * limit, 100_000) + b"0\r\n\r\n", 50_000)
            await wire.answers(1)
            wire.send(start + framed(b" " * (limit + 1), 100_000), 50_000)
            assert b"more than 4194304 bytes exceeds the maximum allowed value" in (await wire.answers(2))[1]
            assert statuses(wire) == ["400", "400"]
            wire = Wire(listener)
            wire.send(start + framed(b" " * defines.HTTP_MAX_CHUNKS, 1) + b"0\r\n\r\n", 50_000)
            await wire.answers(1)
            wire.send(start + framed(b" " * (defines.HTTP_MAX_CHUNKS + 1), 1), 50_000)
            assert b"exceeds maximum of 65536 non-empty chunks" in (await wire.answers(2))[1]
            wire = Wire(listener)
            listener.receiving.limit = 100_000
            wire.send(start + framed(b" " * 200_000, 10_000), 50_000)
            await wire.until(lambda wire: statuses(wire) == ["503"])
            await asyncio.sleep(0.01)
            assert server.pool.leased == 0
            assert listener.receiving.nbytes == 0

    run(test)


def test_announced_chunks_cost_nothing_until_they_come(tmp_path: Path) -> None:
    """Room grows with what was received, not with what was said."""
    write_model(tmp_path, "m")
    start = head("POST", INFER, [("Inference-Header-Content-Length", "100"), ("Transfer-Encoding", "chunked")])

    async def test() -> None:
        async with express(tmp_path) as (server, listener):
            wire = Wire(listener)
            wire.send(start + b"7fffffff\r\n{")
            assert server.pool.leased_nbytes < 1 << 12
            received = 1
            for _ in range(100):
                wire.send(bytes(10_000))
                received += 10_000
                assert server.pool.leased_nbytes <= 4 * received + (1 << 17)
            wire.leave()
            assert server.pool.leased == 0

    run(test)


def test_chunks_that_dribble_are_given_up(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with express(tmp_path) as (server, listener):
            wire = Wire(listener)
            wire.send(head("POST", INFER, [("Transfer-Encoding", "chunked")]))
            for _ in range(int(defines.HTTP_BODY_TIMEOUT_S) + 2):
                wire.send(b"1\r\n \r\n")
                listener.hub.tick()
            assert statuses(wire) == ["408"]
            assert server.pool.leased == 0

    run(test)
