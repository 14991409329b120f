"""The same request gets the same bytes from either lane, but for the date."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_harness import run, running, write_model
from http_harness import Client, head, infer_body, message
from ordinary_clients import CLIENTS

from triton_async.frontends.gate import ApiKeys, Gate
from triton_async.frontends.http import server as http
from triton_async.frontends.http.relay import Relay

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


def chunked(body: bytes, headers: Any, size: int, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    text = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    start = head("POST", "/v2/models/m/infer", [*headers, ("Transfer-Encoding", "chunked")])
    return start + text + b"0\r\n" + trailers + b"\r\n"


def old(request: bytes) -> bytes:
    return request.replace(b"HTTP/1.1", b"HTTP/1.0", 1)


# What ordinary clients send, and its variations. All of these are for the express lane.
def plain() -> dict[str, bytes]:
    good, headers = infer_body(np.float32([1, 2]))
    large, large_headers = infer_body(np.zeros(30_000, np.float32))
    noise, noise_headers = infer_body(np.random.default_rng(3).standard_normal(30_000, np.float32))
    bad, bad_headers = infer_body(np.float32([1, 2]), outputs=[{"name": "nope"}])
    bodies = {"good": (good, headers), "large": (large, large_headers), "noise": (noise, noise_headers),
              "bad": (bad, bad_headers)}  # fmt: skip
    as_json = infer_body(np.full(30_000, 1.25, np.float32), parameters={})
    accepts = {
        "gzip": "gzip", "deflate first": "deflate, gzip", "browser": "gzip, deflate, br, zstd", "upper case": "GZIP",
        "star": "*", "no star": "*;q=0",
        "identity": "identity", "identity first": "identity, gzip", "other": "br, zstd",
        "weights": "gzip;q=0.5, deflate;q=0.8", "identity refused": "gzip, identity;q=0", "empty": "",
        "only gzip": "gzip, *;q=0", "spaces": " gzip ; q=1.0 ,\tdeflate ",
        "nonsense": "gzip;q=x, ;;, q, deflate;q=2",
        "no gzip": "gzip;q=0.000", "parameters": "gzip;level=9, deflate;q=0.1",
    }  # fmt: skip
    fields = {
        "close": ("Connection", "close"), "keep-alive": ("Connection", "Keep-Alive"),
        "list": ("Connection", "keep-alive, TE"), "close in a list": ("Connection", "te,, Close"),
        "expect": ("Expect", "100-continue"), "type": ("Content-Type", "text/plain; charset=utf-8"),
        "not coded": ("Content-Encoding", "identity"), "coded with nothing": ("Content-Encoding", ""),
        "upgrade": ("Connection", "Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ"),
        "websocket": ("Connection", "upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eHg="),
        "close twice": ("Connection", "close\r\nConnection: close"), "trailer": ("Trailer", "Digest"),
        "load": ("Endpoint-Load-Metrics-Format", "json"),
        "both": ("Connection", "keep-alive, close"),
    }  # fmt: skip
    found = {f"{client} {name}": post(body, [*fields, *lengths])
             for client, fields in CLIENTS.items() for name, (body, lengths) in bodies.items()}  # fmt: skip
    for name, accept in accepts.items():
        for kind, (body, lengths) in {**bodies, "json": as_json}.items():
            found[f"accepts {name}: {kind}"] = post(body, [*lengths, ("Accept-Encoding", accept)])
    for name, field in fields.items():
        found[name] = post(good, [*headers, field])
        if name not in ("expect", "both"):
            found[f"{name}, 1.0"] = old(found[name])
    for size in (1, 7, 100_000):
        found[f"chunks of {size}"] = chunked(good, headers, size)
        found[f"chunks of {size} of a bad one"] = chunked(bad, bad_headers, size)
    return {
        **found,
        "1.0": old(post(good, headers)),
        "1.0 without host": old(post(good, headers)).replace(b"Host: x\r\n", b""),
        "1.0 keep-alive": old(post(good, [*headers, ("Connection", "keep-alive")])),
        "1.0 keep-alive, bad": old(post(bad, [*bad_headers, ("Connection", "keep-alive")])),
        "1.0 keep-alive, large": old(post(noise, [*noise_headers, ("Connection", "keep-alive")])),
        "1.0 compressed": old(post(large, [*large_headers, ("Accept-Encoding", "gzip")])),
        "chunks with extensions and trailers": chunked(good, headers, 40, b';a="b\\"c";d', b"Digest: x\r\n"),
        "large in chunks": chunked(noise, noise_headers, 9_999),
        "chunks, compressed": chunked(large, [*large_headers, ("Accept-Encoding", "gzip")], 9_999),
        "chunks, expected": chunked(good, [*headers, ("Expect", "100-continue")], 50),
        "chunks, closed": chunked(good, [*headers, ("Connection", "close")], 50),
        "chunks without a header length": chunked(b"{}", [], 2),
        "no chunks": chunked(b"", [], 1),
        "no chunks, raw": chunked(b"", [(LENGTH, "0")], 1),
        "raw in chunks": chunked(np.float32([3, 4]).tobytes(), [(LENGTH, "0")], 3),
        "chunks, length beyond": chunked(good, [(LENGTH, str(len(good) + 1))], 50),
        "too much in chunks": chunked(b" " * (LIMIT + 1), [], 30_000),
        "too much raw in chunks": chunked(b" " * (LIMIT + 1), [(LENGTH, "0")], 30_000),
        "too much JSON in chunks": chunked(b" " * (LIMIT + 9), [(LENGTH, str(LIMIT + 5))], 30_000),
    }


def corpus() -> dict[str, bytes]:
    good, headers = infer_body(np.float32([1, 2]))
    large, large_headers = infer_body(np.zeros(15_000, np.float32))
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
        "gzip body": post(gzip.compress(good, mtime=0), [*headers, ("Content-Encoding", "gzip")]),
        "gzip both ways": post(
            gzip.compress(large, mtime=0),
            [*large_headers, ("Content-Encoding", "gzip"), ("Accept-Encoding", "gzip")],
        ),
        "accepted twice": post(good, [*headers, ("Accept-Encoding", "gzip, *;q=0"), ("Accept-Encoding", "deflate")]),
        "query": text("/v2/models/m/infer?x=1"),
        "query, 1.0": old(text("/v2/models/m/infer?x=1")),
        "quoted name": text("/v2/models/%6d/infer"),
        "absolute": text("http://x/v2/models/m/infer"),
        "expects, 1.0": old(post(good, [*headers, ("Expect", "100-continue")])),
        "expects twice": post(good, [*headers, ("Expect", "100-continue"), ("Expect", "100-continue")]),
        "both, 1.0": old(post(good, [*headers, ("Connection", "keep-alive, close")])),
        "no list": post(good, [*headers, ("Connection", "close keep-alive")]),
        "chunks for another path": message("POST", "/v2/repository/index").replace(
            b"Content-Length: 0\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1;a\r\n{\r\n1\r\n}\r\n0\r\nX: y\r\n\r\n"
        ),
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
            if b"Connection: close" in answer or (
                answer.startswith(b"HTTP/1.0") and b"Connection: keep-alive" not in answer
            ):
                assert await reader.read() == b""
                break
            if follow_up:
                writer.write(message("GET", "/v2/health/live"))
    finally:
        writer.close()
    return found


@pytest.mark.parametrize("requests", [plain, corpus], ids=["plain", "corpus"])
def test_either_lane_sends_the_same_bytes(tmp_path: Path, requests: Callable[[], dict[str, bytes]]) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path) as server:
            lanes = [
                await http.start(server, address="127.0.0.1", port=0, max_input_nbytes=LIMIT, express=express)
                for express in (True, False)
            ]
            for name, request in requests().items():
                async with asyncio.timeout(20):
                    fast, slow = [await exchange(lane.port, request) for lane in lanes]
                assert fast == slow, name
            for lane in lanes:
                await lane.close(1)

    run(test)


# Heads of callers, by what they show.
def callers() -> dict[str, bytes]:
    good, headers = infer_body(np.float32([1, 2]), parameters={"x-user": "forged", "mine": 1})
    long = json.dumps({"inputs": [{"name": "INPUT0", "shape": [9000], "datatype": "FP32", "data": [1.25] * 9000}]})
    shown = {
        "nothing": [], "key": [("X-API-Key", "one")], "bearer": [("Authorization", "bearer two")],
        "wrong key": [("X-API-Key", "three")], "basic": [("Authorization", "Basic one")],
        "both, one wrong": [("X-API-Key", "three"), ("Authorization", "Bearer one")],
        "twice, first wrong": [("X-API-Key", "three"), ("x-api-key", "one")],
        "twice, second wrong": [("x-api-key", "one"), ("X-API-Key", "three")],
        "no ASCII": [("X-API-Key", "k\xc3\xa9")], "no UTF-8": [("X-API-Key", "one\xff")],
    }  # fmt: skip
    secret = {"": [], "secret": [("Secret", "s")], "wrong secret": [("secret", "t")]}
    more = {
        "": [], "user": [("X-User", "u")], "users": [("X-User", "u"), ("x-user", "v"), ("X-Usergroup", "\xc3\xa9")],
        "reserved": [("X-User", "u"), ("triton_x-user", "u")],
    }  # fmt: skip
    found = {
        f"{key}, {word}, {name}": post(good, [*headers, *shown[key], *secret[word], *more[name]])
        for key in shown for word in secret for name in more
    }  # fmt: skip
    found["long"] = post(long.encode(), [*shown["key"], *secret["secret"], *more["user"]])
    return found


TELLS = """
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", np.array([request.parameters()], np.object_))])
            for request in requests
        ]
