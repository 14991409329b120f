"""Instances on the fake CUDA driver that must give back every stream, event, graph and byte."""

from __future__ import annotations

import gc
import importlib.util
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from device_harness import World


@pytest.fixture(autouse=True)
def slabs_are_back() -> Iterator[None]:
    """A caught exception and its frames keep responses in a cycle."""
    yield
    if any(pool.leased for pool in World.pools):
        gc.collect()
    leased = [pool.leased for pool in World.pools]
    World.pools.clear()
    assert not any(leased)


@pytest.fixture
def world() -> Iterator[Callable[..., World]]:
    """Makes a World with a started instance."""
    made: list[World] = []

    def make(*arguments: Any, **engine: Any) -> World:
        made.append(World(*arguments, **engine))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def batch_maker(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The module of batches.pyx, which makes batches that only shared memory has in a server."""
    here, folder = Path(__file__).resolve().parent, tmp_path_factory.mktemp("batches")
    csrc = here.parents[3] / "csrc"
    commands = [
        [sys.executable, "-m", "cython", "-3", "-o", f"{folder}/batches.c", f"{here}/batches.pyx"],
        ["gcc", "-shared", "-fPIC", "-O0", "-w", f"-I{csrc}", f"-I{sysconfig.get_path('include')}",
         f"{folder}/batches.c", "-o", f"{folder}/batches.so"],
    ]  # fmt: skip
    for command in commands:
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr
    spec = importlib.util.spec_from_file_location("batches", folder / "batches.so")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
