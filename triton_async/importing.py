"""Imports of packages when something is loaded, one thread at a time.

Loads run side by side, and those of two models may import one package, say PyTorch, from two ends. Where its modules
import each other in a circle, Python lets two such threads see modules that are only half there, and one load fails.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Held by who imports packages, for as long as that takes. Who has waited TURN_S goes on without.
lock = threading.RLock()
TURN_S = 60.0


@contextmanager
def turn() -> Iterator[None]:
    """With `lock`, or without it when that is not to be had. Any thread."""
    had = lock.acquire(timeout=TURN_S)
    try:
        yield
    finally:
        if had:
            lock.release()


def import_module(name: str) -> Any:
    """As importlib's; any thread. Raises what that does."""
    with turn():
        return importlib.import_module(name)
