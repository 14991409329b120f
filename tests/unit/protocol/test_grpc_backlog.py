"""Bytes that a stream does not read yet: kept in order, copied once, in bounded memory, given back piece by piece."""

from __future__ import annotations

import random

import pytest
from compiled import load

from triton_async.defines import GRPC_BACKLOG_BLOCK_NBYTES as BLOCK

Queue = load("grpc_backlog").Queue


@pytest.mark.parametrize("largest", [1, 100, 5 * BLOCK])
def test_bytes_come_out_as_they_went_in(largest: int) -> None:
    choose = random.Random(largest)
    queue = Queue()
    expected = b""
    taken, given = 0, 0
    while given < 40 * largest:
        data = choose.randbytes(choose.randint(0, largest))
        queue.append(data)
        expected += data
        given += len(data)
        assert queue.backlog.nbytes == len(expected)
        assert queue.backlog.held_nbytes <= len(expected) + 2 * BLOCK
        while choose.random() < 0.45:
            data = queue.peek()
            data = data[: choose.randint(0, len(data))]
            assert expected.startswith(data)
            queue.skip(len(data))
            expected = expected[len(data) :]
            taken += len(data)
    assert taken > 0
    while data := queue.peek():
        assert expected.startswith(data)
        expected = expected[len(data) :]
        queue.skip(len(data))
    assert expected == b""
    assert queue.backlog.held_nbytes == queue.backlog.nbytes == 0
    assert queue.backlog.copied_nbytes == given


def test_what_waits_is_not_moved() -> None:
    queue = Queue()
    queue.append(b"a" * 1000)
    first = queue.where()
    for i in range(1000):
        queue.append(bytes(100))
        if i < 999:
            queue.skip(1)
            assert queue.where() == first + i + 1


def test_skipping_over_several_blocks() -> None:
    queue = Queue()
    for _ in range(5):
        queue.append(b"x" * (BLOCK - 1))
    queue.append(b"end")
    queue.skip(5 * (BLOCK - 1))
    assert queue.peek() == b"end"
    assert queue.backlog.held_nbytes <= 2 * BLOCK
