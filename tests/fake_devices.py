"""GPUs for tests without one: the `Devices` protocol over host memory, which counts what is out and fails when told to.

"Device" addresses are ordinary addresses, so tests read and write them through `view`. Freed memory is unmapped: what
touches it afterwards crashes. Any thread.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import struct
import threading
from pathlib import Path

from triton_async.errors import InternalError
from triton_async.memory.devices import DeviceInfo

_HANDLE_NBYTES = 64
_tokens = itertools.count(1)
# IPC: token in the handle -> whose allocation it names. For the whole process, as every FakeDevices stands for one.
_exports: dict[int, tuple[FakeDevices, int]] = {}


class FakeDevices:
    """`count` GPUs with `total_nbytes` each. One object stands for one process: two of them can share memory by IPC.

    `failures`: method name -> what its calls raise, or a list of it for one call each.
    `calls`: names of the methods called, in order.
    """

    def __init__(
        self, count: int = 1, total_nbytes: int = 1 << 30, compute_capability: tuple[int, int] = (9, 0)
    ) -> None:
        self.infos = tuple(
            DeviceInfo(index, f"Fake GPU {index}", compute_capability, total_nbytes, f"0000:{index:02X}:00.0")
            for index in range(count)
        )
        self.failures: dict[str, BaseException | list[BaseException]] = {}
        self.calls: list[str] = []
        self.streams: dict[int, tuple[int, int]] = {}  # handle -> (device, priority)
        self.events: dict[int, tuple[int, bool, bool]] = {}  # handle -> (device, timing, spin)
        self.graphs: set[int] = set()
        self.capturing: set[int] = set()  # streams
        self.mappings: dict[int, int] = {}  # base of an opened allocation -> times opened
        self.current = threading.local()
        self._lock = threading.Lock()
        self._memory: dict[int, tuple[mmap.mmap, int, int]] = {}  # base -> (mapping, bytes, device; -1: pinned)
        self._opened: dict[int, int] = {}  # base of an opened allocation -> bytes

    def use(self, device: int) -> None:
        self._enter("use", device)
        self.current.device = device

    def allocate(self, device: int, nbytes: int) -> int:
        self._enter("allocate", device)
        if nbytes > self.memory_info(device)[0]:
            raise MemoryError(f"GPU {device} has no {nbytes} bytes left")
        return self._map(nbytes, device)

    def free(self, device: int, address: int) -> None:
        self._enter("free", device)
        self._unmap(address, device)

    def allocate_pinned(self, nbytes: int) -> int:
        self._enter("allocate_pinned")
        return self._map(nbytes, -1)

    def free_pinned(self, address: int) -> None:
        self._enter("free_pinned")
        self._unmap(address, -1)

    def memory_info(self, device: int) -> tuple[int, int]:
        total = self.infos[device].total_nbytes
        with self._lock:
            return total - sum(nbytes for _, nbytes, owner in self._memory.values() if owner == device), total

    def stream_priorities(self, device: int) -> tuple[int, int]:
        self._enter("stream_priorities", device)
        return 0, -5

    def create_stream(self, device: int, priority: int = 0) -> int:
        self._enter("create_stream", device)
        stream = next(_tokens)
        self.streams[stream] = (device, priority)
        return stream

    def destroy_stream(self, stream: int) -> None:
        self._enter("destroy_stream")
        del self.streams[stream]

    def create_event(self, device: int, timing: bool = False, spin: bool = False) -> int:
        self._enter("create_event", device)
        event = next(_tokens)
        self.events[event] = (device, timing, spin)
        return event

    def destroy_event(self, event: int) -> None:
        self._enter("destroy_event")
        del self.events[event]

    def begin_capture(self, stream: int) -> None:
        self._enter("begin_capture")
        assert stream in self.streams and stream not in self.capturing
        self.capturing.add(stream)

    def end_capture(self, stream: int) -> int:
        self.capturing.remove(stream)
        self._enter("end_capture")
        graph = next(_tokens)
        self.graphs.add(graph)
        return graph

    def destroy_graph(self, graph: int) -> None:
        self._enter("destroy_graph")
        self.graphs.remove(graph)

    def load_kernel(self, device: int, path: Path, name: str) -> int:
        self._enter("load_kernel", device)
        return next(_tokens)

    def open_ipc(self, device: int, handle: bytes) -> int:
        self._enter("open_ipc", device)
        token = struct.unpack_from("<Q", handle)[0] if len(handle) == _HANDLE_NBYTES else 0
        owner, address = _exports.get(token, (None, 0))
        if owner is None or address not in owner._memory:
            raise InternalError("failed to open CUDA IPC handle: invalid resource handle")
        if owner is self:
            raise InternalError("failed to open CUDA IPC handle: invalid device context")
        with self._lock:
            self.mappings[address] = self.mappings.get(address, 0) + 1
            self._opened[address] = owner._memory[address][1]
        return address

    def close_ipc(self, device: int, address: int) -> None:
        self._enter("close_ipc", device)
        with self._lock:
            self.mappings[address] -= 1
            if not self.mappings[address]:
                del self.mappings[address], self._opened[address]

    def allocation_nbytes(self, address: int) -> int:
        self._enter("allocation_nbytes")
        with self._lock:
            if address in self._opened:
                return self._opened[address]
            if address not in self._memory:
                raise InternalError("failed to get the size of a CUDA allocation: invalid argument")
            return self._memory[address][1]

    # -- for tests -----------------------------------------------------------------------------------

    def export_ipc(self, address: int) -> bytes:
        """The 64-byte handle of an allocation of ours, which another FakeDevices may open."""
        assert self._memory[address][2] >= 0, "pinned memory has no handle"
        token = next(_tokens)
        _exports[token] = (self, address)
        return struct.pack("<Q", token).ljust(_HANDLE_NBYTES, b"\xa5")

    def view(self, address: int, nbytes: int) -> memoryview:
        """The bytes at an address of ours or of an opened allocation, writable."""
        return memoryview((ctypes.c_char * nbytes).from_address(address)).cast("B")

    @property
    def leaks(self) -> dict[str, int]:
        """What is still out, by kind; empty when everything was given back."""
        with self._lock:
            owners = [device for _, _, device in self._memory.values()]
            counts = {
                "device": sum(device >= 0 for device in owners),
                "pinned": sum(device < 0 for device in owners),
                "stream": len(self.streams),
                "event": len(self.events),
                "graph": len(self.graphs),
                "ipc": sum(self.mappings.values()),
            }
        return {kind: count for kind, count in counts.items() if count}

    def _enter(self, method: str, device: int = 0) -> None:
        self.calls.append(method)
        failure = self.failures.get(method)
        if isinstance(failure, list):
            failure = failure.pop(0) if failure else None
        if failure is not None:
            raise failure
        if not 0 <= device < len(self.infos):
            raise InternalError("invalid device ordinal")

    def _map(self, nbytes: int, device: int) -> int:
        mapping = mmap.mmap(-1, max(nbytes, 1))
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        with self._lock:
            self._memory[address] = (mapping, nbytes, device)
        return address

    def _unmap(self, address: int, device: int) -> None:
        with self._lock:
            assert address in self._memory, "freed twice, or never allocated"
            assert self._memory[address][2] == device, "freed as what it is not"
            mapping = self._memory.pop(address)[0]
        mapping.close()
