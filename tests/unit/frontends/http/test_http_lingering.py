"""Who sends a large body that is refused reads why, as clients do that send all of it first."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from core_harness import run, write_model
from http_harness import serving

PATH = "/v2/models/m/infer"
LARGE = 100 << 20


def answer(port: int, body: object, headers: dict[str, str]) -> tuple[int, str]:
    """Status and error of what a blocking client sends; it reads when everything is sent."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        client.request("POST", PATH, body, headers, encode_chunked=False)  # type: ignore[arg-type]
        response = client.getresponse()
        return response.status, json.loads(response.read())["error"]
    finally:
        client.close()


def many_chunks() -> Iterator[bytes]:
    for _ in range(64):
        yield b"1\r\nx\r\n" * 16_384
    yield b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (bytes(LARGE), {"Content-Length": str(LARGE)}, "exceeds the maximum allowed input size"),
        (many_chunks, {"Transfer-Encoding": "chunked"}, "chunks"),
    ],
)
def test_a_refused_body_is_taken_to_its_end(
    tmp_path: Path, body: object, headers: dict[str, str], expected: str
) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            for _ in range(3):
                content = body() if callable(body) else body
                status, error = await asyncio.to_thread(answer, endpoint.port, content, headers)
                assert status in {400, 413} and expected in error

    run(test)


def test_a_client_that_goes_on_for_ever_is_closed(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    def send(port: int) -> int:
        sent = 0
        with socket.create_connection(("127.0.0.1", port), 60) as sock:
            sock.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n".encode())
            try:
                while True:
                    sent += sock.send(bytes(1 << 16))
            except OSError:
                return sent

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            assert await asyncio.to_thread(send, endpoint.port) > 1 << 20

    run(test)
