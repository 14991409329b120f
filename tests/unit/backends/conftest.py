"""The slab pool of a test, and the check that a test gives back all it leased."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from triton_async.infer.batch import live_batches
from triton_async.infer.tensor import live_tensors
from triton_async.memory.buffer import live_buffers
from triton_async.memory.slab import SlabPool


def live() -> int:
    return live_tensors() + live_buffers() + live_batches()


@pytest.fixture
def pool() -> Iterator[SlabPool]:
    before = live()
    made = SlabPool(1 << 20)
    yield made
    if live() > before or made.leased:
        # Objects in a cycle, such as a caught exception and its frames, are no leak.
        gc.collect()
    assert live() <= before
    assert made.leased == 0
    assert made.leased_nbytes == 0
