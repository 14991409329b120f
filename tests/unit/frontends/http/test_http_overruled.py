"""A Content-Length beside `Transfer-Encoding: chunked`: the chunks count, and the connection ends with the answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from core_harness import run, write_model
from http_harness import Client, message, serving

BODY = b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"data":[1.5]}]}'
CALLS = {"express": (b"/v2/models/m/infer", BODY, b"1.5"), "full": (b"/v2/repository/index", b"{}", b'"name":"m"')}
BOTH = [b"Content-Length: %d", b"Transfer-Encoding: chunked"]


@pytest.mark.parametrize("lane", list(CALLS))
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"])
def test_chunks_count_and_nothing_behind_them(tmp_path: Path, lane: str, first: int, connection: bytes) -> None:
    write_model(tmp_path, "m")
    path, body, expected = CALLS[lane]
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    fields = b"\r\n".join((BOTH[first], BOTH[1 - first])) % len(chunked)
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + connection + fields + b"\r\n\r\n"

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            for behind in (b"", message("GET", "/v2")):
                client = await Client.connect(endpoint.port)
                await client.send(head + chunked + behind)
                answer = await client.receive()
                assert answer.status == 200 and expected in answer.body
                assert answer.headers["connection"] == "close"
                assert await client.closed()
                client.close()

    run(test)
