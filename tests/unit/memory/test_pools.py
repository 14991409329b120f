"""Pools: pinned and device memory made at first use, within their budgets, given back at the end."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_devices import FakeDevices

from triton_async.defines import DEVICE_POOL_NBYTES
from triton_async.errors import InternalError, InvalidArg, Unsupported
from triton_async.memory.arena import Arena
from triton_async.memory.device import DevicePool
from triton_async.memory.pools import Pools
from triton_async.memory.slab import SlabPool

CPU, PINNED, GPU = 0, 1, 2
KIB = 1 << 10


def pinned_pool(devices: FakeDevices, nbytes: int, host: SlabPool) -> SlabPool:
    return Pools(host, lambda: devices, pinned_nbytes=nbytes).pinned()


def fill(lease: object, value: int) -> np.ndarray:
    array = np.frombuffer(lease, np.uint8)  # type: ignore[call-overload]
    array[:] = value
    return array


# -- pinned --------------------------------------------------------------------------------------------


def test_pinned_slabs_lie_in_the_one_allocation_and_go_back_to_it() -> None:
    devices = FakeDevices()
    pool = pinned_pool(devices, 64 * KIB, SlabPool(0))
    assert (pool.budget_nbytes, pool.leased, devices.calls) == (64 * KIB, 0, ["allocate_pinned"])
    leases = [pool.acquire(nbytes) for nbytes in (0, 1, 300, 10_000)]
    assert [lease.memory_type for lease in leases] == [PINNED] * 4
    for index, lease in enumerate(leases):
        fill(lease, index)
    assert all((np.frombuffer(lease, np.uint8) == index).all() for index, lease in enumerate(leases))
    # Cut to size, not in classes: the header of a slab and the alignment are all that is added.
    assert 10_301 <= pool.leased_nbytes <= 10_301 + 4 * 320
    del lease
    leases.clear()
    assert (pool.leased, pool.leased_nbytes, pool.cached_nbytes, pool.fallbacks) == (0, 0, 0, 0)
    assert len(pool.acquire(64 * KIB - 64)) == 64 * KIB - 64
    assert devices.calls == ["allocate_pinned"]


def test_an_exhausted_pinned_pool_lends_ordinary_memory_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    host = SlabPool(1 << 20)
    pool = pinned_pool(FakeDevices(), 16 * KIB, host)
    first = pool.acquire(12 * KIB)
    with caplog.at_level(logging.WARNING, "triton_async.memory"):
        others = [pool.acquire(12 * KIB) for _ in range(3)]
    assert [lease.memory_type for lease in [first, *others]] == [PINNED, CPU, CPU, CPU]
    assert (pool.leased, pool.fallbacks, host.leased) == (1, 3, 3)
    assert [record.message for record in caplog.records] == [
        "the pinned memory pool of 16384 bytes is exhausted: falling back to pageable memory; see "
        "--pinned-memory-pool-byte-size"
    ]
    del first
    assert pool.acquire(12 * KIB).memory_type == PINNED
    others.clear()
    assert host.leased == 0 and host.cached_nbytes > 0  # returned to where they came from


def test_what_is_larger_than_the_pool_or_impossible() -> None:
    pool = pinned_pool(FakeDevices(), KIB, SlabPool(0))
    assert pool.acquire(KIB).memory_type == CPU
    with pytest.raises(MemoryError):
        pool.acquire(2**62)
    with pytest.raises(ValueError):
        pool.acquire(-1)


def test_pinned_memory_goes_back_with_the_last_lease_whoever_holds_it() -> None:
    devices = FakeDevices()
    pools = Pools(SlabPool(0), lambda: devices, pinned_nbytes=64 * KIB)
    lease = pools.pinned().acquire(100)
    pools.close()
    gc.collect()
    assert devices.leaks == {"pinned": 1}
    fill(lease, 7)
    thread = threading.Thread(target=lambda held: held.clear(), args=([lease],))
    del lease
    thread.start()
    thread.join()
    assert devices.leaks == {}


def test_threads_share_a_pinned_pool_beyond_its_budget() -> None:
    devices = FakeDevices()
    host = SlabPool(1 << 16)
    pools = Pools(host, lambda: devices, pinned_nbytes=32 * KIB)
    wrong = run_threads(lambda nbytes: pools.pinned().acquire(nbytes), fill)
    pool = pools.pinned()
    assert not wrong
    assert (pool.leased, pool.leased_nbytes, host.leased) == (0, 0, 0)
    assert pool.fallbacks > 0
    assert pool.acquire(32 * KIB - 64).memory_type == PINNED  # one piece again
    assert devices.calls == ["allocate_pinned"]


def run_threads(lease_one: Callable[[int], object], write: Callable[[object, int], np.ndarray]) -> list[int]:
    """Eight threads lease and write; the turns in which somebody else's bytes were seen."""
    wrong: list[int] = []
    handed_over: list[object] = []

    def work(index: int) -> None:
        for turn in range(200):
            lease = lease_one((index * 7919 + turn * 104_729) % 9000)
            if not (write(lease, index) == index).all():
                wrong.append(turn)
            handed_over.append(lease)  # returned by whichever thread comes by
            if len(handed_over) > 12:
                handed_over.pop(0)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handed_over.clear()
    return wrong


