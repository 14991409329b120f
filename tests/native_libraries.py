"""Shared libraries of the C API for tests, compiled from `tests/native`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from triton_async import native

SOURCES = Path(__file__).parent / "native"
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="no compiler")


def build(target: Path, source: Path | str, *defines: str, libraries: Sequence[str] = ()) -> Path:
    """Compiles a C source, a name in `tests/native` or a path, into the library `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    file = SOURCES / source if isinstance(source, str) else source
    subprocess.run(
        ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wno-unused-function", "-Werror", "-fPIC", "-shared",
         f"-I{native.INCLUDE}", *(f"-D{define}" for define in defines), str(file), "-o", str(target), "-pthread",
         *libraries],
        check=True,
    )  # fmt: skip
    return target


def backend(directory: Path, name: str, source: Path | str, *defines: str) -> Path:
    """Compiles a backend where --backend-directory=`directory` has it."""
    return build(directory / name / f"libtriton_{name}.so", source, *defines)
