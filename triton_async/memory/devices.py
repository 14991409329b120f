"""GPUs as the rest of the server sees them: what happens once per device, allocation or region, through CuPy.

CuPy is imported, and the driver loaded, by `open_devices`; nothing before it touches CUDA. What happens per batch
goes through `memory.cuda` without the GIL.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One GPU. `compute_capability`: (major, minor); `pci_bus_id`: "0000:1B:00.0", the name NVML knows it by."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    total_nbytes: int
    pci_bus_id: str


class Devices(Protocol):
    """CUDA, as far as it is called once and not per batch. Addresses and handles are plain integers.

    Every method but `infos` raises InternalError with CUDA's text, ResourceExhausted-like failures of an
    allocation MemoryError. May block: not on the loop thread, but for `infos`.
    """

    @property
    def infos(self) -> tuple[DeviceInfo, ...]:
        """The usable GPUs by index; empty when there is none."""

    def use(self, device: int) -> None:
        """Makes `device` current for the calling thread; each instance thread calls it first."""

    def allocate(self, device: int, nbytes: int) -> int:
        """Device memory that may be exported (cudaMalloc), aligned to 256 bytes."""

    def free(self, device: int, address: int) -> None: ...

    def allocate_pinned(self, nbytes: int) -> int:
        """Page-locked host memory, usable from every device (cudaHostAllocPortable)."""

    def free_pinned(self, address: int) -> None: ...

    def memory_info(self, device: int) -> tuple[int, int]:
        """(free, total) bytes."""

    def stream_priorities(self, device: int) -> tuple[int, int]:
        """(least, most urgent) priority of a stream; lower is more urgent. (0, 0) when there is but one."""

    def create_stream(self, device: int, priority: int = 0) -> int:
        """A non-blocking stream. `priority`: lower is more urgent, 0 the least."""

    def destroy_stream(self, stream: int) -> None: ...

    def create_event(self, device: int, timing: bool = False, spin: bool = False) -> int:
        """An event that is waited for asleep, or busily when `spin`."""

    def destroy_event(self, event: int) -> None: ...

    def begin_capture(self, stream: int) -> None:
        """What the calling thread puts on `stream` is recorded from here on, not run (thread-local mode)."""

    def end_capture(self, stream: int) -> int:
        """Ends a capture, also one that was invalidated: the stream can be used again. The graph, instantiated."""

    def destroy_graph(self, graph: int) -> None: ...

    def load_kernel(self, device: int, path: Path, name: str) -> int:
        """The kernel `name` (extern "C") of a file: a fatbin, or CUDA C++ (`.cu`) that is compiled for `device` first.
        Stays loaded."""

    def open_ipc(self, device: int, handle: bytes) -> int:
        """Maps another process's allocation (64-byte handle): its base address."""

    def close_ipc(self, device: int, address: int) -> None: ...

    def allocation_nbytes(self, address: int) -> int:
        """Size of the allocation that `address` is the base of."""
