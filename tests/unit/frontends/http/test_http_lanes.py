"""The same request gets the same bytes from either lane, but for the date."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from core_harness import run, running, write_model
from http_harness import infer_body, message

from triton_async.frontends.http import server as http

LENGTH = "Inference-Header-Content-Length"
LIMIT = 1 << 16
DATE = re.compile(rb"\r\nDate: [^\r]*")


def post(body: bytes, headers: Any = (), path: str = "/v2/models/m/infer") -> bytes:
    return message("POST", path, body, headers)


def binary(size: int, **members: Any) -> bytes:
    return post(*infer_body(np.arange(size, dtype=np.float32), **members))


def text(path: str = "/v2/models/m/infer", **members: Any) -> bytes:
    entry = {"name": "INPUT0", "shape": [2], "datatype": "FP32", "data": [1.5, -2]}
    return post(json.dumps({"inputs": [entry], **members}).encode(), path=path)


def corpus() -> dict[str, bytes]:
    good, headers = infer_body(np.float32([1, 2]))
    length = int(headers[0][1])
    return {
        "small": binary(2),
        "id": binary(2, id="abc"),
        "odd id": binary(2, id='a"\n\\é\x7f'),
        "json out": binary(2, parameters={}),
        "asked": binary(2, outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": True}}]),
        "asked as json": binary(2, outputs=[{"name": "OUTPUT0"}]),
        "classes": binary(5, outputs=[{"name": "OUTPUT0", "parameters": {"classification": 2}}]),
        "classes binary": binary(
            5, outputs=[{"name": "OUTPUT0", "parameters": {"classification": 2, "binary_data": True}}]
        ),
        "empty tensor": binary(0),
        "just below the join": binary(16_330),
        "large": binary(60_000),
        "json": text(),
        "version": text("/v2/models/m/versions/1/infer", id="v"),
        "raw": post(np.float32([3, 4]).tobytes(), [(LENGTH, "0")]),
        "unknown output": binary(2, outputs=[{"name": "nope"}]),
        "twice": binary(2, outputs=[{"name": "OUTPUT0"}, {"name": "OUTPUT0"}]),
        "own parameter": binary(2, parameters={"mine": "x", "binary_data_output": True}),
        "reserved parameter": binary(2, parameters={"triton_x": 1}),
        "bad parameter": binary(2, parameters={"priority": -1}),
        "bad json": post(b"{nonsense"),
        "no json": post(b"\x00\x01"),
        "not an object": post(b"[]"),
        "no inputs": post(b"{}"),
        "wrong type": text(inputs=[{"name": "INPUT0", "shape": [1], "datatype": "INT32", "data": [1]}]),
        "wrong name": text(inputs=[{"name": "X", "shape": [1], "datatype": "FP32", "data": [1]}]),
        "wrong rank": text(inputs=[{"name": "INPUT0", "shape": [1, 1], "datatype": "FP32", "data": [1]}]),
        "too few bytes": post(good[:-1], headers),
        "too many bytes": post(good + b"x", headers),
        "short header length": post(good, [(LENGTH, str(length - 1))]),
        "long header length": post(good, [(LENGTH, str(length + 1))]),
        "header length beyond": post(good, [(LENGTH, str(len(good) + 1))]),
        "header length 012": post(good, [(LENGTH, "0" + str(length))]),
        "header length -1": post(good, [(LENGTH, "-1")]),
        "header length x": post(good, [(LENGTH, "x")]),
        "json too big": post(b" " * (LIMIT + 1)),
        "raw too big": post(b" " * (LIMIT + 1), [(LENGTH, "0")]),
        "json part too big": post(b" " * (LIMIT + 9), [(LENGTH, str(LIMIT + 5))]),
        "unknown model": text("/v2/models/none/infer"),
        "unknown version": text("/v2/models/m/versions/9/infer"),
        "huge version": text("/v2/models/m/versions/99999999999999999999/infer"),
        "empty body": post(b""),
        "gzip answer": post(good, [*headers, ("Accept-Encoding", "gzip;q=0, identity")]),
        "unknown coding": post(good, [*headers, ("Content-Encoding", "br")]),
        "query": text("/v2/models/m/infer?x=1"),
        "close": post(good, [*headers, ("Connection", "close")]),
    }


async def exchange(port: int, request: bytes) -> bytes:
    """The answer, and that of a good request behind it: the state in which the connection is left counts too."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    found = b""
    writer.write(request)
    try:
        for follow_up in (True, False):
            answer = await reader.readuntil(b"\r\n\r\n")
            size = re.search(rb"\r\nContent-Length: (\d+)", answer, re.IGNORECASE)
            found += DATE.sub(b"", answer) + await reader.readexactly(int(size[1]) if size else 0)
            if b"Connection: close" in answer:
                assert await reader.read() == b""
                break
            if follow_up:
                writer.write(message("GET", "/v2/health/live"))
    finally:
        writer.close()
    return found


def test_either_lane_sends_the_same_bytes(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path) as server:
            lanes = [
                await http.start(server, address="127.0.0.1", port=0, max_input_nbytes=LIMIT, express=express)
                for express in (True, False)
            ]
            for name, request in corpus().items():
                async with asyncio.timeout(20):
                    fast, slow = [await exchange(lane.port, request) for lane in lanes]
                assert fast == slow, name
            for lane in lanes:
                await lane.close(1)

    run(test)
