"""The metrics port."""

from __future__ import annotations

from pathlib import Path

from core_harness import run, running, write_model
from http_harness import Client, ask

from triton_async.frontends import metrics


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
