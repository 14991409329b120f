"""Clients that close their side behind their requests: answered what came whole, told from clients that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from core_harness import run, write_model
from express_harness import Wire, express, split
from http_harness import Client, head, infer_body, message, serving

from triton_async.core.server import InferenceServer
from triton_async.frontends import metrics

INFER = "/v2/models/m/infer"
LIVE = message("GET", "/v2/health/live")
OLD = b"GET /v2/health/live HTTP/1.0\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


def infer(model: str = "m", size: int = 2, **members: object) -> bytes:
    body, headers = infer_body(np.zeros(size, np.float32), **members)
    return message("POST", f"/v2/models/{model}/infer", body, headers)


def chunked() -> bytes:
    body, headers = infer_body(np.zeros(2, np.float32))
    text = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return head("POST", INFER, [*headers, ("Transfer-Encoding", "chunked")]) + text


STREAMS = {
    "one": ([infer()], 1),
    "pipelined": ([infer("slow"), infer(), infer()], 3),
    "slow lane": ([LIVE], 1),
    "chunked": ([chunked()], 1),
    "both lanes": ([infer("slow"), LIVE, infer(), chunked(), infer("slow")], 5),
    "large": ([infer(size=200_000), infer(size=200_000)], 2),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("rest", [b"", LIVE[:10], infer()[:-1]], ids=["", "half a head", "half a body"])
def test_what_came_whole_is_answered_and_the_rest_dropped(tmp_path: Path, name: str, rest: bytes) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "slow", delay_ms=30)
    requests, count = STREAMS[name]

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            client = await Client.connect(endpoint.port)
            await client.send(b"".join(requests) + rest)
            client.writer.write_eof()
            async with asyncio.timeout(20):
                answers = split(await client.reader.read())
            assert len(answers) == count
            assert all(answer.split()[1] == b"200" for answer in answers)
            client.close()

    run(test)


def test_a_request_of_an_old_protocol_is_answered(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            client = await Client.connect(endpoint.port)
            await client.send(OLD)
            client.writer.write_eof()
            async with asyncio.timeout(20):
                assert (await client.reader.read()).startswith(b"HTTP/1.0 200 OK\r\n")
            client.close()

    run(test)


def test_every_cut_of_a_request_is_dropped(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            for request in (infer(), LIVE, chunked()):
                for cut in range(len(request)):
                    wire = Wire(listener)
                    wire.send(infer() + request[:cut])
                    assert wire.protocol.eof_received()
                    await wire.until(lambda wire: wire.closed)
                    assert len(split(bytes(wire.output))) == 1
            await asyncio.sleep(0)
            assert not listener.hub.connections

    run(test)


def test_a_slow_reader_still_gets_everything(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    count = 60

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.accepts = 0
            wire.send(b"".join(infer(size=500) for _ in range(count)))
            await wire.until(lambda wire: bool(wire.unsent))
            wire.protocol.eof_received()
            wire.read_all()
            assert len(await wire.answers(count)) == count
            await wire.until(lambda wire: wire.closed)

    run(test)


def test_a_refused_client_that_says_no_more_is_let_go(tmp_path: Path) -> None:
    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.send(b"GET / HTTP/2.0\r\nHost: x\r\n\r\n")
            assert not wire.protocol.eof_received()

    run(test)


def seconds(listener: object, count: int) -> None:
    for _ in range(count):
        listener.hub.tick()  # type: ignore[attr-defined]


@pytest.mark.parametrize("leave", [Client.close, lambda client: client.writer.write_eof()], ids=["close", "half"])
@pytest.mark.parametrize("lane", ["express", "slow lane"])
def test_a_client_that_is_gone_is_told_from_one_that_waits(
    tmp_path: Path, leave: Callable[[Client], None], lane: str
) -> None:
    """Both have sent a FIN. Only one of them takes an interim response."""
    write_model(tmp_path, "m", delay_ms=300)
    gone = leave is Client.close
    request = infer() if lane == "express" else chunked()

    async def test() -> None:
        async with serving(tmp_path) as (server, endpoint):
            clients = [await Client.connect(endpoint.port) for _ in range(4)]
            for client in clients:
                await client.send(request)
                leave(client)
            await asyncio.sleep(0.05)
            for _ in range(2):
                seconds(endpoint, 2)
                await asyncio.sleep(0.05)
            last = await Client.connect(endpoint.port)
            await last.send(infer())
            assert (await last.receive()).status == 200
            # The one that ran, perhaps one that was next, and the last.
            assert server.statistics("m")[0]["execution_count"] <= (3 if gone else 5)
            if not gone:
                for client in clients:
                    answer = await client.reader.read()
                    assert answer.startswith(INTERIM + b"HTTP/1.1 200 OK\r\n")
            for client in [last, *clients]:
                client.close()

    run(test)


def test_a_quick_answer_comes_without_an_interim_response(tmp_path: Path) -> None:
    write_model(tmp_path, "m", delay_ms=50)

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.send(infer())
            wire.protocol.eof_received()
            seconds(listener, 1)
            await wire.until(lambda wire: wire.closed)
            assert bytes(wire.output).startswith(b"HTTP/1.1 200 OK\r\n")

    run(test)


def test_the_metrics_port_answers_too(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def scrape(server: InferenceServer, request: bytes) -> bytes:
        endpoint = await metrics.start(server, address="127.0.0.1", port=0)
        client = await Client.connect(endpoint.port)
        await client.send(request)
        client.writer.write_eof()
        async with asyncio.timeout(20):
            answer = await client.reader.read()
        client.close()
        await endpoint.close(1)
        return answer

    async def test() -> None:
        async with serving(tmp_path) as (server, _):
            whole = message("GET", "/metrics")
            assert b"nv_inference_count" in await scrape(server, whole)
            assert await scrape(server, whole[:-1]) == b""

    run(test)


def test_clients_that_are_gone_are_found_before_the_clock_ticks(tmp_path: Path) -> None:
    write_model(tmp_path, "m", delay_ms=1500)

    async def test() -> None:
        async with serving(tmp_path) as (server, endpoint):
            model = server.repository.models["m"].versions[1].loaded.model
            clients = [await Client.connect(endpoint.port) for _ in range(8)]
            for client in clients:
                await client.send(infer())
            await until(lambda: model.in_flight == len(clients))
            for client in clients:
                client.close()
            # What has begun goes on; what waits would wait for seconds.
            async with asyncio.timeout(1):
                await until(lambda: model.in_flight <= len(loaded_instances(server)))

    run(test)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def loaded_instances(server: InferenceServer) -> list[object]:
    """What may have begun something: one to run, and one ahead of it, for each."""
    return [*server.repository.models["m"].versions[1].loaded.made] * 2  # type: ignore[union-attr]
