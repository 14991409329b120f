"""CUDA for tests without a GPU: tests/csrc/fake_cuda*.c as the driver, and the Devices protocol on top of it."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from triton_async.errors import InternalError
from triton_async.memory.cuda import load_driver
from triton_async.memory.devices import DeviceInfo

SOURCES = [Path(__file__).resolve().parent / "csrc" / name for name in ("fake_cuda.c", "fake_cuda_objects.c")]
PATIENCE_S = 60
ILLEGAL_ADDRESS = 700
OUT_OF_MEMORY = 2


class State(ctypes.Structure):
    """fake_state."""

    _fields_ = [(name, ctypes.c_int64) for name in (
        "streams", "events", "graphs", "allocations", "pinned", "gates", "nbytes", "calls", "pending", "spinning",
    )]  # fmt: skip

    def live(self) -> dict[str, int]:
        names = ("streams", "events", "graphs", "allocations", "pinned", "gates", "pending")
        return {name: getattr(self, name) for name in names}


@functools.cache
def library() -> ctypes.CDLL:
    """The fake driver, built once a process, and loaded as the process's driver."""
    folder = Path(tempfile.mkdtemp(prefix="fake-cuda-"))
    path = folder / "libfakecuda.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-pthread",
               *map(str, SOURCES), "-o", str(path)]  # fmt: skip
    subprocess.run(command, check=True)
    load_driver(str(path))
    loaded = ctypes.CDLL(str(path))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    out = ctypes.POINTER(ctypes.c_void_p)
    signatures: dict[str, tuple[Any, ...]] = {
        "fake_stream_create": (ctypes.c_int, out), "fake_stream_destroy": (pointer,),
        "fake_stream_priority": (pointer,), "fake_stream_number": (pointer,),
        "fake_event_create": (ctypes.c_int, ctypes.c_int, out), "fake_event_destroy": (pointer,),
        "fake_allocate": (size, ctypes.POINTER(ctypes.c_uint64)), "fake_free": (ctypes.c_uint64,),
        "fake_allocate_pinned": (size, ctypes.POINTER(ctypes.c_uint64)), "fake_free_pinned": (ctypes.c_uint64,),
        "fake_begin_capture": (pointer,), "fake_end_capture": (pointer, out), "fake_destroy_graph": (pointer,),
        "fake_add_sub": (pointer, *[ctypes.c_uint64] * 4, size, pointer),
        "fake_gate_free": (pointer,), "fake_gate_shut": (pointer,), "fake_gate_open": (pointer,),
        "fake_gate_let_through": (pointer, ctypes.c_int), "fake_gate_await": (pointer, ctypes.c_int, ctypes.c_int),
        "fake_fail_at": (ctypes.c_int64, ctypes.c_int, ctypes.c_int), "fake_read_state": (ctypes.POINTER(State),),
        "cuMemcpy": (ctypes.c_uint64, ctypes.c_uint64, size), "cuStreamSynchronize": (pointer,),
        "cuMemcpyAsync": (ctypes.c_uint64, ctypes.c_uint64, size, pointer), "cuEventRecord": (pointer, pointer),
    }  # fmt: skip
    for name, arguments in signatures.items():
        getattr(loaded, name).argtypes = arguments
    for name in ("fake_gate_new", "fake_gather_kernel"):
        getattr(loaded, name).restype = pointer
    loaded.fake_trace.argtypes = (ctypes.c_char_p, size)
    loaded.fake_trace.restype = size
    return loaded


def state() -> State:
    read = State()
    library().fake_read_state(ctypes.byref(read))
    return read


def fail_at(call: int, result: int = OUT_OF_MEMORY, *, lasting: bool = False) -> None:
    """Call number `call` from now on, 0 being the next, fails."""
    library().fake_fail_at(call, result, lasting)


def recover() -> None:
    """Nothing fails any more, as after a new start of the process."""
    library().fake_recover()


def trace() -> list[str]:
    """What the streams have done since `clear_trace`, such as "c3": c copy, s set, k add_sub, g gather, G graph, h host
    function; the stream's number as FakeDevices numbers them."""
    text = ctypes.create_string_buffer(1 << 16)
    count = library().fake_trace(text, len(text))
    return text.raw[:count].decode().split()


def clear_trace() -> None:
    library().fake_trace_clear()


