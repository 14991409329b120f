"""A server in whose environment protobuf is asked for in Python, as packages do for all that is started behind them."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from started import CONFIG, started

INDEX = "/inference.GRPCInferenceService/RepositoryIndex"


def test_texts_that_are_not_utf8_are_refused_in_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "config.pbtxt").write_text(CONFIG)
    monkeypatch.setenv("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
    with started(tmp_path, f"--model-repository={tmp_path / 'models'}") as server:
        server.wait_until_it_answers()
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            ask = channel.unary_unary(INDEX)
            assert b"m" in ask(b"", timeout=30)
            with pytest.raises(grpc.RpcError) as caught:
                ask(b"\x0a\x01\xff", timeout=30)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "Unable to parse request")
