"""A file imports only from lower floors or its own package (design: floors)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "triton_async"

# Module or package prefix -> packages of ours it may import besides its own; most specific first.
ALLOWED = {
    "core": {"config", "memory", "infer", "backends.base"},
    "frontends": {
        "memory", "infer", "protocol", "core.server", "core.servable", "core.turn", "config.access", "config.clouds",
    },
    "backends.base": {"config", "memory", "infer"},
    "backends.registry": {"backends", "config.paths", "config.place"},
    "backends.device": {"memory", "infer", "backends.base"},
    # Graphs of TensorFlow run in OpenVINO.
    "backends.tensorflow": {"config", "memory", "infer", "backends.base", "backends.openvino"},
    "backends": {"config", "memory", "infer", "backends.base", "backends.device"},
    # The rings' memory and the way in which processes are forked are those of Python models' workers.
    "processes": {
        "config", "core", "memory", "infer", "backends.python.isolated", "backends.python.worker",
    },
    "protocol": {"config", "memory", "infer"},
    "infer": {"memory"},
    "cloud": {"config"},
    "ray": {"config", "memory", "infer", "protocol", "core", "frontends", "embedding"},
    "config": set(),
    "memory": set(),
}
FLOOR_1 = {
    "addresses", "cgroup", "codes", "datatypes", "defines", "epoll", "errors", "forking", "importing", "lines", "logs",
    "native", "protos", "version",
}  # fmt: skip
# Floor 7 imports what it likes.
TOP = {
    "__init__", "app", "cli", "composition", "embedding", "endpoints", "front_end", "fronts", "inspection", "shutdown"
}  # fmt: skip
FORBIDDEN = {
    "config": {"asyncio", "aiohttp", "grpclib", "onnxruntime", "cupy", "tensorrt"},
    "memory": {"asyncio", "aiohttp", "grpclib", "onnxruntime", "tensorrt"},
    "infer": {"asyncio", "aiohttp", "grpclib", "onnxruntime", "cupy", "tensorrt"},
    "protocol": {"asyncio", "aiohttp", "grpclib", "onnxruntime", "cupy", "tensorrt"},
    "cloud": {"asyncio", "aiohttp", "grpclib"},
    "backends": {"aiohttp", "grpclib"},
    "core": {"aiohttp", "grpclib", "onnxruntime", "cupy", "tensorrt"},
    "frontends": {"onnxruntime", "cupy", "tensorrt"},
}
LONGEST_FILE = 600
IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w., \t]+))", re.MULTILINE)
# `from triton_async import errors`, on one line or over several, names its modules after the import.
OF_THE_PACKAGE = re.compile(r"\bfrom\s+triton_async\s+c?import\s+(?:\(([^)]*)\)|([^\n]*))")
BY_NAME = re.compile(r"\b(?:import_module|__import__)\(\s*f?[\"'](triton_async[\w.]*)")


def sources() -> list[Path]:
    return sorted(p for suffix in ("*.py", "*.pyx", "*.pxd") for p in PACKAGE.rglob(suffix))


def imports(text: str) -> set[str]:
    """Modules that the source of a file imports, by whatever form."""
    text = re.sub(r'"""(?s:.*?)"""', "", text)
    text = re.sub(r"\\\n", " ", re.sub(r"#[^\n]*", "", text))
    found = set(BY_NAME.findall(text))
    for module, several in IMPORT.findall(text):
        names = [module] if module else several.split(",")
        found |= {name.split()[0] for name in names if name.strip()}
    found.discard("triton_async")
    for many, one in OF_THE_PACKAGE.findall(text):
        names = [name.split()[0] for name in (many or one).split(",") if name.strip()]
        found |= {f"triton_async.{name}" for name in names}
    return found


@pytest.mark.parametrize(("text", "expected"), [
    ("import os, sys as system\nimport a.b", {"os", "sys", "a.b"}),
    ("from a.b import c", {"a.b"}), ("from a.b cimport c", {"a.b"}), ("    cimport cython", {"cython"}),
    ("from triton_async import errors, defines", {"triton_async.errors", "triton_async.defines"}),
    ("from triton_async import (\n    errors,  # why\n    core as c,\n)", {"triton_async.errors", "triton_async.core"}),
    ("from triton_async import errors, \\\n    core", {"triton_async.errors", "triton_async.core"}),
    ("from triton_async.core import (\n    model,\n)", {"triton_async.core"}),
    ("x = importlib.import_module('triton_async.core.model')", {"triton_async.core.model"}),
    ('x = import_module(\n    f"triton_async.backends.{name}")', {"triton_async.backends."}),
    ("__import__('triton_async.app')", {"triton_async.app"}),
    ('"""\nimport a\n"""\n# import b\n', set()),
])  # fmt: skip
def test_every_form_of_import_is_seen(text: str, expected: set[str]) -> None:
    assert imports(text) == expected


def rule_of(module: str) -> str | None:
    return next((prefix for prefix in ALLOWED if (module + ".").startswith(prefix + ".")), None)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_stay_below_the_files_floor(path: Path) -> None:
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    own = module.split(".", maxsplit=1)[0]
    if own in TOP:
        return
    rule = rule_of(module)
    for name in imports(path.read_text()):
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


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST_FILE, f"{path.name} has {len(lines)} lines"
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


def test_files_beside_the_package_stay_short() -> None:
    folders = [ROOT / name for name in ("tests", "bench", "examples", "csrc")]
    paths = [path for folder in folders for suffix in ("*.py", "*.pyx", "*.[ch]") for path in folder.rglob(suffix)]
    assert len(paths) > 100
    assert not {path.name for path in paths if len(path.read_text().splitlines()) > LONGEST_FILE}


def test_every_cython_module_has_its_contract() -> None:
    missing = [p.name for p in PACKAGE.rglob("*.pyx") if not p.with_suffix(".pxd").exists()]
    # Leaves that nothing links to need no contract of their own.
    allowed = {"identity.pyx", "watchdog.pyx"}
    assert set(missing) <= allowed, missing
