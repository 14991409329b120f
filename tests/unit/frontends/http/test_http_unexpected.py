"""What goes wrong in the server itself: every route answers with 500 and no word of what it was, and goes on."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_harness import run, write_model
from http_harness import Client, infer_body, message, serving, values_of

from triton_async.frontends.http import connection
from triton_async.frontends.http.server import HttpService

SECRET = "secret at /srv/models, 0x7f00dead"
FAILED = {"error": "internal error, see the log of the server"}


async def fail(*_: Any) -> Any:
    raise RuntimeError(SECRET)


def path_of(pattern: str) -> str:
    """A path that a route's pattern matches."""
    for group, one in {
        "(?:/versions/([0-9]+))?": "", "(?:/([^/]+))?": "", "(?:/region/([^/]+))?": "/region/r",
        "(system|cuda)": "system", "(generate|generate_stream)": "generate_stream", "([^/]+)": "m", "\\.": ".",
    }.items():  # fmt: skip
        pattern = pattern.replace(group, one)
    return pattern


@pytest.fixture
def all_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = HttpService._rows
    monkeypatch.setattr(
        HttpService, "_rows", lambda self: [dataclasses.replace(route, handler=fail) for route in rows(self)]
    )


def test_an_exception_in_a_handler_is_an_answer(
    tmp_path: Path, all_fail: None, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(tmp_path, "m")
    sent = np.ones((1,), np.float32)
    body, headers = infer_body(sent)

    async def test() -> None:
        async with serving(tmp_path) as (server, endpoint):
            service = HttpService(server, 1 << 20)
            known = [(route.method, path_of(route.pattern)) for route in service.routes.routes]
            assert len(known) > 20 and all(re.fullmatch("[a-z0-9_/.]+", path) for _, path in known)
            client = await Client.connect(endpoint.port)
            for method, path in known:
                # A query keeps it from the express lane, which has no handlers.
                await client.send(message(method, f"{path}?x", b"{}" if method == "POST" else b""))
                answer = await client.receive()
                assert (answer.status, json.loads(answer.body)) == (500, FAILED), (path, answer)
            # The connection, and the server, go on.
            await client.send(message("POST", "/v2/models/m/infer", body, headers))
            assert values_of(await client.receive()) == sent
            client.close()
            assert sum(record.exc_info is not None for record in caplog.records) == len(known)

    with caplog.at_level(logging.ERROR):
        run(test)


@pytest.mark.parametrize("call", ["infer", "generate", "generate_stream"])
@pytest.mark.parametrize("query", ["", "?x"], ids=["express", "slow"])
def test_so_is_one_beside_the_handlers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str, query: str
) -> None:
    write_model(tmp_path, "m")
    sent = np.ones((1,), np.float32)
    body, headers = infer_body(sent)

    def explain(name: str, version: int) -> Exception:
        raise RuntimeError(SECRET)

    async def test() -> None:
        async with serving(tmp_path) as (server, endpoint):
            monkeypatch.setattr(server.repository, "explain", explain)
            client = await Client.connect(endpoint.port)
            for _ in range(3):
                await client.send(message("POST", f"/v2/models/nobody/{call}{query}", body, headers))
                answer = await client.receive()
                assert (answer.status, json.loads(answer.body)) == (500, FAILED), answer
                await client.send(message("POST", "/v2/models/m/infer", body, headers))
                assert values_of(await client.receive()) == sent
            client.close()
            assert sum(record.exc_info is not None for record in caplog.records) == 3

    run(test)


def test_what_goes_wrong_with_a_connection_is_an_answer_and_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path, "m")
    sent = np.ones((1,), np.float32)
    body, headers = infer_body(sent)

    def head_fields(head: bytes) -> Any:
        raise RuntimeError(SECRET)

    async def test() -> None:
        async with serving(tmp_path, forwarded=re.compile("x-")) as (_, endpoint):
            with monkeypatch.context() as patch:
                patch.setattr(connection, "head_fields", head_fields)
                client = await Client.connect(endpoint.port)
                await client.send(message("POST", "/v2/models/m/infer", body, headers))
                answer = await client.receive()
                assert (answer.status, json.loads(answer.body)) == (500, FAILED), answer
                assert await client.closed()
                client.close()
            client = await Client.connect(endpoint.port)
            await client.send(message("POST", "/v2/models/m/infer", body, headers))
            assert values_of(await client.receive()) == sent
            client.close()

    run(test)
