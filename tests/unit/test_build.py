"""What is missing for the build is said before anything is compiled, in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="no source tree")


def build(folder: Path, compiler: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """The build with this compiler, and the progress that it told."""
    progress = folder / "progress"
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", f"--build-lib={folder}/lib", f"--build-temp={folder}/temp"],
        cwd=ROOT, text=True, capture_output=True, check=False, timeout=60,
        env={**os.environ, "CC": compiler, "TRITON_ASYNC_PROGRESS": str(progress)},
    )  # fmt: skip
    assert not (folder / "lib").exists()
    return done, progress.read_text() if progress.exists() else ""


def test_without_a_compiler(tmp_path: Path) -> None:
    done, progress = build(tmp_path, "no-such-compiler -O2")
    assert done.returncode != 0
    assert "there is no C compiler 'no-such-compiler': install gcc, or set CC" in done.stderr
    assert progress == ""


@pytest.mark.parametrize(("header", "package"), [("nghttp2/nghttp2.h", "libnghttp2-dev"), ("Python.h", "python3-dev")])
def test_without_a_header(tmp_path: Path, header: str, package: str) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\nif grep -q '<{header}>'; then echo 'no such file' >&2; exit 1; fi\n")
    compiler.chmod(0o755)
    done, progress = build(tmp_path, str(compiler))
    assert done.returncode != 0
    assert f"the C compiler finds no <{header}>: install {package}" in done.stderr
    assert "no such file" in done.stderr
    assert progress == ""
