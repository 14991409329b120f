"""Paths, methods and control calls over a real port."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from core_harness import run, write_model
from http_harness import LIMIT, Client, ask, message, serving

from triton_async.errors import Code
from triton_async.frontends.http.routes import CATEGORIES, Route, RouteTable, path_of
from triton_async.frontends.http.server import HttpService
from triton_async.frontends.http.status import http_status

POST = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n"
NOT_YET = "is not supported by this server yet"
NO_REGIONS = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."

# method, path, status
TABLE = [
    ("GET", "/v2/health/live", 200), ("GET", "/v2/health/ready", 200), ("GET", "/v2/health/ready?x=1", 200),
    ("GET", "/v2/health", 404), ("GET", "/v2/health/live/", 404), ("POST", "/v2/health/live", 405),
    ("HEAD", "/v2/health/ready", 405), ("GET", "/v2", 200), ("GET", "/v2/", 404), ("GET", "/", 404),
    ("GET", "//v2", 404), ("GET", "/V2", 404), ("GET", "http://x/v2", 200),
    ("GET", "/v2/models", 404), ("GET", "/v2/models/m", 200), ("GET", "/v2/models/m/", 404),
    ("GET", "/v2/models/m/versions/1", 200), ("GET", "/v2/models/m/versions/001", 200),
    ("GET", "/v2/models/m/versions/7", 404), ("GET", "/v2/models/m/versions/x", 404),
    ("GET", "/v2/models/m/versions/-1", 404), ("GET", "/v2/models/m/versions/99999999999999999999", 400),
    ("GET", "/v2/models/m/ready", 200), ("GET", "/v2/models/nobody/ready", 400),
    ("GET", "/v2/models/m/versions/9/ready", 400), ("GET", "/v2/models/m/config", 200),
    ("POST", "/v2/models/m/config", 405), ("GET", "/v2/models/m/stats", 200), ("GET", "/v2/models/stats", 200),
    ("GET", "/v2/models/m/infer", 405), ("PUT", "/v2/models/m/infer", 405), ("DELETE", "/v2/models/m/infer", 405),
    ("OPTIONS", "/v2/models/m/infer", 405), ("POST", "/v2/models/m/infer/", 404), ("POST", "/v2/models/m/other", 404),
    ("POST", "/v2/models/%6d/infer", 200), ("GET", "/v2/models/m%2Fready", 404), ("GET", "/v2/models/%2e%2E", 404),
    ("GET", "/v2/models/%zz", 404), ("GET", "/v2/models/%6", 404), ("GET", "/v2/models/m%ff", 404),
    ("POST", "/v2/models/m/generate", 400),
    ("POST", "/v2/models/m/versions/1/generate_stream", 400), ("GET", "/v2/trace/setting", 200),
    ("POST", "/v2/models/m/trace/setting", 400), ("GET", "/v2/models/m/versions/1/trace/setting", 404),
    ("GET", "/v2/logging", 200), ("POST", "/v2/logging", 400), ("PUT", "/v2/logging", 405),
    ("POST", "/v2/repository/index", 200), ("POST", "/v2/repository/any/index", 200),
    ("GET", "/v2/repository/index", 405), ("POST", "/v2/repository/models/x/other", 404),
    ("POST", "/v2/repository/r/models/m/load", 501), ("POST", "/v2/repository/models/m/load", 503),
    ("GET", "/v2/systemsharedmemory/status", 200), ("GET", "/v2/cudasharedmemory/status", 200),
    ("GET", "/v2/systemsharedmemory/region/r/status", 404), ("POST", "/v2/systemsharedmemory/region/r/register", 501),
    ("POST", "/v2/cudasharedmemory/unregister", 501), ("POST", "/v2/systemsharedmemory/status", 405),
]  # fmt: skip


def test_every_path_has_its_answer(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            for method, path, status in TABLE:
                answer = await ask(endpoint.port, method, path)
                assert answer.status == status, (method, path, answer)
                if status in (404, 405) and path.startswith("/v2/h") and method != "HEAD":
                    assert answer.error == ("Not Found" if status == 404 else "Method Not Allowed")
                if status == 501 and "sharedmemory" in path:
                    assert answer.error == NO_REGIONS
                elif status == 501 and "repository" not in path:
                    assert answer.error.endswith(NOT_YET)
                assert answer.headers["server"] == "triton-async"

    run(test)


def test_names_are_decoded_once(tmp_path: Path) -> None:
    """Clients quote names with a space, a plus or letters beyond ASCII."""
    for name in ("a b", "a+b", "für", "a%20b"):
        write_model(tmp_path, name)

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            quoted = {"a%20b": "a b", "a+b": "a+b", "a%2Bb": "a+b", "f%C3%BCr": "für", "a%2520b": "a%20b"}
            for path, name in quoted.items():
                answer = await ask(endpoint.port, "GET", f"/v2/models/{path}")
                assert json.loads(answer.body)["name"] == name
                assert (await ask(endpoint.port, "POST", f"/v2/models/{path}/versions/1/infer")).status == 200
            missing = await ask(endpoint.port, "GET", "/v2/models/a%2Fb%0A%22")
            assert (missing.status, missing.error) == (404, "Request for unknown model: 'a/b\n\"' is not found")

    run(test)


@pytest.mark.parametrize(("accept", "body"), [
    ("", b""), ("text/plain", b""), ("application/json", b'{"live":true}'), ("*/*", b'{"live":true}'),
    ("text/html, application/json;q=0.9", b'{"live":true}'), ("application/jsonx", b""),
])  # fmt: skip
def test_health_has_a_body_where_a_client_takes_json(tmp_path: Path, accept: str, body: bytes) -> None:
    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            headers = [("Accept", accept)] if accept else []
            answer = await ask(endpoint.port, "GET", "/v2/health/live", b"", headers)
            assert (answer.status, answer.body) == (200, body)
            assert (await ask(endpoint.port, "GET", "/v2/health/ready", b"", headers)).body == body.replace(
                b"live", b"ready"
            )

    run(test)


def test_bodies_of_the_control_calls(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=4)

    async def test() -> None:
        async with serving(tmp_path, "--model-control-mode=explicit") as (server, endpoint):

            async def get(path: str, method: str = "GET", body: bytes = b"") -> object:
                answer = await ask(endpoint.port, method, path, body)
                assert answer.status == 200, answer
                return json.loads(answer.body) if answer.body else None

            assert await get("/v2/repository/index", "POST") == [{"name": "m"}]
            assert await get("/v2/repository/index", "POST", b'{"ready":true}') == []
            assert await get("/v2/repository/models/m/load", "POST", b"{}") is None
            assert await get("/v2") == server.metadata()
            metadata = await get("/v2/models/m")
            assert metadata == server.model_metadata("m")
            assert list(metadata)[:2] == ["name", "versions"]  # type: ignore[call-overload]
            config = await get("/v2/models/m/versions/1/config")
            assert config["max_batch_size"] == 4  # type: ignore[index]
            assert await get("/v2/models/m/stats") == await get("/v2/models/stats")
            assert await get("/v2/repository/models/m/unload", "POST") is None
            missing = await ask(endpoint.port, "POST", "/v2/repository/models/nobody/load")
            assert (missing.status, missing.error) == (
                500, "failed to load 'nobody', failed to poll from model repository",
            )  # fmt: skip
            for depth in (1, 150, 5000):
                deep = b'{"ready":' + b"[" * depth + b"]" * depth + b"}"
                answer = await ask(endpoint.port, "POST", "/v2/repository/index", deep)
                assert (answer.status, answer.error) == (400, "Invalid value for 'ready': expected a boolean")
            large = b'{"parameters":{"config":"' + b"x" * LIMIT + b'"}}'
            answer = await ask(endpoint.port, "POST", "/v2/repository/models/m/load", large)
            assert (answer.status, answer.error) == (
                400, f"request JSON size of {len(large)} bytes exceeds the maximum allowed input size of {LIMIT} "
                "bytes. Use --http-max-input-size to increase the limit.",
            )  # fmt: skip
            broken = await ask(endpoint.port, "POST", "/v2/repository/index", b"{")
            assert broken.status == 400

    run(test)


def test_a_target_is_cut_down_to_its_path() -> None:
    targets = {"/a?b#c": "/a", "/a#c?b": "/a", "http://h:1/a?b": "/a", "HTTPS://h": "/", "*": "*", "x://h/a": "x://h/a"}
    assert {target: path_of(target) for target in targets} == targets


def test_every_row_has_a_category_and_a_row_without_one_stops_the_start(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with serving(tmp_path) as (server, _):
            rows = HttpService(server, 1).routes.routes
            assert {row.category for row in rows} == set(CATEGORIES)
            assert len({(row.pattern, row.method) for row in rows}) == len(rows)

    run(test)
    with pytest.raises(ValueError, match="has no restricted-API category"):
        RouteTable([Route("/x", "GET", "", print)])
    with pytest.raises(ValueError, match="appears twice"):
        RouteTable([Route("/x", "GET", "health", print)] * 2)
    with pytest.raises(ValueError, match="another category than its path"):
        RouteTable([Route("/x", "GET", "health", print), Route("/x", "POST", "trace", print)])


def test_status_numbers() -> None:
    assert {code.name: http_status(code) for code in Code} == {
        "UNKNOWN": 400, "INTERNAL": 500, "NOT_FOUND": 404, "INVALID_ARG": 400, "UNAVAILABLE": 503,
        "UNSUPPORTED": 501, "ALREADY_EXISTS": 400, "CANCELLED": 400,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        b"hello\r\n\r\n",
        b"get /v2 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nBad Name: x\r\n\r\n",
        POST + b"Content-Length: +5\r\n\r\nhello",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
    ],
    ids=range(9),
)
def test_broken_framing_is_refused_and_nothing_behind_it_is_answered(tmp_path: Path, text: bytes) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            client = await Client.connect(endpoint.port)
            await client.send(text + message("GET", "/v2"))
            answer = await client.receive()
            # Only our own parser tells what is too long from other nonsense.
            assert answer.status in (400, 414, 431)
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["server"] == "triton-async"
            assert answer.headers["connection"] == "close"
            assert answer.error
            # Nothing of what was sent, which may be a secret.
            assert not any(word in answer.error for word in ("Bad Name", "aaa", "get /v2", "+5", "zz"))
            assert await client.closed()
            client.close()

    run(test)
