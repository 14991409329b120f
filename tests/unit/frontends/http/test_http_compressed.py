"""Answers that the express lane compresses: off the loop, in their turn, and for nobody who has left."""

from __future__ import annotations

import asyncio
import gzip
import logging
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_harness import run, write_model
from express_harness import Wire, express, split
from http_harness import infer_body, message

from triton_async.frontends.http import answers


def infer(size: int, accept: str = "gzip", **members: object) -> bytes:
    body, headers = infer_body(np.zeros(size, np.float32), **members)
    return message("POST", "/v2/models/m/infer", body, [*headers, ("Accept-Encoding", accept)])


def body_of(answer: bytes) -> bytes:
    fields, _, body = answer.partition(b"\r\n\r\n")
    if b"Content-Encoding: gzip" in fields:
        return gzip.decompress(body)
    return zlib.decompress(body) if b"Content-Encoding: deflate" in fields else body


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Compressing waits for it."""
    event = threading.Event()
    deflate = answers.deflate  # type: ignore[attr-defined]

    def wait(encoding: str, parts: Sequence[Any]) -> bytes:
        event.wait(10)
        return deflate(encoding, parts)  # type: ignore[no-any-return]

    monkeypatch.setattr(answers, "deflate", wait)
    return event


def test_compressed_answers_keep_their_place(tmp_path: Path, held: threading.Event) -> None:
    write_model(tmp_path, "m")
    sizes = [100_000, 2, 50_000, 2, 2]

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.send(b"".join(infer(size, "deflate" if i else "gzip", id=str(i)) for i, size in enumerate(sizes)))
            other = Wire(listener)
            other.send(infer(2))
            # Nobody else waits meanwhile.
            await other.answers(1)
            assert not wire.output
            held.set()
            found = await wire.answers(len(sizes))
            assert [b"Content-Encoding" in answer for answer in found] == [size > 1000 for size in sizes]
            for i, (answer, size) in enumerate(zip(found, sizes, strict=True)):
                assert body_of(answer).startswith(b'{"id":"%d"' % i)
                assert body_of(answer).endswith(bytes(4 * size))
            assert listener.hub.unsent_nbytes == 0

    run(test)


def test_a_client_may_leave_while_its_answer_is_compressed(tmp_path: Path, held: threading.Event) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with express(tmp_path) as (server, listener):
            wire = Wire(listener)
            wire.send(infer(100_000) + infer(2))
            await asyncio.sleep(0.02)
            wire.leave()
            held.set()
            async with asyncio.timeout(10):
                while server.pool.leased:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert not wire.output
            assert listener.hub.unsent_nbytes == 0

    run(test)


def test_stopping_waits_for_what_is_being_compressed(tmp_path: Path, held: threading.Event) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.send(infer(100_000))
            await asyncio.sleep(0.02)
            await listener.stop_accepting()
            assert not wire.closed
            held.set()
            (answer,) = await wire.answers(1)
            assert b"\r\nConnection: close\r\n" in answer
            assert body_of(answer).endswith(bytes(400_000))
            await wire.until(lambda wire: wire.closed)

    run(test)


def test_what_cannot_be_compressed_is_an_error_of_one_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(tmp_path, "m")
    # A traceback that pytest keeps would keep the tensors.
    caplog.set_level(logging.CRITICAL, "triton_async.http")

    def fail(encoding: str, parts: Sequence[Any]) -> bytes:
        raise MemoryError

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            monkeypatch.setattr(answers, "deflate", fail)
            wire = Wire(listener)
            wire.send(infer(100_000) + infer(2))
            await wire.answers(2)
            assert [answer[9:12] for answer in split(bytes(wire.output))] == [b"500", b"200"]

    run(test)
