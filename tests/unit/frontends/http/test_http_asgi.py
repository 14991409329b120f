"""The HTTP front-end as an ASGI application answers as its port does, byte for byte, and keeps nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_harness import run, write_model
from http_harness import LIMIT, Client, infer_body, message, serving

from triton_async.defines import ASGI_IDLE_CONNECTIONS
from triton_async.frontends.http.asgi import AsgiApp
from triton_async.frontends.http.connection import live_connections
from triton_async.frontends.http.express import ExpressListener
from triton_async.frontends.http.listener import Listener

LENGTH = "Inference-Header-Content-Length"
JSON = json.dumps({"inputs": [{"name": "INPUT0", "shape": [2], "datatype": "FP32", "data": [1.5, -2]}]}).encode()
LARGE = np.arange(100_000, dtype=np.float32)
# Of HTTP itself; the ASGI server says them.
OF_THE_CONNECTION = {"date", "connection", "transfer-encoding", "keep-alive", "server"}


class Sent:
    """What an application has sent, and what it receives: pieces, then nothing more."""

    def __init__(self, *pieces: bytes, leaves: bool = False) -> None:
        self._pieces = list(pieces) or [b""]
        self._leaves = leaves
        self.messages: list[Any] = []
        self.read = 0

    async def receive(self) -> Any:
        if self._pieces:
            piece = self._pieces.pop(0)
            self.read += len(piece)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces) or self._leaves}
        if self._leaves:
            return {"type": "http.disconnect"}
        await asyncio.Event().wait()
        return None

    async def send(self, found: Any) -> None:
        self.messages.append(found)

    @property
    def status(self) -> int:
        assert self.messages[0]["type"] == "http.response.start"
        return int(self.messages[0]["status"])

    @property
    def fields(self) -> dict[str, str]:
        return {name.decode().lower(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        assert not self.messages[-1].get("more_body", False)
        return b"".join(found["body"] for found in self.messages[1:])


def scope(method: str, path: str, headers: Any = (), **more: Any) -> dict[str, Any]:
    path, _, query = path.partition("?")
    fields = [(b"host", b"x"), *((name.lower().encode(), value.encode()) for name, value in headers)]
    return {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": fields, "client": ("192.0.2.1", 5), **more,
    }  # fmt: skip


@asynccontextmanager
async def application(root: Path, *options: str, limit: int = LIMIT) -> AsyncIterator[tuple[AsgiApp, Listener]]:
    async with serving(root, *options, limit=limit) as (_, endpoint):
        assert isinstance(endpoint, ExpressListener)
        yield AsgiApp(endpoint), endpoint


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_model(tmp_path, "m")
    return tmp_path


async def ask(app: AsgiApp, method: str, path: str, *pieces: bytes, headers: Any = ()) -> Sent:
    found = Sent(*pieces)
    async with asyncio.timeout(20):
        await app(scope(method, path, headers), found.receive, found.send)
    return found


REQUESTS = {
    "live": ("GET", "/v2/health/live", b"", []),
    "ready for KServe": ("GET", "/v2/health/ready", b"", [("Accept", "application/json")]),
    "metadata": ("GET", "/v2", b"", []),
    "model": ("GET", "/v2/models/m", b"", []),
    "config": ("GET", "/v2/models/m/config", b"", []),
    "infer JSON": ("POST", "/v2/models/m/infer", JSON, []),
    "infer binary": ("POST", "/v2/models/m/infer", *infer_body(np.float32([1, 2]))),
    "infer large": ("POST", "/v2/models/m/infer", *infer_body(LARGE)),
    "compressed answer": ("POST", "/v2/models/m/infer", infer_body(LARGE)[0],
                          [*infer_body(LARGE)[1], ("Accept-Encoding", "gzip")]),
    "generate": ("POST", "/v2/models/m/generate", b'{"INPUT0": [1, 2]}', []),
    "generate_stream": ("POST", "/v2/models/m/generate_stream", b'{"INPUT0": [1, 2]}', []),
    "index": ("POST", "/v2/repository/index", b"", []),
    "nothing there": ("GET", "/v3", b"", []),
    "wrong method": ("DELETE", "/v2/models/m/infer", b"", []),
    "unknown model": ("POST", "/v2/models/nope/infer", JSON, []),
    "wrong JSON": ("POST", "/v2/models/m/infer", b'{"inputs": [', []),
    "wrong shape": ("POST", "/v2/models/m/infer", JSON.replace(b"[2]", b"[3]"), []),
    "wrong header length": ("POST", "/v2/models/m/infer", JSON, [(LENGTH, "100000")]),
    "too large": ("POST", "/v2/models/m/infer", bytes(LIMIT + 1), []),
    "HEAD": ("HEAD", "/v2/health/live", b"", []),
    "percent": ("GET", "/v2/models/%6D", b"", []),
    "a query": ("GET", "/v2/models/m?x=1", b"", []),
    "the page": ("GET", "/", b"", []),
}  # fmt: skip


async def _whole(port: int, method: str, path: str, body: bytes, headers: Any) -> tuple[int, dict[str, str], bytes]:
    """What the port answers, read until it closes or says its length."""
    client = await Client.connect(port)
    await client.send(message(method, path, body, headers))
    answer = await client.receive(head_only=True)
    if answer.headers.get("transfer-encoding") == "chunked":
        found = b""
        while size := int((await client.reader.readline()).strip(), 16):
            found += await client.reader.readexactly(size)
            await client.reader.readexactly(2)
    else:
        length = int(answer.headers.get("content-length", "0"))
        found = b"" if method == "HEAD" else await client.reader.readexactly(length)
    client.close()
    return answer.status, answer.headers, found


def test_it_answers_as_the_port_does(models: Path) -> None:
    async def main() -> None:
        async with application(models) as (app, endpoint):
            for name, (method, path, body, headers) in REQUESTS.items():
                status, fields, whole = await _whole(endpoint.port, method, path, body, headers)
                for _ in range(2):  # the second one on a connection that was used
                    found = await ask(app, method, path, body, headers=headers)
                    kept = {key: value for key, value in fields.items() if key not in OF_THE_CONNECTION}
                    ours = {key: value for key, value in found.fields.items() if key not in OF_THE_CONNECTION}
                    assert (found.status, ours, found.body) == (status, kept, whole), name
    run(main)


def test_bodies_come_in_pieces_with_and_without_a_length(models: Path) -> None:
    async def main() -> None:
        body, headers = infer_body(LARGE)
        pieces = [body[at : at + 70_000] for at in range(0, len(body), 70_000)]
        async with application(models) as (app, _):
            whole = await ask(app, "POST", "/v2/models/m/infer", body, headers=headers)
            for more in ([], [("Content-Length", str(len(body)))]):
                found = await ask(app, "POST", "/v2/models/m/infer", *pieces, headers=[*headers, *more])
                assert (found.status, found.body) == (200, whole.body)
    run(main)


def test_what_is_too_large_is_refused_before_it_has_come(models: Path) -> None:
    async def main() -> None:
        async with application(models) as (app, _):
            found = Sent(*[bytes(1 << 16)] * 1000)
            await app(scope("POST", "/v2/models/m/infer", [("Content-Length", str(1000 << 16))]),
                      found.receive, found.send)  # fmt: skip
            assert found.status == 400
            assert b"larger than" in found.body or b"exceed" in found.body, found.body
            assert found.read <= LIMIT
    run(main)


def test_requests_at_once_have_connections_of_their_own_and_leave_few(models: Path) -> None:
    async def main() -> None:
        write_model(models, "slow", delay_ms=20)
        async with application(models) as (app, endpoint):
            asked = [ask(app, "POST", f"/v2/models/{'slow' if i % 20 == 0 else 'm'}/infer", JSON) for i in range(200)]
            assert {found.status for found in await asyncio.gather(*asked)} == {200}
            await asyncio.sleep(0)
            assert live_connections() <= ASGI_IDLE_CONNECTIONS
        assert not endpoint.connected
    run(main)


def test_a_client_that_leaves_cancels_its_request(models: Path) -> None:
    async def main() -> None:
        write_model(models, "slow", delay_ms=50)
        async with serving(models) as (server, endpoint):
            assert isinstance(endpoint, ExpressListener)
            app = AsgiApp(endpoint)
            first = asyncio.ensure_future(ask(app, "POST", "/v2/models/slow/infer", JSON))
            second = asyncio.ensure_future(ask(app, "POST", "/v2/models/slow/infer", JSON))
            await asyncio.sleep(0.01)
            second.cancel()
            assert (await first).status == 200
            found = Sent(JSON[:10], leaves=True)
            await app(scope("POST", "/v2/models/m/infer", [("Content-Length", "1000")]), found.receive, found.send)
            assert found.messages == []
            async with asyncio.timeout(20):
                while live_connections() > 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            (entry,) = server.statistics("slow")
            assert entry["inference_count"] == 1
    run(main)


@pytest.mark.parametrize("where", ["name", "value", "path", "query"])
def test_what_would_end_a_line_of_the_head_is_refused(models: Path, where: str) -> None:
    async def main() -> None:
        wrong = scope("GET", "/v2/health/live")
        if where == "path":
            wrong["raw_path"] = b"/v2/health/live HTTP/1.1"
        elif where == "query":
            wrong["query_string"] = b"a\r\nb: c"
        else:
            wrong["headers"] = [(b"a\n", b"b") if where == "name" else (b"a", b"b\r\nc: d")]
        async with application(models) as (app, _):
            found = Sent()
            await app(wrong, found.receive, found.send)
            assert (found.status, found.body) == (400, b"")
    run(main)


def test_it_may_be_mounted_below_a_path(models: Path) -> None:
    async def main() -> None:
        async with application(models) as (app, _):
            for path, status in (("/models/v2/models/m", 200), ("/v2/models/m", 200), ("/modelsv2", 404)):
                found = Sent()
                await app(scope("GET", path, root_path="/models"), found.receive, found.send)
                assert found.status == status, path
    run(main)


def test_its_life_is_acknowledged_and_websockets_are_refused(models: Path) -> None:
    async def main() -> None:
        async with application(models) as (app, _):
            asked = iter(["lifespan.startup", "lifespan.shutdown"])
            sent: list[Any] = []

            async def receive() -> Any:
                return {"type": next(asked)}

            async def send(found: Any) -> None:
                sent.append(found["type"])

            await app({"type": "lifespan"}, receive, send)
            assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
            await app({"type": "websocket"}, receive, send)
            assert sent[-1] == "websocket.close"
    run(main)
