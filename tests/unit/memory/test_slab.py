"""The slab pool: size classes, reuse, the cache limit, many threads."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from triton_async.memory.slab import SlabPool

SIZES = [0, 1, 255, 256, 257, 320, 321, 384, 448, 512, 513, 4095, 4096, 4097, 65_536, 1_000_000, (1 << 20) + 1]


def fill(lease: object, value: int) -> np.ndarray:
    array = np.frombuffer(lease, np.uint8)  # type: ignore[call-overload]
    array[:] = value
    return array


def test_nothing_is_out_or_kept_at_first() -> None:
    pool = SlabPool(1 << 20)
    assert (pool.leased, pool.leased_nbytes, pool.cached_nbytes) == (0, 0, 0)


@pytest.mark.parametrize("nbytes", SIZES)
def test_a_lease_shows_exactly_the_bytes_asked_for_and_wastes_at_most_a_fifth(nbytes: int) -> None:
    pool = SlabPool(0)
    lease = pool.acquire(nbytes)
    assert len(lease) == lease.nbytes == nbytes
    fill(lease, 0xAB)
    assert pool.leased == 1
    assert max(nbytes, 256) <= pool.leased_nbytes <= max(256, nbytes * 1.25)
    del lease
    assert (pool.leased, pool.leased_nbytes, pool.cached_nbytes) == (0, 0, 0)


@pytest.mark.parametrize("nbytes", [1, 300, 5000, 1 << 20])
def test_bytes_start_on_a_cache_line(nbytes: int) -> None:
    lease = SlabPool(0).acquire(nbytes)
    assert np.frombuffer(lease, np.uint8).ctypes.data % 64 == 0


def test_a_returned_slab_is_leased_again_for_any_size_of_its_class() -> None:
    pool = SlabPool(1 << 20)
    lease = pool.acquire(300)
    address = np.frombuffer(lease, np.uint8).ctypes.data
    del lease
    assert pool.cached_nbytes == 320
    again = pool.acquire(257)
    assert np.frombuffer(again, np.uint8).ctypes.data == address
    assert pool.cached_nbytes == 0
    other = pool.acquire(300)
    assert np.frombuffer(other, np.uint8).ctypes.data != address


def test_no_more_than_the_limit_is_kept() -> None:
    pool = SlabPool(1000)
    leases = [pool.acquire(256) for _ in range(10)]
    assert pool.leased_nbytes == 2560
    leases.clear()
    assert pool.cached_nbytes == 768
    pool.trim()
    assert pool.cached_nbytes == 0
    assert len(pool.acquire(256)) == 256


def test_leases_do_not_overlap() -> None:
    pool = SlabPool(1 << 20)
    for _ in range(2):  # fresh, then reused
        arrays = [fill(pool.acquire(nbytes), index) for index, nbytes in enumerate(SIZES)]
        assert all((array == index).all() for index, array in enumerate(arrays))
        del arrays


@pytest.mark.parametrize(("nbytes", "error"), [
    (-1, ValueError), (-(2**63), ValueError), (2**47 + 1, MemoryError), (2**62, MemoryError), (2**63 - 1, MemoryError),
    (2**63, OverflowError), (2**64, OverflowError),
])  # fmt: skip
def test_impossible_sizes_are_refused_and_nothing_is_counted(nbytes: int, error: type[Exception]) -> None:
    pool = SlabPool(0)
    with pytest.raises(error):
        pool.acquire(nbytes)
    assert (pool.leased, pool.leased_nbytes) == (0, 0)


def test_threads_lease_write_and_return_at_once() -> None:
    pool = SlabPool(1 << 16)
    handed_over: list[object] = []
    wrong: list[int] = []

    def work(index: int) -> None:
        for turn in range(300):
            lease = pool.acquire(SIZES[(index + turn) % 12])
            array = fill(lease, index)
            if not (array == index).all():
                wrong.append(turn)
            handed_over.append(lease)  # returned by whichever thread comes by
            if len(handed_over) > 20:
                handed_over.pop(0)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handed_over.clear()
    assert not wrong
    assert (pool.leased, pool.leased_nbytes) == (0, 0)
    assert 0 < pool.cached_nbytes <= 1 << 16


# In a process of its own: what others have given back there would be used again.
LARGE_SLABS = """
import mmap, time
from pathlib import Path
from triton_async.memory.slab import SlabPool

def resident_nbytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

pool = SlabPool(0)
before = resident_nbytes()
slabs = [pool.acquire(8 << 20) for _ in range(8)]
for slab in slabs:
    memoryview(slab)[:] = bytes(8 << 20)
assert resident_nbytes() > before + (56 << 20)
del slab, slabs
assert pool.leased == pool.leased_nbytes == pool.cached_nbytes == 0
deadline = time.monotonic() + 20
while resident_nbytes() > before + (16 << 20):
    assert time.monotonic() < deadline
    time.sleep(0.005)
# And those that come when none is on its way.
pool.acquire(8 << 20)
pool.acquire(1 << 10)
"""


def test_large_slabs_are_freed_by_a_thread_that_ends() -> None:
    subprocess.run([sys.executable, "-c", LARGE_SLABS], check=True, timeout=60)
