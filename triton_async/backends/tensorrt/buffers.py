"""Memory of one engine slot: outputs and padded inputs, which a captured CUDA graph may hold in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from triton_async.defines import DEVICE_ALIGNMENT
from triton_async.errors import InternalError


@dataclass(frozen=True, slots=True)
class DeviceAccess:
    """CUDA on one device, as an engine needs it apart from its runs. `stream`: for setting up, gone afterwards.

    `allocate` raises MemoryError; `copy(to, source, nbytes, stream)` between addresses of the device does not wait.
    """

    allocate: Callable[[int], int]
    free: Callable[[int], None]
    allocate_pinned: Callable[[int], int]
    free_pinned: Callable[[int], None]
    copy: Callable[[int, int, int, int], None]
    synchronize: Callable[[int], None]
    stream: int


@dataclass(slots=True)
class Buffer:
    """One allocation, made when first used. `pinned`: host memory that the device can reach."""

    pinned: bool = False
    address: int = 0
    capacity: int = 0


@dataclass(slots=True)
class SlotMemory:
    """Buffers of one slot. `held`: a captured graph may use them, so what they grow out of stays until `release`."""

    access: DeviceAccess
    held: bool = False
    _buffers: list[Buffer] = field(default_factory=list)
    _outgrown: list[Buffer] = field(default_factory=list)

    def buffer(self, pinned: bool = False) -> Buffer:
        """A buffer of this slot, without memory yet."""
        made = Buffer(pinned)
        self._buffers.append(made)
        return made

    def reserve(self, buffer: Buffer, nbytes: int) -> int:
        """Address of `buffer`, which then has `nbytes` at least; its content is gone when it grows. InternalError when
        there is no memory."""
        if nbytes <= buffer.capacity and buffer.address:
            return buffer.address
        # Half as much again, so that sizes that creep up do not allocate each time.
        capacity = max(nbytes, buffer.capacity * 3 // 2, DEVICE_ALIGNMENT)
        capacity = -(-capacity // DEVICE_ALIGNMENT) * DEVICE_ALIGNMENT
        old = Buffer(buffer.pinned, buffer.address, buffer.capacity)
        buffer.address = buffer.capacity = 0
        if self.held:
            self._outgrown.append(old)
        else:
            self._free(old)
        try:
            allocate = self.access.allocate_pinned if buffer.pinned else self.access.allocate
            buffer.address = allocate(capacity)
        except MemoryError:
            raise InternalError(f"failed to allocate {capacity} bytes of GPU memory for tensors") from None
        buffer.capacity = capacity
        return buffer.address

    def release(self) -> None:
        """No graph uses the buffers any more."""
        self.held = False
        for buffer in self._outgrown:
            self._free(buffer)
        self._outgrown.clear()

    def close(self) -> None:
        """Frees everything; nothing is on the stream."""
        self.release()
        for buffer in self._buffers:
            self._free(buffer)
        self._buffers.clear()

    def _free(self, buffer: Buffer) -> None:
        if buffer.address:
            (self.access.free_pinned if buffer.pinned else self.access.free)(buffer.address)
        buffer.address = buffer.capacity = 0
