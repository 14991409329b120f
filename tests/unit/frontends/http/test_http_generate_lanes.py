"""The generate calls get the same bytes from either lane, but for the date, and take the express lane where plain."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from core_harness import run, running, write_model
from http_harness import head, message
from ordinary_clients import CLIENTS
from scripted_backend import ScriptedBackend, write_script

from triton_async.frontends.gate import ApiKeys, Gate
from triton_async.frontends.http import server as http
from triton_async.frontends.http.relay import Relay

LIMIT = 1 << 17
DATE = re.compile(rb"\r\nDate: [^\r]*")
CALLS = ("generate", "generate_stream")
Corpus = Callable[[str], dict[str, bytes]]


def post(call: str, body: bytes, headers: Any = (), model: str = "m") -> bytes:
    return message("POST", f"/v2/models/{model}/{call}", body, headers)


def ask(call: str, headers: Any = (), model: str = "m", **members: Any) -> bytes:
    return post(call, json.dumps({"INPUT0": [1.5, -2], **members}).encode(), headers, model)


def chunked(call: str, body: bytes, size: int, headers: Any = ()) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    text = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head("POST", f"/v2/models/m/{call}", [*headers, ("Transfer-Encoding", "chunked")]) + text + b"0\r\n\r\n"


def old(request: bytes) -> bytes:
    return request.replace(b"HTTP/1.1", b"HTTP/1.0", 1)


def plain(call: str) -> dict[str, bytes]:
    """All of these are for the express lane."""
    fields = {
        "close": ("Connection", "close"), "keep-alive": ("Connection", "Keep-Alive"),
        "expect": ("Expect", "100-continue"), "not coded": ("Content-Encoding", "identity"),
        "coded with nothing": ("Content-Encoding", ""), "accepts": ("Accept-Encoding", "gzip, identity;q=0"),
        "header length": ("Inference-Header-Content-Length", "3"),
        "header length beyond": ("Inference-Header-Content-Length", "300"),
    }  # fmt: skip
    good, bad = b'{"INPUT0":[1,2],"id":"x"}', b'{"INPUT0":["a"]}'
    long = json.dumps({"INPUT0": [1.25] * 14_000, "id": "long"}).encode()
    found = {client: ask(call, sent) for client, sent in CLIENTS.items()}
    for name, field in fields.items():
        found[name] = ask(call, [field])
        if name != "expect":
            found[f"{name}, 1.0"] = old(found[name])
    for size in (1, 7, 100_000):
        found[f"chunks of {size}"] = chunked(call, good, size)
        found[f"chunks of {size} of a bad one"] = chunked(call, bad, size)
    return {
        **found,
        "id": ask(call, id='a"\n\\é'), "parameters": ask(call, mine="x", other=1.5, third=True),
        "nested": post(call, b'{"parameters":{"INPUT0":1,"p":2}}'), "one": post(call, b'{"INPUT0":7}'),
        "none": post(call, b'{"INPUT0":[]}'), "not finite": post(call, b'{"INPUT0":[NaN,-Inf]}'),
        "version": ask(call, model="m/versions/1"), "batched": ask(call, model="rows"),
        "bad": post(call, bad), "no object": post(call, b"[1]"), "broken": post(call, b"{"),
        "no inputs": post(call, b"{}"), "reserved": ask(call, triton_x=1),
        "twice": post(call, b'{"INPUT0":1,"INPUT0":2}'),
        "wrong id": ask(call, id=1), "null": ask(call, p=None), "huge number": post(call, b'{"INPUT0":1e999}'),
        "bad, close": post(call, bad, [("Connection", "close")]), "bad, 1.0": old(post(call, bad)),
        "bad, 1.0 keep-alive": old(post(call, bad, [("Connection", "keep-alive")])),
        "1.0": old(ask(call)), "1.0 without host": old(ask(call)).replace(b"Host: x\r\n", b""),
        "long": post(call, long), "long, bad": post(call, long[:-1] + b',"id":1}'), "long, 1.0": old(post(call, long)),
        "long, cut": post(call, long[:-1]),
        "no chunks": chunked(call, b"", 1), "too much in chunks": chunked(call, b" " * (LIMIT + 1), 30_000),
        "too many values": post(call, json.dumps({"INPUT0": [1] * 40_000}).encode()),
        "chunks, closed": chunked(call, good, 50, [("Connection", "close")]),
    }  # fmt: skip


def others(call: str) -> dict[str, bytes]:
    good = b'{"INPUT0":[1,2]}'
    return {
        "gzip": post(call, gzip.compress(good, mtime=0), [("Content-Encoding", "gzip")]),
        "twice not coded": post(call, good, [("Content-Encoding", "identity"), ("Content-Encoding", "identity")]),
        "unknown model": ask(call, model="none"), "unknown version": ask(call, model="m/versions/9"),
        "query": ask(f"{call}?x=1"), "quoted": ask(call, model="%6d"), "empty": post(call, b""),
        "too big": post(call, b" " * (LIMIT + 1)), "longer word": ask(f"{call}s"), "shorter word": ask(call[:-1]),
        "GET": message("GET", f"/v2/models/m/{call}"), "slash": ask(f"{call}/"),
        "expects, 1.0": old(ask(call, [("Expect", "100-continue")])),
        "load": ask(call, [("Endpoint-Load-Metrics-Format", "json")]),
        "odd header length": ask(call, [("Inference-Header-Content-Length", "-1")]),
    }  # fmt: skip


async def _body(reader: asyncio.StreamReader, answer: bytes) -> bytes:
    size = re.search(rb"\r\nContent-Length: (\d+)", answer, re.IGNORECASE)
    if size is not None:
        return await reader.readexactly(int(size[1]))
    if b"Transfer-Encoding: chunked" not in answer:
        return await reader.read()
    found = b""
    while nbytes := int(await reader.readline(), 16):
        found += await reader.readexactly(nbytes)
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readexactly(2) == b"\r\n"
    return found


async def exchange(port: int, request: bytes) -> bytes:
    """The answer, and that of a good request behind it: the state in which the connection is left counts too."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    found = b""
    writer.write(request)
    try:
        for follow_up in (True, False):
            answer = await reader.readuntil(b"\r\n\r\n")
            found += DATE.sub(b"", answer)
            if answer.startswith(b"HTTP/1.1 100"):
                answer = await reader.readuntil(b"\r\n\r\n")
                found += DATE.sub(b"", answer)
            found += await _body(reader, answer)
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


