"""Leases over Python objects: kept alive, locked, read-only."""

from __future__ import annotations

import gc
import mmap
import weakref

import numpy as np
import pytest

from triton_async.memory.buffer import Buffer, live_buffers, wrap


@pytest.mark.parametrize("source", [
    b"", b"abcd", bytearray(b"abcd"), memoryview(b"xabcd")[1:], np.arange(4, dtype=np.uint8),
    np.zeros((2, 3), np.float64),
], ids=lambda source: type(source).__name__)  # fmt: skip
def test_a_lease_shows_the_bytes_of_its_source(source: object) -> None:
    lease = wrap(source)
    assert bytes(lease) == memoryview(source).tobytes()  # type: ignore[arg-type]
    assert len(lease) == lease.nbytes == memoryview(source).nbytes  # type: ignore[arg-type]
    assert (lease.memory_type, lease.device_id) == (0, 0)


@pytest.mark.parametrize("source", [
    memoryview(b"abcdef")[::2], np.zeros((4, 4))[:, ::2], np.zeros((4, 4)).T[1:],
])  # fmt: skip
def test_what_is_not_contiguous_is_refused_and_not_held(source: object) -> None:
    with pytest.raises((BufferError, ValueError)):
        wrap(source)


@pytest.mark.parametrize("source", [None, 3, "text", [1, 2], object()])
def test_what_has_no_bytes_is_refused(source: object) -> None:
    with pytest.raises(TypeError):
        wrap(source)


def test_a_leased_bytearray_cannot_be_resized_until_the_last_lease_is_gone() -> None:
    source = bytearray(b"abcd")
    first, second = wrap(source), wrap(source)
    for change in (lambda: source.append(1), source.clear, lambda: source.extend(b"x" * 100)):
        with pytest.raises(BufferError):
            change()
    del first
    with pytest.raises(BufferError):
        source.append(1)
    del second
    source.append(1)
    assert source == b"abcd\x01"


def test_a_leased_mapping_cannot_be_closed() -> None:
    with mmap.mmap(-1, 4096) as mapping:
        lease = wrap(mapping)
        with pytest.raises(BufferError):
            mapping.close()
        assert len(lease) == 4096
        del lease


def test_a_lease_is_read_only_even_over_writable_memory() -> None:
    lease = wrap(bytearray(4))
    view = memoryview(lease)
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises((BufferError, ValueError)):
        np.frombuffer(lease, np.uint8).flags.writeable = True


def test_a_lease_keeps_its_source_and_a_view_keeps_the_lease() -> None:
    before = live_buffers()
    array = np.arange(10)
    gone = weakref.ref(array)
    view = memoryview(wrap(array))
    del array
    gc.collect()
    assert gone() is not None
    assert live_buffers() == before + 1
    assert view[8] == 1
    del view
    assert gone() is None
    assert live_buffers() == before


def test_a_lease_of_a_lease() -> None:
    source = bytearray(b"abcd")
    outer = wrap(wrap(source))
    with pytest.raises(BufferError):
        source.append(1)
    assert bytes(outer) == b"abcd"
    del outer
    source.append(1)


def test_a_buffer_of_nothing_is_empty() -> None:
    assert bytes(Buffer()) == b""
