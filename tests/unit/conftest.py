"""Every unit test gives back what it took: requests, responses, batches, tensors, leases."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest

from triton_async import logs
from triton_async.infer.batch import live_batches
from triton_async.infer.request import live_requests
from triton_async.infer.response import live_responses
from triton_async.infer.tensor import live_tensors
from triton_async.memory.buffer import live_buffers


def live_objects() -> dict[str, int]:
    return {
        "request": live_requests(),
        "response": live_responses(),
        "batch": live_batches(),
        "tensor": live_tensors(),
        "lease": live_buffers(),
    }


@pytest.fixture(autouse=True, scope="module")
def what_modules_import_is_not_searched_for_garbage() -> None:
    """Tests collect garbage before they count; with PyTorch's million objects in it each time would take a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def log_settings_are_as_before() -> Iterator[None]:
    """A test may change them through a server in its own process."""
    logger, settings = logging.getLogger("triton_async"), logs.settings()
    level = logger.level
    yield
    logs.update(settings)
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def nothing_stays_alive() -> Iterator[None]:
    """No test leaves more than it found; so nothing grows, and a failed test, whose traceback keeps its objects, does
    not fail those behind it."""
    before = live_objects()
    yield
    if live_objects() != before:
        gc.collect()  # reference cycles of the test itself
    assert all(count <= before[kind] for kind, count in live_objects().items()), (before, live_objects())