async def _listeners(server: Any, **more: Any) -> list[Any]:
    return [
        await http.start(server, address="127.0.0.1", port=0, max_input_nbytes=LIMIT, express=express, **more)
        for express in (True, False)
    ]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("requests", [plain, others], ids=["plain", "others"])
def test_either_lane_sends_the_same_bytes(tmp_path: Path, requests: Corpus, call: str) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "rows", max_batch_size=4)

    async def test() -> None:
        async with running(tmp_path) as server:
            lanes = await _listeners(server)
            for name, request in requests(call).items():
                async with asyncio.timeout(20):
                    fast, slow = [await exchange(lane.port, request) for lane in lanes]
                assert fast == slow, name
            for lane in lanes:
                await lane.close(1)

    run(test)


SCRIPTS = [
    ("end a",), ("say a", "say b", "end c"), ("say a", "end"), ("end",), ("later", "say a", "end b"),
    ("say a", "fail no", "end b"), ("fail no", "end b"), ("raise no",), ("say a", "raise no"), ("abort no",),
    ("say a", "drop"), ("set k v", "end a"), ("drop",), ("say " + "x" * 100_000, "end y"),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("decoupled", [False, True], ids=["one response", "decoupled"])
def test_responses_of_every_kind_are_the_same_from_either_lane(tmp_path: Path, call: str, decoupled: bool) -> None:
    write_script(tmp_path, "m", decoupled=decoupled)

    async def test() -> None:
        async with running(tmp_path, backends=ScriptedBackend()) as server:
            lanes = await _listeners(server)
            for lines in SCRIPTS:
                request = post(call, json.dumps({"SCRIPT": lines, "id": "i"}).encode())
                for sent in (request, old(request)):
                    async with asyncio.timeout(20):
                        fast, slow = [await exchange(lane.port, sent) for lane in lanes]
                    assert fast == slow, lines
            for lane in lanes:
                await lane.close(1)

    run(test)


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


@pytest.mark.parametrize("call", CALLS)
def test_what_is_plain_takes_the_express_lane(tmp_path: Path, relayed: list[bytes], call: str) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "rows", max_batch_size=4)

    async def test() -> None:
        async with running(tmp_path) as server:
            lane = await http.start(server, address="127.0.0.1", port=0, max_input_nbytes=LIMIT)
            for name, request in plain(call).items():
                relayed.clear()
                answer = await exchange(lane.port, request)
                assert [data.split()[0] for data in relayed] in ([], [b"GET"]), name
                assert bool(relayed) == (b" 200 OK\r\nServer: triton-async\r\nContent-Length: 0" in answer), name
            await lane.close(1)

    run(test)


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


@pytest.mark.parametrize("call", CALLS)
def test_callers_are_asked_in_the_express_lane_as_in_the_other(
    tmp_path: Path, relayed: list[bytes], call: str
) -> None:
    """Keys, restricted APIs and forwarded headers."""
    root = tmp_path / "models"
    config = write_model(root, "m") / "config.pbtxt"
    text = config.read_text().replace('"identity"', '"python"')
    config.write_text(text.replace('"OUTPUT0" data_type: TYPE_FP32', '"OUTPUT0" data_type: TYPE_STRING'))
    (root / "m" / "1" / "model.py").write_text(TELLS)
    (tmp_path / "keys").write_text("one\ntwo\n")
    gate = Gate({"inference": ("Secret", "s")}, ApiKeys(str(tmp_path / "keys")), frozenset({"health"}))
    keys = {"no key": [], "key": [("X-API-Key", "one")], "wrong key": [("X-API-Key", "three")]}
    secrets = {"no secret": [], "secret": [("Secret", "s")], "wrong secret": [("secret", "t")]}
    users = {"nobody": [], "user": [("X-User", "u")], "reserved": [("triton_x-user", "u")]}
    body = {"x-user": "forged", "mine": 1}

    async def test() -> None:
        async with running(root) as server:
            pattern = re.compile("x-user", re.IGNORECASE)
            lanes = await _listeners(server, gate=gate, forwarded=pattern)
            good = 0
            for names in itertools.product(keys, secrets, users):
                key, secret, user = names
                relayed.clear()
                request = ask(call, [*keys[key], *secrets[secret], *users[user]], **body)
                fast, slow = [await exchange(lane.port, request) for lane in lanes]
                assert fast == slow, names
                if b" 200 OK\r\nServer: triton-async\r\nContent-Type" in fast:
                    good += 1
                    assert all(data.startswith(b"GET") for data in relayed)
                    assert (b"forged" in fast) == (user == "nobody")
            assert good == 2
            for lane in lanes:
                await lane.close(1)

    run(test)
