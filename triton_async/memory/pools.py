"""All memory that tensors come from: the host pool, and what a GPU needs, made when the first one is used.

One object of the app, handed down. Nothing of CUDA is loaded before a property says so. Any thread; what may touch a
GPU blocks, so not on the loop thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from triton_async.defines import DEVICE_POOL_NBYTES, PINNED_POOL_NBYTES
from triton_async.errors import InternalError, InvalidArg, Unsupported
from triton_async.memory.arena import Arena
from triton_async.memory.device import DevicePool
from triton_async.memory.devices import DeviceInfo, Devices, open_devices
from triton_async.memory.slab import SlabPool

log = logging.getLogger("triton_async.memory")


class Pools:
    """`open_devices` makes the Devices, or raises Unsupported with the reason why there is no GPU; called once.

    `pinned_nbytes`: --pinned-memory-pool-byte-size; `device_nbytes`: --cuda-memory-pool-byte-size by GPU.
    """

    def __init__(
        self,
        host: SlabPool,
        open_devices: Callable[[], Devices] = open_devices,
        *,
        pinned_nbytes: int = PINNED_POOL_NBYTES,
        device_nbytes: Mapping[int, int] | None = None,
    ) -> None:
        self.host = host
        self._open_devices = open_devices
        self._pinned_nbytes = pinned_nbytes
        self._device_nbytes = dict(device_nbytes or {})
        self._lock = threading.RLock()
        self._devices: Devices | None = None
        self._reason = ""
        self._pinned: SlabPool | None = None
        self._device_pools: dict[int, DevicePool] = {}

    @property
    def devices(self) -> Devices:
        """The GPUs; opened at the first call. Unsupported, always with the same reason, when there is none."""
        with self._lock:
            if self._devices is None and not self._reason:
                try:
                    self._devices = self._open_devices()
                    self._check_named()
                except Unsupported as error:
                    self._reason = error.message
            if self._devices is None:
                raise Unsupported(self._reason)
            return self._devices

    def infos(self) -> tuple[DeviceInfo, ...]:
        """The usable GPUs, () when there is none; opens them as `devices` does."""
        try:
            return self.devices.infos
        except Unsupported:
            return ()

    def pci_bus_ids(self) -> dict[int, str]:
        """PCI bus id of each usable GPU, by index; empty while nothing has opened them. Never blocks."""
        devices = self._devices
        return {} if devices is None else {info.index: info.pci_bus_id for info in devices.infos}

    def pinned(self) -> SlabPool:
        """Slabs of pinned memory, made at the first call; the host pool when none was wanted or there is none to get.

        Unsupported when there is no GPU.
        """
        with self._lock:
            if self._pinned is None:
                self._pinned = self._make_pinned(self.devices)
            return self._pinned

    def device(self, index: int) -> DevicePool:
        """Memory of one GPU, made at the first call. Unsupported when there is no GPU, InvalidArg when not this one."""
        with self._lock:
            pool = self._device_pools.get(index)
            if pool is None:
                pool = self._device_pools[index] = self._make_device(self.devices, index)
            return pool

    @property
    def pinned_pool(self) -> SlabPool | None:
        """The pinned pool when there is one already. Never blocks."""
        pool = self._pinned
        return None if pool is self.host else pool

    @property
    def device_pools(self) -> Mapping[int, DevicePool]:
        """The pools of GPUs that there are already, by GPU. Never blocks."""
        return dict(self._device_pools)

    def pinned_usage(self) -> tuple[int, int]:
        """(all, leased) bytes of the pinned pool, for the metrics; (0, 0) while there is none. Never blocks."""
        pool = self.pinned_pool
        return (0, 0) if pool is None else (pool.budget_nbytes, pool.leased_nbytes)

    def close(self) -> None:
        """Gives up the pools; their memory goes back with the last lease. Behind it nothing may be asked for."""
        with self._lock:
            self._pinned = None
            self._device_pools = {}

    def _check_named(self) -> None:
        assert self._devices is not None
        there = {info.index for info in self._devices.infos}
        for index in sorted(set(self._device_nbytes) - there):
            log.warning("--cuda-memory-pool-byte-size is for GPU %d, which can not be used", index)

    def _make_pinned(self, devices: Devices) -> SlabPool:
        if self._pinned_nbytes == 0:
            return self.host
        try:
            address = devices.allocate_pinned(self._pinned_nbytes)
        except (InternalError, MemoryError) as error:
            log.warning("unable to allocate pinned system memory, pageable memory is used instead: %s", error)
            return self.host
        log.info("Pinned memory pool is created with size %d", self._pinned_nbytes)
        return SlabPool(0, Arena(address, self._pinned_nbytes, devices.free_pinned), self.host)

    def _make_device(self, devices: Devices, index: int) -> DevicePool:
        if index not in {info.index for info in devices.infos}:
            usable = ", ".join(str(info.index) for info in devices.infos)
            raise InvalidArg(f"GPU {index} can not be used; those that can are: {usable}")
        nbytes = self._device_nbytes.get(index, DEVICE_POOL_NBYTES)
        try:
            pool = DevicePool(devices, index, nbytes)
        except (InternalError, MemoryError) as error:
            log.warning("unable to allocate the memory pool of GPU %d, the driver is asked instead: %s", index, error)
            return DevicePool(devices, index, 0)
        log.info("CUDA memory pool is created on device %d with size %d", index, nbytes)
        return pool
