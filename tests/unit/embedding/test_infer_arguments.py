"""What requests of a server in process are asked with, as type checkers know it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import triton_async
from triton_async.embedding.requests import make_request

SNIPPET = """
from typing import Any, Unpack
import numpy as np
import triton_async


async def ask(server: triton_async.Server, value: Any, **more: Unpack[triton_async.InferArguments]) -> Any:
    async for _ in server.stream("m", {"A": value}, version=1, outputs=["B"], parameters={"a": 1}):
        pass
    return (await server.infer("m", {"A": value}, **more))["B"]


def wait(server: triton_async.SyncServer) -> Any:
    server.stream("m", {"A": np.zeros(1)}, sequence_id="a", sequence_start=True)
    return server.infer("m", {"A": np.zeros(1)}, timeout_us=5, priority=1, timeout_s=2.0)
"""


def test_they_are_those_of_a_request() -> None:
    taken = inspect.signature(make_request).parameters
    assert list(get_type_hints(triton_async.InferArguments)) == list(taken)[2:]


@pytest.mark.parametrize(
    ("changed", "to", "complaint"),
    [
        ("", "", ""),
        ("version=1", 'version="1"', 'incompatible type "str"; expected "int"'),
        ("sequence_start", "sequence_begin", 'keyword argument "sequence_begin" for "stream" of "SyncServer"'),
        ("timeout_us", "timeout_ms", 'keyword argument "timeout_ms" for "infer" of "SyncServer"'),
    ],
)
def test_type_checkers_know_them(tmp_path: Path, changed: str, to: str, complaint: str) -> None:
    pytest.importorskip("mypy")
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET.replace(changed, to))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, complaint in done.stdout) == (int(bool(complaint)), True), done.stdout
