"""Importing: each module alone, without warnings and engines, and no more of other packages than is meant."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "triton_async"
ENGINES = {"onnxruntime", "cupy", "tensorrt", "tensorrt_rtx", "torch", "pynvml", "openvino", "tensorflow"}
# What no part of the server is to bring in by an import: large, slow, or for tests and tools only.
HEAVY = ENGINES | {
    "Cython", "PIL", "cupyx", "grpc", "grpc_tools", "hypothesis", "matplotlib", "multiprocessing", "onnx", "pandas",
    "pkg_resources", "pytest", "scipy", "setuptools", "sqlite3", "tritonclient", "unittest", "xml",
}  # fmt: skip
# Modules that an import adds to those of a bare interpreter: what it costs, in a number that no machine changes. The
# command's are 581 today, nearly all of aiohttp, grpclib, numpy and asyncio; more than a handful of new ones is meant.
BUDGET = {"triton_async": 4, "triton_async.cli": 620}

# Imports each module named in a process of its own, forked from one that has what other packages bring: only what
# warns of ours is an error. Says which failed, and why.
ALONE = """
import gc, importlib, os, sys, traceback, warnings
gc.disable()
for name in ("aiohttp.web", "asyncio", "grpclib.server", "grpclib.reflection.service", "h2.connection", "numpy",
             "google.protobuf.json_format", "google.protobuf.text_format", "orjson", "uvloop", "ssl", "ctypes"):
    importlib.import_module(name)
assert not [name for name in sys.modules if name.startswith("triton_async")]
failed = False
for name in sys.argv[2:]:
    if os.fork() == 0:
        warnings.simplefilter("error")
        status = 0
        try:
            importlib.import_module(name)
            engines = set(sys.argv[1].split()) & set(sys.modules)
            assert not engines, f"imports {engines}"
        except BaseException:
            print(f"{name}:", traceback.format_exc(), flush=True)
            status = 1
        os._exit(status)
    failed = os.wait()[1] != 0 or failed
sys.exit(failed)
"""


def modules() -> list[str]:
    paths = [path for suffix in ("*.py", "*.pyx") for path in PACKAGE.rglob(suffix)]
    names = [".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)) for path in paths]
    return sorted(name.removesuffix(".__init__") for name in names)


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Forking a process that has threads is a warning of its own in newer Pythons.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_each_module_imports_alone_without_warnings() -> None:
    names = modules()
    if find_spec("ray") is None:
        names.remove("triton_async.ray.application")  # what only Ray's own processes import
    assert len(names) > 100 and "triton_async.infer.batch" in names
    done = run(ALONE, " ".join(ENGINES), *names)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_does_not_import_is_found() -> None:
    done = run(ALONE, " ".join({*ENGINES, "wave"}), "triton_async.none_such", "wave", "triton_async.errors")
    assert done.returncode != 0
    assert [line.split(":")[0] for line in done.stdout.splitlines() if "Traceback" in line] == [
        "triton_async.none_such", "wave",
    ]  # fmt: skip


@pytest.mark.parametrize("name", BUDGET)
def test_an_import_costs_no_more_than_is_meant(name: str) -> None:
    code = f"import sys; before = set(sys.modules); import {name}; print(*sorted(set(sys.modules) - before))"
    done = run(code)
    assert done.returncode == 0, done.stderr
    added = done.stdout.split()
    assert len(added) <= BUDGET[name], f"{len(added)} modules: {done.stdout}"
    assert not HEAVY & {module.split(".", maxsplit=1)[0] for module in added}


def test_the_package_itself_brings_neither_loop_nor_front_end() -> None:
    code = (
        "import sys, triton_async, triton_async.errors, triton_async.defines;"
        f"bad = ({ENGINES} | {{'aiohttp', 'asyncio', 'grpclib', 'numpy', 'uvloop'}}) & set(sys.modules);"
        "sys.exit(', '.join(bad) or 0)"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
