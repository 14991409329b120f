"""Which resets of calls count against their client, and which do not: see also tests/unit/protocol/test_http2.py."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc_harness import Running, serving, until, write_model
from raw_http2 import INFER, LIVE, message
from test_grpc_attacks import (
    CANCEL,
    DATA,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    Attacker,
    frame,
    head,
    infer_body,
)

from triton_async.protocol import http2_guard

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
BURST = 20
AT_ONCE = 15
MANY = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root: Path = tmp_path_factory.mktemp("resets")
    write_model(root, "slow", delay_ms=20, more="instance_group { count: 1 kind: KIND_CPU }")
    with serving(root) as running:
        yield running


@pytest.fixture(autouse=True)
def few_resets(monkeypatch: pytest.MonkeyPatch, server: Running) -> Iterator[None]:
    monkeypatch.setattr(http2_guard, "GRPC_RESET_BURST", BURST)
    monkeypatch.setattr(http2_guard, "GRPC_RESETS_PER_S", 0)
    yield
    until(lambda: model_of(server).in_flight == 0, "requests gone")


def model_of(server: Running) -> Any:
    return server.server.repository.models["slow"].versions[1].loaded.model


def reset(stream: int) -> bytes:
    return frame(RST_STREAM, struct.pack(">I", CANCEL), 0, stream)


def hears(attacker: Attacker, stream: int) -> int | None:
    """Makes a call and waits for the end of its answer; the code of GOAWAY if that comes first."""
    attacker.send(attacker.call(stream, message(b""), LIVE))
    for kind, flags, about, payload in attacker.frames():
        if kind == GOAWAY:
            return int.from_bytes(payload[4:8], "big")
        if (kind, about) == (HEADERS, stream) and flags & END_STREAM:
            return None
    return ENHANCE_YOUR_CALM


def give_up(attacker: Attacker, path: str, timeout: str, wait_s: float) -> int | None:
    """Opens calls, each of which is reset after some time; the code of GOAWAY, None when the connection lives."""
    fields = head(path, **({"grpc-timeout": timeout} if timeout else {}))
    stream = 1
    for _ in range(0, MANY, AT_ONCE):
        opened = range(stream, stream + 2 * AT_ONCE, 2)
        stream += 2 * AT_ONCE + 2
        attacker.send(b"".join(
            attacker.head(each, fields) + frame(DATA, infer_body("slow"), END_STREAM, each) for each in opened
        ))  # fmt: skip
        code = hears(attacker, stream - 2)
        if code is not None:
            return code
        time.sleep(wait_s)
        attacker.send(b"".join(map(reset, opened)))
    return hears(attacker, stream)


@pytest.mark.parametrize("path", [INFER, STREAM, LIVE])
@pytest.mark.parametrize(("timeout", "wait_s"), [("60m", 0.04), ("3m", 0.01), ("1n", 0.0)])
def test_resets_at_the_deadline_are_free(server: Running, path: str, timeout: str, wait_s: float) -> None:
    attacker = Attacker(server.url)
    assert give_up(attacker, path, timeout, wait_s) is None
    attacker.close()


@pytest.mark.parametrize("path", [INFER, STREAM])
@pytest.mark.parametrize("timeout", ["", "1H", "10S"])
def test_resets_long_before_the_deadline_are_not(server: Running, path: str, timeout: str) -> None:
    attacker = Attacker(server.url)
    assert give_up(attacker, path, timeout, 0.0) == ENHANCE_YOUR_CALM
    attacker.close()


@pytest.mark.parametrize("timeout", ["1n", "1m", "100m"])
def test_resets_in_the_same_breath_are_not_whatever_the_deadline(server: Running, timeout: str) -> None:
    attacker = Attacker(server.url)
    attacker.send(b"".join(
        attacker.head(2 * i + 1, head(**{"grpc-timeout": timeout}))
        + frame(DATA, infer_body("slow"), END_STREAM, 2 * i + 1) + reset(2 * i + 1)
        for i in range(MANY)
    ))  # fmt: skip
    assert attacker.goaway() == (ENHANCE_YOUR_CALM, b"")
    attacker.close()


@pytest.mark.parametrize("path", [INFER, STREAM])
def test_resets_of_what_is_being_executed_are_free(server: Running, path: str) -> None:
    attacker = Attacker(server.url)
    model = model_of(server)
    for i in range(BURST + 5):
        attacker.send(attacker.call(4 * i + 1, infer_body("slow"), path))
        until(lambda: model.in_flight == 1 and model.pending == 0, "execution")
        attacker.send(reset(4 * i + 1))
        assert hears(attacker, 4 * i + 3) is None
        until(lambda: model.in_flight == 0, "end of the execution")
    attacker.close()
