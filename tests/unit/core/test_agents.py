"""The repository agent `checksum`: which digests let a model load, and Triton's words for the others."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from triton_async.config.load import read
from triton_async.core.agents import AgentRun
from triton_async.errors import ServerError

CONTENT = b"weights" * 1000
DIGEST = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


def model(root: Path, *parameters: tuple[str, str]) -> Path:
    directory = root / "m"
    (directory / "1").mkdir(parents=True)
    (directory / "1" / "model.onnx").write_bytes(CONTENT)
    listed = " ".join(f'parameters {{ key: "{key}" value: "{value}" }}' for key, value in parameters)
    (directory / "config.pbtxt").write_text(
        f'backend: "onnxruntime" model_repository_agents {{ agents {{ name: "checksum" {listed} }} }}'
    )
    (root / "other").write_bytes(CONTENT)
    return directory


def run(directory: Path) -> None:
    AgentRun(directory).begin(read(directory, "m").proto, None)


@pytest.mark.parametrize("key", ["MD5:1/model.onnx", "md5:1/model.onnx"])
def test_files_with_their_digests_load(tmp_path: Path, key: str) -> None:
    run(model(tmp_path, (key, DIGEST)))


@pytest.mark.parametrize(("key", "value", "text"), [
    ("MD5:1/model.onnx", "0" * 32,
     f"Mismatched MD5 hash for file 1/model.onnx, expect: {'0' * 32}, got: {DIGEST}"),
    ("MD5:1/absent", DIGEST, "failed to open text file for read 1/absent: No such file or directory"),
    ("MD5:1", DIGEST, "failed to open text file for read 1: Is a directory"),
    ("SHA256:1/model.onnx", DIGEST, "Unsupported checksum algorithm: SHA256"),
    ("1/model.onnx", DIGEST, "failed to parse key: 1/model.onnx"),
    ("MD5:../other", DIGEST, "agent 'checksum' of model 'm'"),
])  # fmt: skip
def test_others_do_not(tmp_path: Path, key: str, value: str, text: str) -> None:
    with pytest.raises(ServerError) as caught:
        run(model(tmp_path, (key, value)))
    assert text in caught.value.message
    assert str(tmp_path) not in caught.value.message