def test_a_pinned_pool_needs_an_ordinary_one_behind_it() -> None:
    freed: list[int] = []
    arena = Arena(4096, KIB, freed.append)
    with pytest.raises(ValueError, match="fall back"):
        SlabPool(0, arena)
    pinned = SlabPool(0, arena, SlabPool(0))
    with pytest.raises(ValueError, match="fall back"):
        SlabPool(0, arena, pinned)
    del arena, pinned
    assert freed == [4096]


def test_a_range_that_can_not_be_given_back_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(address: int) -> None:
        raise InternalError("told to fail")

    arena = Arena(4096, KIB, fail)
    del arena
    assert "memory could not be given back" in caplog.text and "told to fail" in caplog.text


# -- device --------------------------------------------------------------------------------------------


def test_device_leases_are_aligned_parts_of_one_allocation() -> None:
    devices = FakeDevices(2)
    pool = DevicePool(devices, 1, 16 * KIB)
    leases = [pool.acquire(nbytes) for nbytes in (0, 1, 256, 257)]
    assert [(len(lease), lease.memory_type, lease.device_id) for lease in leases] == [
        (0, GPU, 1), (1, GPU, 1), (256, GPU, 1), (257, GPU, 1),
    ]  # fmt: skip
    with pytest.raises(BufferError):
        memoryview(leases[1])
    assert (pool.budget_nbytes, pool.leased, pool.leased_nbytes) == (16 * KIB, 4, 5 * 256)
    assert devices.calls == ["allocate"]
    leases.clear()
    assert (pool.leased, pool.leased_nbytes, pool.direct_nbytes) == (0, 0, 0)
    del pool
    assert devices.leaks == {}


def test_beyond_its_budget_the_driver_is_asked_and_gets_it_back(caplog: pytest.LogCaptureFixture) -> None:
    devices = FakeDevices()
    pool = DevicePool(devices, 0, KIB)
    inside, first, second = pool.acquire(KIB), pool.acquire(500), pool.acquire(2 * KIB)
    assert (pool.leased, pool.leased_nbytes, pool.direct_nbytes) == (3, KIB, 500 + 2 * KIB)
    assert devices.leaks == {"device": 3}
    assert first.memory_type == GPU
    del first
    assert (devices.leaks, pool.direct_nbytes) == ({"device": 2}, 2 * KIB)
    del second, inside
    assert (devices.leaks, pool.leased) == ({"device": 1}, 0)
    del pool
    assert devices.leaks == {}
    assert [record.message for record in caplog.records] == [
        "the CUDA memory pool of 1024 bytes on GPU 0 is exhausted: allocating from the driver; see "
        "--cuda-memory-pool-byte-size"
    ]


def test_a_lease_beyond_the_budget_outlives_its_pool() -> None:
    devices = FakeDevices()
    pool = DevicePool(devices, 0, 0)
    lease = pool.acquire(100)
    del pool
    assert devices.leaks == {"device": 1}
    del lease
    assert devices.leaks == {}


@pytest.mark.parametrize("error", [MemoryError("no more"), InternalError("cudaErrorLaunchFailure: unspecified")])
def test_what_the_driver_refuses_is_raised_and_nothing_is_counted(error: Exception) -> None:
    devices = FakeDevices()
    pool = DevicePool(devices, 0, KIB)
    devices.failures["allocate"] = error
    with pytest.raises(type(error), match=str(error)):
        pool.acquire(2 * KIB)
    assert (pool.leased, pool.direct_nbytes, devices.leaks) == (0, 0, {"device": 1})
    assert len(pool.acquire(KIB)) == KIB  # the budget is still there


def test_impossible_sizes_of_device_memory() -> None:
    pool = DevicePool(FakeDevices(total_nbytes=1 << 20), 0, KIB)
    with pytest.raises(ValueError):
        pool.acquire(-1)
    for nbytes in (1 << 20, 2**63 - 1):
        with pytest.raises(MemoryError):
            pool.acquire(nbytes)
    assert pool.leased == 0


def test_threads_share_a_device_pool_beyond_its_budget() -> None:
    devices = FakeDevices()
    pool = DevicePool(devices, 0, 32 * KIB)
    run_threads(pool.acquire, lambda lease, index: np.full(1, index))
    assert (pool.leased, pool.leased_nbytes, pool.direct_nbytes) == (0, 0, 0)
    assert "free" in devices.calls
    assert devices.leaks == {"device": 1}
    del pool
    assert devices.leaks == {}


# -- what the server has -------------------------------------------------------------------------------


