"""The list of C sources in setup.py: a module that calls one is built again with it, and none is left out."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "triton_async"
SETUP = ROOT / "setup.py"
pytestmark = pytest.mark.skipif(not SETUP.exists(), reason="no source tree")

EXTERN = re.compile(r'^cdef extern from "(\w+)\.h"[^\n]*:\n((?:[ \t]+[^\n]*\n|\n)+)', re.MULTILINE)
DECLARED = re.compile(r"\b(ta_\w+)\s*\(")


def constant(name: str) -> Any:
    for node in ast.parse(SETUP.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"setup.py has no {name}")


def c_sources() -> dict[str, list[str]]:
    found: dict[str, list[str]] = constant("C_SOURCES")
    return found


@cache
def declared() -> dict[str, str]:
    """Function that Cython is told of -> the C file it is in; inline ones, of headers alone, are in none."""
    found = {}
    for suffix in ("*.pyx", "*.pxd"):
        for path in PACKAGE.rglob(suffix):
            for header, block in EXTERN.findall(path.read_text()):
                if (CSRC / f"{header}.c").exists():
                    found |= dict.fromkeys(DECLARED.findall(block), f"csrc/{header}.c")
    return found


@cache
def calls(source: str) -> frozenset[str]:
    """The C files whose functions a C file calls."""
    text = (ROOT / source).read_text()
    found = set()
    for other in sorted(CSRC.glob("*.c")):
        names = re.findall(r"^[^\n{}]*?\b(ta_\w+)\(", other.with_suffix(".h").read_text(), re.MULTILINE)
        if other.name != Path(source).name and any(re.search(rf"\b{name}\(", text) for name in names):
            found.add(f"csrc/{other.name}")
    return frozenset(found)


@cache
def with_what_it_calls(source: str) -> frozenset[str]:
    """A C file and those whose functions it calls in turn: the linker takes all of them."""
    found: set[str] = set()
    left = {source}
    while left:
        found |= left
        left = {other for each in left for other in calls(each)} - found
    return frozenset(found)


def called(module: Path) -> set[str]:
    text = EXTERN.sub("", module.read_text())
    direct = {source for name, source in declared().items() if re.search(rf"\b{name}\b", text)}
    return set().union(*map(with_what_it_calls, direct))


def test_every_module_compiled_lightly_is_there() -> None:
    for name in constant("LIGHT"):
        assert (ROOT / name.replace(".", "/")).with_suffix(".pyx").exists(), name


def test_every_c_file_is_of_some_module() -> None:
    listed = {source for sources in c_sources().values() for source in sources}
    assert {f"csrc/{path.name}" for path in CSRC.glob("*.c")} == listed


def test_every_c_file_of_the_c_api_is_listed() -> None:
    assert sorted(path.name for path in (CSRC / "tritonserver").glob("*.c")) == constant("C_API_SOURCES")


def test_modules_are_listed_with_what_they_call() -> None:
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.pyx")}
    # setup.py adds what slabs are cut from to all that have slabs.
    listed = {
        name: {*sources, *(["csrc/arena.c"] if "csrc/slab.c" in sources else [])}
        for name, sources in c_sources().items()
    }
    assert listed == {name: called(path) for name, path in paths.items() if called(path)}