"""


def write_telling_model(root: Path) -> None:
    """Answers with the parameters of the request."""
    config = write_model(root, "m") / "config.pbtxt"
    text = config.read_text().replace('"identity"', '"python"')
    config.write_text(text.replace('"OUTPUT0" data_type: TYPE_FP32', '"OUTPUT0" data_type: TYPE_STRING'))
    (root / "m" / "1" / "model.py").write_text(TELLS)


@pytest.fixture
def relayed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the full parser was given."""
    found: list[bytes] = []
    feed = Relay.feed

    def watch(relay: Relay, data: bytes) -> None:
        found.append(data)
        feed(relay, data)

    monkeypatch.setattr(Relay, "feed", watch)
    return found


def test_callers_are_asked_in_the_express_lane_as_in_the_other(tmp_path: Path, relayed: list[bytes]) -> None:
    """Keys, restricted APIs and forwarded headers: the same answers, and who is let in is answered by the express
    lane."""
    root = tmp_path / "models"
    write_telling_model(root)
    (tmp_path / "keys").write_bytes(b"one\ntwo\nk\xc3\xa9\n")
    gate = Gate({"inference": ("Secret", "s")}, ApiKeys(str(tmp_path / "keys")), frozenset({"health"}))

    async def test() -> None:
        async with running(root) as server:
            lanes = [
                await http.start(
                    server, address="127.0.0.1", port=0, max_input_nbytes=LIMIT, express=express, gate=gate,
                    forwarded=re.compile("x-user", re.IGNORECASE),
                )
                for express in (True, False)
            ]  # fmt: skip
            good = 0
            for name, request in callers().items():
                relayed.clear()
                fast, slow = [await exchange(lane.port, request) for lane in lanes]
                assert fast == slow, name
                if b" 200 OK\r\nServer: triton-async\r\nContent-Type" in fast:
                    good += 1
                    assert all(data.startswith(b"GET") for data in relayed), name
                    assert (b"forged" in fast) == name.endswith(", "), name
            assert good > 10
            for lane in lanes:
                await lane.close(1)

    run(test)


