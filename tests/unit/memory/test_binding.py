"""Threads that are put on cores for a while."""

from __future__ import annotations

import os

import pytest

from triton_async.memory.binding import bound

# Of no machine: the kernel refuses it, as a container may refuse any.
NO_NODE = 1 << 14


def test_a_thread_is_back_where_it_was_behind_a_binding() -> None:
    before = os.sched_getaffinity(0)
    with bound([min(before)], -1):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_so_it_is_when_only_its_cores_could_be_had() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(OSError, match=r"\w"), bound([min(before)], NO_NODE):
        pass
    assert os.sched_getaffinity(0) == before
