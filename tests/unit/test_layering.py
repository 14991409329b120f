"""A file imports only from lower floors or its own package (design: floors)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "triton_async"

# Module or package prefix -> packages of ours it may import besides its own; most specific first.
ALLOWED = {
    "core": {"config", "memory", "infer", "backends.base"},
    "frontends": {"memory", "infer", "protocol", "core.server"},
    "backends.base": {"config", "memory", "infer"},
    "backends.registry": {"backends.base"},
    "backends.device": {"memory", "infer", "backends.base"},
    "backends": {"config", "memory", "infer", "backends.base", "backends.device"},
    "protocol": {"config", "memory", "infer"},
    "infer": {"memory"},
    "config": set(),
    "memory": set(),
}
FLOOR_1 = {"addresses", "cgroup", "codes", "datatypes", "defines", "errors", "logs", "protos", "version"}
FORBIDDEN = {
    "config": {"asyncio", "aiohttp", "grpclib", "onnxruntime", "cupy", "tensorrt"},
    "memory": {"asyncio", "aiohttp", "grpclib", "onnxruntime", "tensorrt"},
    "infer": {"asyncio", "aiohttp", "grpclib", "onnxruntime", "cupy", "tensorrt"},
    "protocol": {"asyncio", "aiohttp", "grpclib", "onnxruntime", "cupy", "tensorrt"},
    "backends": {"aiohttp", "grpclib"},
    "core": {"aiohttp", "grpclib", "onnxruntime", "cupy", "tensorrt"},
    "frontends": {"onnxruntime", "cupy", "tensorrt"},
}
ENGINES = {"onnxruntime", "cupy", "tensorrt", "tensorrt_rtx", "torch", "pynvml"}
IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))", re.MULTILINE)


def sources() -> list[Path]:
    return sorted(p for suffix in ("*.py", "*.pyx", "*.pxd") for p in PACKAGE.rglob(suffix))


def imports(path: Path) -> set[str]:
    text = re.sub(r'"""(?s:.*?)"""', "", path.read_text())
    found = {first or second for first, second in IMPORT.findall(text)}
    # `from triton_async import errors` names its module after the import.
    for names in re.findall(r"^\s*from triton_async c?import ([\w, ]+)$", text, re.MULTILINE):
        found.discard("triton_async")
        found |= {f"triton_async.{name.strip().split(' ')[0]}" for name in names.split(",")}
    return found


def rule_of(module: str) -> str | None:
    return next((prefix for prefix in ALLOWED if (module + ".").startswith(prefix + ".")), None)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_stay_below_the_files_floor(path: Path) -> None:
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    if module in ("app", "cli"):
        return
    rule = rule_of(module)
    own = module.split(".", maxsplit=1)[0]
    for name in imports(path):
        top = name.split(".", maxsplit=1)[0]
        if top != "triton_async":
            assert top not in FORBIDDEN.get(own, set()), f"{module} imports {top}"
            continue
        target = name.removeprefix("triton_async").removeprefix(".")
        if target == "" or target.split(".")[0] in FLOOR_1:
            continue
        assert rule is not None, f"{module} is on floor 1 and imports {target}"
        allowed = set(ALLOWED[rule])
        if own not in ("backends",):
            allowed.add(own)
        elif module.count(".") > 1:  # a backend that is a package of its own
            allowed.add(".".join(module.split(".")[:2]))
        assert any((target + ".").startswith(a + ".") for a in allowed), f"{module} imports {target}"


def test_the_package_imports_without_engines_and_event_loops() -> None:
    code = (
        "import sys, triton_async, triton_async.errors, triton_async.defines;"
        f"engines = {ENGINES};"
        "bad = (engines | {'aiohttp', 'grpclib', 'uvloop'}) & set(sys.modules);"
        "sys.exit(', '.join(bad) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_server_starts_without_loading_an_engine() -> None:
    code = (
        "import sys, triton_async.cli;"
        f"sys.exit(', '.join({ENGINES} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 600, f"{path.name} has {len(lines)} lines"
    start, name = 0, ""
    indent = -1
    for number, line in enumerate([*lines, "end"]):
        stripped = line.strip()
        depth = len(line) - len(line.lstrip())
        if indent >= 0 and stripped and depth <= indent and not stripped.startswith((")", "#")):
            assert number - start <= 80, f"{path.name}: {name} has {number - start} lines"
            indent = -1
        starts = re.match(r"\s*(?:async )?(?:def|cdef(?! class)|cpdef) .*\(", line)
        if starts and indent < 0 and path.suffix != ".pxd":
            start, name, indent = number, stripped, depth


def test_every_cython_module_has_its_contract() -> None:
    missing = [p.name for p in PACKAGE.rglob("*.pyx") if not p.with_suffix(".pxd").exists()]
    # Leaves that nothing links to need no contract of their own.
    allowed = {"identity.pyx"}
    assert set(missing) <= allowed, missing