def test_a_key_that_is_taken_back_no_longer_opens_a_connection_that_it_has_opened(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m")
    (tmp_path / "keys").write_text("old\nnew")
    keys = ApiKeys(str(tmp_path / "keys"))
    good, headers = infer_body(np.float32([1, 2]))
    asks = {key: post(good, [*headers, ("X-API-Key", key)]) for key in ("old", "new")}

    async def test() -> None:
        async with running(tmp_path / "models") as server:
            lane = await http.start(server, address="127.0.0.1", port=0, max_input_nbytes=LIMIT, gate=Gate(keys=keys))
            client = await Client.connect(lane.port)

            async def status(key: str) -> int:
                await client.send(asks[key])
                return (await client.receive()).status

            assert [await status(key) for key in ("old", "old", "new", "old")] == [200] * 4
            (tmp_path / "keys").write_text("new")
            keys.renew()()
            assert [await status(key) for key in ("old", "new", "old")] == [401, 200, 401]
            client.close()
            await lane.close(1)

    run(test)


def test_forwarded_headers_are_those_of_each_request(tmp_path: Path) -> None:
    """Also where a head, and a body, came before."""
    write_telling_model(tmp_path)
    good, headers = infer_body(np.float32([1, 2]), parameters={})

    async def test() -> None:
        async with running(tmp_path) as server:
            pattern = re.compile("^x-", re.IGNORECASE)
            lane = await http.start(server, address="127.0.0.1", port=0, max_input_nbytes=LIMIT, forwarded=pattern)
            client = await Client.connect(lane.port)
            for user in ("a", "a", "b", None, None, "a"):
                await client.send(post(good, [*headers, *([] if user is None else [("X-User", user)])]))
                (told,) = json.loads((await client.receive()).body)["outputs"][0]["data"]
                assert json.loads(told) == ({} if user is None else {"X-User": user})
            client.close()
            await lane.close(1)

    run(test)


def test_what_is_plain_takes_the_express_lane(tmp_path: Path, relayed: list[bytes]) -> None:
    """Not one of these may quietly become slow. The second request of each exchange shows that it would be seen."""
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path) as server:
            lane = await http.start(server, address="127.0.0.1", port=0, max_input_nbytes=LIMIT)
            for name, request in plain().items():
                relayed.clear()
                answer = await exchange(lane.port, request)
                assert [data.split()[0] for data in relayed] in ([], [b"GET"]), name
                assert bool(relayed) == (b" 200 OK\r\nServer: triton-async\r\nContent-Length: 0" in answer), name
            await lane.close(1)

    run(test)
