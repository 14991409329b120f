"""Instances on the fake CUDA driver that must give back every stream, event, graph and byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from device_harness import World


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
