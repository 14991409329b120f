"""How connections end: behind a last request, a refusal, a timeout. What is owed is answered first, what comes behind
is dropped, and who sends more than is read still gets to read the answer.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from core_harness import run, write_model
from express_harness import Wire, express, split
from http_harness import Client, infer_body, message, serving

from triton_async import defines

LIVE = message("GET", "/v2/health/live")
POISON = message("GET", "/v2/poison")


def infer(model: str = "m", size: int = 2, *fields: tuple[str, str], **members: object) -> bytes:
    body, headers = infer_body(np.zeros(size, np.float32), **members)
    return message("POST", f"/v2/models/{model}/infer", body, [*headers, *fields])


def statuses(wire: Wire) -> list[str]:
    return [answer[9:12].decode() for answer in split(bytes(wire.output))]


def seconds(listener: object, count: float) -> None:
    for _ in range(int(count) + 2):
        listener.hub.tick()  # type: ignore[attr-defined]


@pytest.mark.parametrize("what", ["stalls", "too much", "broken"])
def test_a_refusal_waits_for_the_answers_that_are_owed(tmp_path: Path, what: str) -> None:
    """Else the work on requests that were received whole is thrown away, and their clients never know."""
    write_model(tmp_path, "slow", delay_ms=80)
    write_model(tmp_path, "m")
    large = infer(size=100_000)

    async def test() -> None:
        async with express(tmp_path) as (server, listener):
            wire = Wire(listener)
            owed = infer("slow") + infer()
            if what == "broken":
                wire.send(owed + b"GET  / HTTP/1.1\r\n\r\n" + POISON)
            elif what == "stalls":
                wire.send(owed + large[:-1])
                seconds(listener, defines.HTTP_BODY_TIMEOUT_S)
            else:
                listener.receiving.limit = 1000
                wire.send(owed + large[:-1])
            assert not wire.output
            assert not wire.closed
            last = {"stalls": "408", "too much": "503", "broken": "400"}[what]
            answers = await wire.answers(3)
            assert statuses(wire) == ["200", "200", last]
            assert [b"\r\nConnection: close\r\n" in answer for answer in answers] == [False, False, True]
            wire.send(POISON)
            await wire.until(lambda wire: wire.closed)
            assert statuses(wire) == ["200", "200", last]
            assert server.pool.leased == 0
            assert listener.receiving.nbytes == 0

    run(test)


CLOSING = {
    "close": infer("m", 2, ("Connection", "close")),
    "close in a list": infer("m", 2, ("Connection", "te, close")),
    "close twice": infer("m", 2, ("Connection", "close"), ("Connection", "close")),
    "close, relayed": LIVE.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive, close\r\n\r\n"),
    "HTTP/1.0": infer().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.0, relayed": LIVE.replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("name", CLOSING)
def test_what_is_sent_behind_a_last_request_is_dropped(tmp_path: Path, name: str) -> None:
    """Wherever the segments are cut."""
    write_model(tmp_path, "m", delay_ms=1)
    request = CLOSING[name]
    stream = infer() + request + POISON

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wires = []
            for cut in range(len(infer()) + 1, len(stream), 7):
                wire = Wire(listener)
                wire.send(stream[:cut])
                wire.send(stream[cut:])
                wires.append(wire)
            for wire in wires:
                await wire.until(lambda wire: wire.closed)
                assert statuses(wire) == ["200", "200"]
            silent = Wire(listener)
            silent.send(request)
            await silent.answers(1)
            # Nobody has to wait when nothing was left unread.
            await asyncio.sleep(0.05)
            assert silent.closed

    run(test)


def test_one_who_goes_on_sending_is_not_read_for_ever(tmp_path: Path) -> None:
    write_model(tmp_path, "m", delay_ms=100)

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.send(infer("m", 2, ("Connection", "close")) + b"x" * 1_000_000, 10_000)
            assert not wire.reading
            assert wire.unread > 900_000
            await wire.answers(1)
            assert statuses(wire) == ["200"]
            await wire.until(lambda wire: wire.closed)

    run(test)


def test_answers_reach_those_who_send_too_much(tmp_path: Path) -> None:
    """A socket closed with bytes unread would take the answer back."""
    write_model(tmp_path, "m")

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            for request in (CLOSING["close"], b"GET  / HTTP/1.1\r\n\r\n", CLOSING["HTTP/1.0, relayed"]):
                client = await Client.connect(endpoint.port)
                await client.send(request + b"x" * 30_000)
                await asyncio.sleep(0.05)
                await client.send(b"y" * 100)
                await asyncio.sleep(0.05)
                assert (await client.receive()).status in (200, 400)
                assert await client.closed()
                client.close()

    run(test)


def test_half_closed_clients_of_http_1_0_get_no_interim_response(tmp_path: Path) -> None:
    """They do not know it (RFC 9110 15.2)."""
    write_model(tmp_path, "m", delay_ms=150)

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            for request in (CLOSING["HTTP/1.0"], CLOSING["HTTP/1.0"].replace(b"/infer", b"/infer?")):
                wire = Wire(listener)
                wire.send(request)
                assert wire.protocol.eof_received()
                seconds(listener, 3)
                await wire.until(lambda wire: wire.closed)
                assert bytes(wire.output).startswith(b"HTTP/1.0 200 OK\r\n")

    run(test)


def test_100_continue_keeps_its_place(tmp_path: Path) -> None:
    """Whoever waits for it would take it for an answer to the request before."""
    write_model(tmp_path, "slow", delay_ms=50)
    write_model(tmp_path, "m")
    request = infer("m", 2, ("Expect", "100-continue"))
    end = request.index(b"\r\n\r\n") + 4

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.send(infer("slow") + request[:end])
            await wire.until(lambda wire: bytes(wire.output).endswith(b"HTTP/1.1 100 Continue\r\n\r\n"))
            assert statuses(wire) == ["200", "100"]
            wire.send(request[end:])
            await wire.answers(3)
            # Nor is it sent when the body came before the question was read.
            wire.send(request + infer("m", 2, ("Expect", "100-continue"), ("Connection", "close")))
            await wire.until(lambda wire: wire.closed)
            assert statuses(wire) == ["200", "100", "200", "200", "200"]

    run(test)


def test_a_body_that_was_welcomed_and_does_not_come_is_given_up(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            request = infer("m", 2, ("Expect", "100-continue"))
            wire.send(request[: request.index(b"\r\n\r\n") + 4])
            seconds(listener, defines.HTTP_BODY_TIMEOUT_S)
            assert statuses(wire) == ["100", "408"]

    run(test)


def test_upgrades_are_ignored(tmp_path: Path) -> None:
    """Also those of requests that the full parser answers: it would take what follows for the other protocol."""
    write_model(tmp_path, "m")
    offer = b"\r\nConnection: keep-alive, upgrade\r\nUpgrade: h2c\r\nupgrade: websocket\r\n\r\n"
    stream = LIVE.replace(b"\r\n\r\n", offer) + infer() + infer().replace(b"\r\n\r\n", offer, 1) + LIVE

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            for piece in (1 << 20, 100, 1):
                wire = Wire(listener)
                wire.send(stream, piece)
                await wire.answers(4)
                assert statuses(wire) == ["200"] * 4

    run(test)
