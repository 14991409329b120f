"""What the memory manager of a backend gives out beyond ordinary memory: pinned memory and that of GPUs."""

from __future__ import annotations

import threading
from typing import Any

from triton_async.errors import Unavailable, Unsupported

_PINNED, _GPU = 1, 2


class NativeMemory:
    """Serves TRITONBACKEND_MemoryManagerAllocate from the server's pools. Any thread."""

    def __init__(self, pools: Any) -> None:
        self._pools = pools
        self._out: dict[int, Any] = {}
        self._lock = threading.Lock()

    def allocate(self, memory_type: int, device: int, size: int) -> int:
        """Address of `size` bytes. Unsupported where there is none of the kind, Unavailable where it is all in use."""
        lease = self._lease(memory_type, device, max(size, 1))
        address = lease.address
        with self._lock:
            self._out[address] = lease
        return int(address)

    def _lease(self, memory_type: int, device: int, size: int) -> Any:
        if memory_type not in (_PINNED, _GPU) or self._pools is None:
            raise Unsupported(f"this server has no memory of type {memory_type}")
        pool = self._pools.pinned() if memory_type == _PINNED else self._pools.device(device)
        if pool is self._pools.host:
            raise Unsupported("this server has no pinned memory")
        try:
            lease = pool.acquire(size)
        except MemoryError:
            raise Unavailable(f"{size} bytes of this kind of memory are not free now") from None
        if lease.memory_type != memory_type:
            raise Unavailable(f"{size} bytes of pinned memory are not free now")
        return lease

    def free(self, address: int) -> None:
        """Gives memory back; an unknown address is nobody's."""
        with self._lock:
            self._out.pop(address, None)
