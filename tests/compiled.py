"""Drivers in Cython for what Python cannot reach, compiled when they are first asked for.

They link to the package that is imported through its `.pxd` files, as its own modules do; no wheel carries them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

import Cython

import triton_async

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "tests/pyx"
BUILT = ROOT / "build/tests"
PACKAGE = Path(triton_async.__file__).resolve().parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


@functools.cache
def load(name: str) -> ModuleType:
    """The module `name` of tests/pyx."""
    path = BUILT / _key(name) / f"{name}{SUFFIX}"
    if not path.exists():
        _build(name, path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _key(name: str) -> str:
    """Of everything that the compiled module depends on."""
    found = hashlib.sha256(f"{SUFFIX} {Cython.__version__}".encode())
    contracts = [*sorted(PACKAGE.rglob("*.pxd")), *sorted((ROOT / "csrc").glob("*.h"))]
    for source in (SOURCES / f"{name}.pyx", *contracts):
        found.update(source.read_bytes())
    return found.hexdigest()[:16]


def _build(name: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        code, library = Path(folder) / f"{name}.c", Path(folder) / path.name
        _run(sys.executable, "-m", "cython", "-3", f"-I{PACKAGE.parent}", f"{SOURCES / name}.pyx", "-o", str(code))
        _run("gcc", "-O1", "-g", "-fPIC", "-shared", "-fno-strict-aliasing", f"-I{sysconfig.get_path('include')}",
             f"-I{ROOT / 'csrc'}", str(code), "-o", str(library))  # fmt: skip
        library.rename(path)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
