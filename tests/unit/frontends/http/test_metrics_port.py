"""The metrics port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from core_harness import run, running, write_model
from http_harness import Client, ask, head
from prometheus_client.parser import text_string_to_metric_families

from triton_async import defines
from triton_async.defines import METRICS_PART_NBYTES
from triton_async.frontends import metrics


def test_a_long_page_is_sent_in_parts(tmp_path: Path) -> None:
    for index in range(100):
        write_model(tmp_path, f"m{index}")

    async def test() -> None:
        async with running(tmp_path, "--metrics-config=phase_histograms=true") as server:
            assert all(len(part) < 2 * METRICS_PART_NBYTES for part in await server.metrics_parts())
            endpoint = await metrics.start(server, address="127.0.0.1", port=0)
            client = await Client.connect(endpoint.port)
            for _ in range(2):  # the connection goes on behind it
                await client.send(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
                answer = await client.receive()
                assert len(answer.body) == int(answer.headers["content-length"]) > 2 * METRICS_PART_NBYTES
                families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
                assert len(families["nv_inference_count"].samples) == 100
                assert len(families["triton_async_live_objects"].samples) == 5
            # A scraper that goes in the middle of it leaves nothing.
            await client.send(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
            client.close()
            await endpoint.close(5)

    run(test)


def test_scrapes(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path) as server:
            endpoint = await metrics.start(server, address="127.0.0.1", port=0)
            for path in ("/metrics", "/metrics/", "/metrics?x=1"):
                answer = await ask(endpoint.port, "GET", path)
                assert answer.status == 200
                assert answer.headers["content-type"] == "text/plain; charset=utf-8"
                assert b"nv_inference_request_success" in answer.body
            other = await ask(endpoint.port, "GET", "/")
            assert (other.status, other.body) == (200, b"")
            refused = await ask(endpoint.port, "POST", "/metrics")
            assert (refused.status, refused.error) == (405, "Method Not Allowed")
            client = await Client.connect(endpoint.port)
            await client.send(b"GET /metrics HTTP/1.1\r\nAuthorization: Bearer secret\0\r\n\r\n")
            broken = await client.receive()
            assert (broken.status, broken.error) == (400, "malformed request head")
            assert broken.headers["server"] == "triton-async"
            client.close()
            await endpoint.close(1)

    run(test)


def test_connections_have_a_bound(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path) as server:
            endpoint = await metrics.start(server, address="127.0.0.1", port=0)
            clients = [await Client.connect(endpoint.port) for _ in range(defines.METRICS_MAX_CONNECTIONS)]
            await until(lambda: len(endpoint.hub.connections) == len(clients))
            await clients[-1].send(head("GET", "/metrics"))
            assert (await clients[-1].receive()).status == 200
            beyond = await Client.connect(endpoint.port)
            assert await beyond.closed()
            clients.pop().close()
            await until(lambda: len(endpoint.hub.connections) == len(clients))
            assert (await ask(endpoint.port, "GET", "/metrics")).status == 200
            for client in clients:
                client.close()
            await endpoint.close(1)

    run(test)


def test_silent_clients_have_the_times_of_the_http_port(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path) as server:
            endpoint = await metrics.start(server, address="127.0.0.1", port=0)
            slow, silent = [await Client.connect(endpoint.port) for _ in range(2)]
            await slow.send(b"GET /metrics HT")
            await until(lambda: len(endpoint.hub.connections) == 2)
            await asyncio.sleep(0.1)  # what was sent has come

            def pass_by(seconds: float) -> None:
                for _ in range(int(seconds)):
                    endpoint.hub.tick()

            pass_by(defines.HTTP_HEAD_TIMEOUT_S)
            assert len(endpoint.hub.connections) == 2
            pass_by(1)
            assert (await slow.receive()).status == 408
            assert await slow.closed()
            pass_by(defines.HTTP_KEEPALIVE_TIMEOUT_S - defines.HTTP_HEAD_TIMEOUT_S - 1)
            assert len(endpoint.hub.connections) == 1
            pass_by(1)
            assert await silent.closed()
            for client in (slow, silent):
                client.close()
            await endpoint.close(1)

    run(test)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(4000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("not reached")
