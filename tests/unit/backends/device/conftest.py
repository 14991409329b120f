"""Instances on the fake CUDA driver that must give back every stream, event, graph and byte."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from compiled import load
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
def batch_maker() -> ModuleType:
    """The module of tests/pyx/batches.pyx, which makes batches that only shared memory has in a server."""
    return load("batches")