def test_nothing_is_opened_before_it_is_asked_for_and_everything_once() -> None:
    devices = FakeDevices(2)
    opened: list[FakeDevices] = []

    def open_devices() -> FakeDevices:
        opened.append(devices)
        return devices

    host = SlabPool(0)
    pools = Pools(host, open_devices, pinned_nbytes=KIB, device_nbytes={1: 2 * KIB})
    assert pools.pinned_usage() == (0, 0)
    assert (pools.host, pools.pinned_pool, dict(pools.device_pools), opened) == (host, None, {}, [])
    assert pools.devices is pools.devices is devices
    assert [info.index for info in pools.infos()] == [0, 1]
    assert len(opened) == 1 and devices.calls == []
    assert pools.pinned() is pools.pinned() is pools.pinned_pool
    lease = pools.pinned().acquire(100)
    assert pools.pinned_usage() == (KIB, pools.pinned().leased_nbytes) and pools.pinned().leased_nbytes >= 100
    del lease
    assert pools.device(1) is pools.device(1)
    assert (pools.device(1).budget_nbytes, pools.device(0).budget_nbytes) == (2 * KIB, DEVICE_POOL_NBYTES)
    assert sorted(pools.device_pools) == [0, 1] and len(opened) == 1
    assert devices.calls == ["allocate_pinned", "allocate", "allocate"]
    pools.close()
    assert devices.leaks == {}


def test_without_a_gpu_the_reason_is_the_same_every_time_and_found_once() -> None:
    calls: list[int] = []

    def open_devices() -> FakeDevices:
        calls.append(1)
        raise Unsupported("no GPU can be used: none is built in")

    pools = Pools(SlabPool(0), open_devices)
    for ask in (lambda: pools.devices, pools.pinned, lambda: pools.device(0)):
        with pytest.raises(Unsupported, match="no GPU can be used: none is built in"):
            ask()
    assert pools.infos() == () and len(calls) == 1


def test_a_gpu_that_is_not_there() -> None:
    pools = Pools(SlabPool(0), lambda: FakeDevices(2))
    with pytest.raises(InvalidArg, match="GPU 2 can not be used; those that can are: 0, 1"):
        pools.device(2)


def test_a_pool_size_for_a_gpu_that_is_not_there_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    pools = Pools(SlabPool(0), FakeDevices, device_nbytes={0: KIB, 3: KIB})
    assert len(pools.devices.infos) == 1
    assert [record.message for record in caplog.records] == [
        "--cuda-memory-pool-byte-size is for GPU 3, which can not be used"
    ]


def test_a_pinned_pool_of_no_bytes_or_without_memory_is_the_host_pool(caplog: pytest.LogCaptureFixture) -> None:
    devices = FakeDevices()
    host = SlabPool(0)
    pools = Pools(host, lambda: devices, pinned_nbytes=0)
    assert pools.pinned() is host and pools.pinned_pool is None and not caplog.records
    devices.failures["allocate_pinned"] = MemoryError("failed to allocate: cudaErrorMemoryAllocation")
    pools = Pools(host, lambda: devices)
    assert pools.pinned() is pools.pinned() is host and pools.pinned_pool is None
    assert [record.message for record in caplog.records] == [
        "unable to allocate pinned system memory, pageable memory is used instead: failed to allocate: "
        "cudaErrorMemoryAllocation"
    ]


def test_a_device_pool_without_memory_asks_the_driver_each_time(caplog: pytest.LogCaptureFixture) -> None:
    devices = FakeDevices(total_nbytes=KIB)
    pools = Pools(SlabPool(0), lambda: devices)
    pool = pools.device(0)
    assert pool.budget_nbytes == 0 and "the driver is asked instead" in caplog.text
    lease = pool.acquire(KIB)
    assert pool.direct_nbytes == KIB
    with pytest.raises(MemoryError):
        pool.acquire(1)
    del lease
    assert devices.leaks == {}


def test_threads_that_ask_first_get_one_pool() -> None:
    devices = FakeDevices()
    pools = Pools(SlabPool(0), lambda: devices)
    barrier = threading.Barrier(8)
    found: list[SlabPool] = []

    def ask() -> None:
        barrier.wait()
        found.append(pools.pinned())
        found.append(pools.device(0))  # type: ignore[arg-type]

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 2
    assert sorted(devices.calls) == ["allocate", "allocate_pinned"]


def test_pools_touch_no_cuda_before_a_gpu_is_wanted(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from triton_async.errors import Unsupported
        from triton_async.memory.cuda import driver_loaded
        from triton_async.memory.pools import Pools
        from triton_async.memory.slab import SlabPool
        pools = Pools(SlabPool(0))
        lease = pools.host.acquire(100)
        assert "cupy" not in sys.modules and not driver_loaded(), "loaded too early"
        try:
            pools.devices
        except Unsupported as error:
            print(error.message)
        else:
            print("cupy" in sys.modules and driver_loaded())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("no GPU can be used: ", "True"))