class Gate:
    """Holds the runs of a FakeEngine on their stream. Open at first."""

    def __init__(self) -> None:
        self.handle = library().fake_gate_new()

    def shut(self) -> None:
        library().fake_gate_shut(self.handle)

    def open(self) -> None:
        library().fake_gate_open(self.handle)

    def let_through(self, count: int = 1) -> None:
        library().fake_gate_let_through(self.handle, count)

    def arrivals(self, count: int) -> None:
        """Waits until so many runs have come to it since it was made."""
        assert library().fake_gate_await(self.handle, count, PATIENCE_S)

    def free(self) -> None:
        library().fake_gate_free(self.handle)


class FakeDevices:
    """Devices over the fake driver. Any thread."""

    def __init__(self, count: int = 1, urgency: int = -5) -> None:
        self.library = library()
        self.infos = tuple(DeviceInfo(i, f"Fake {i}", (9, 0), 1 << 34, f"0000:{i:02X}:00.0") for i in range(count))
        self.urgency = urgency
        self.used: list[int] = []
        self.streams: list[int] = []
        self.kernels: list[Path] = []

    def use(self, device: int) -> None:
        self.used.append(device)

    def allocate(self, device: int, nbytes: int) -> int:
        return self._allocate("fake_allocate", nbytes)

    def free(self, device: int, address: int) -> None:
        self._check(self.library.fake_free(address), "free memory")

    def allocate_pinned(self, nbytes: int) -> int:
        return self._allocate("fake_allocate_pinned", nbytes)

    def free_pinned(self, address: int) -> None:
        self._check(self.library.fake_free_pinned(address), "free pinned memory")

    def memory_info(self, device: int) -> tuple[int, int]:
        total = self.infos[device].total_nbytes
        return total - state().nbytes, total

    def stream_priorities(self, device: int) -> tuple[int, int]:
        return 0, self.urgency

    def create_stream(self, device: int, priority: int = 0) -> int:
        stream = self._make("fake_stream_create", priority)
        self.streams.append(stream)
        return stream

    def destroy_stream(self, stream: int) -> None:
        self._check(self.library.fake_stream_destroy(stream), "destroy a stream")

    def create_event(self, device: int, timing: bool = False, spin: bool = False) -> int:
        return self._make("fake_event_create", timing, spin)

    def destroy_event(self, event: int) -> None:
        self._check(self.library.fake_event_destroy(event), "destroy an event")

    def begin_capture(self, stream: int) -> None:
        self._check(self.library.fake_begin_capture(stream), "begin a capture")

    def end_capture(self, stream: int) -> int:
        return self._make("fake_end_capture", stream)

    def destroy_graph(self, graph: int) -> None:
        self._check(self.library.fake_destroy_graph(graph), "destroy a graph")

    def load_kernel(self, device: int, path: Path, name: str) -> int:
        assert name == "ta_gather" and path.exists()
        self.kernels.append(path)
        return int(self.library.fake_gather_kernel())

    def open_ipc(self, device: int, handle: bytes) -> int:
        raise InternalError("the fake has no other process")

    def close_ipc(self, device: int, address: int) -> None:
        raise InternalError("the fake has no other process")

    def allocation_nbytes(self, address: int) -> int:
        raise InternalError("the fake has no other process")

    def number(self, stream: int) -> int:
        """The stream's number in `trace`."""
        return int(self.library.fake_stream_number(stream))

    def _make(self, function: str, *arguments: int) -> int:
        made = ctypes.c_void_p()
        self._check(getattr(self.library, function)(*arguments, ctypes.byref(made)), function)
        assert made.value is not None
        return made.value

    def _allocate(self, function: str, nbytes: int) -> int:
        address = ctypes.c_uint64()
        self._check(getattr(self.library, function)(nbytes, ctypes.byref(address)), function)
        return address.value

    def _check(self, result: int, what: str) -> None:
        if result == OUT_OF_MEMORY:
            raise MemoryError(f"failed to {what}: CUDA error {result}")
        if result:
            raise InternalError(f"failed to {what}: CUDA error {result}")


def write(address: int, array: np.ndarray) -> None:
    """Copies an array to device memory."""
    assert library().cuMemcpy(address, array.ctypes.data, array.nbytes) == 0


def read(address: int, count: int) -> np.ndarray:
    """`count` FP32 elements of device memory."""
    array = np.zeros(count, np.float32)
    assert library().cuMemcpy(array.ctypes.data, address, array.nbytes) == 0
    return array
