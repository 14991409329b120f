"""GPUs as the rest of the server sees them: what happens once per device, allocation or region, through CuPy.

CuPy is imported, and the driver loaded, by `open_devices`; nothing before it touches CUDA. What happens per batch
goes through `memory.cuda` without the GIL.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from triton_async.defines import MIN_COMPUTE_CAPABILITY
from triton_async.errors import InternalError, InvalidArg, ServerError, Unsupported
from triton_async.importing import import_module
from triton_async.memory.cuda import load_driver

log = logging.getLogger("triton_async.memory")

IPC_HANDLE_NBYTES = 64

# CUDA's status of a failed allocation, the same number in the driver and the runtime API.
_OUT_OF_MEMORY = 2


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

    Every method but `infos` raises InternalError with CUDA's text, MemoryError when memory is short. May block: not
    on the loop thread, but for `infos`. Only `use` changes the calling thread's device.
    """

    @property
    def infos(self) -> tuple[DeviceInfo, ...]:
        """The usable GPUs by index; empty when there is none."""

    def use(self, device: int) -> int:
        """Makes `device` current for the calling thread, and says which was; each instance thread calls it first."""

    def allocate(self, device: int, nbytes: int) -> int:
        """Device memory that may be exported (cudaMalloc), aligned to 256 bytes."""

    def free(self, device: int, address: int) -> None:
        """Gives back what `allocate` gave. Waits for all that runs on the device."""

    def allocate_pinned(self, nbytes: int) -> int:
        """Page-locked host memory, usable from every device (cudaHostAllocPortable)."""

    def free_pinned(self, address: int) -> None: ...

    def memory_info(self, device: int) -> tuple[int, int]:
        """(free, total) bytes."""

    def stream_priorities(self, device: int) -> tuple[int, int]:
        """(least, most urgent) priority of a stream; lower is more urgent. (0, 0) when there is but one."""

    def create_stream(self, device: int, priority: int = 0) -> int:
        """A non-blocking stream. `priority`: lower is more urgent, 0 the least."""

    def destroy_stream(self, stream: int) -> None:
        """Gives back what `create_stream` gave, with nothing on it. It may be kept and given out again."""

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
        """Maps another process's allocation (64-byte handle, else InvalidArg): its base address."""

    def close_ipc(self, device: int, address: int) -> None: ...

    def allocation_nbytes(self, address: int) -> int:
        """Bytes from `address` to the end of its allocation."""


def open_devices(min_compute_capability: float = MIN_COMPUTE_CAPABILITY) -> Devices:
    """The GPUs of this machine with at least that compute capability. Unsupported, in one sentence, when there is none.

    Loads the driver and CuPy, which takes part of a second: not on the loop thread.
    """
    try:
        load_driver()
    except OSError as error:
        raise _no_gpu(str(error)) from None
    try:
        cupy = import_module("cupy")
    except ImportError as error:
        if error.name == "cupy":
            raise _no_gpu("CuPy is not installed; it comes with triton-async[gpu]") from None
        log.warning("CuPy can not be imported: %s", error)
        raise _no_gpu("CuPy can not be imported, see the log of the server") from None
    try:
        devices = CupyDevices(cupy, min_compute_capability)
    except (ServerError, MemoryError) as error:
        raise _no_gpu(str(error)) from None
    if not devices.infos:
        raise _no_gpu(f"none has a compute capability of at least {min_compute_capability}")
    return devices


def _no_gpu(reason: str) -> Unsupported:
    return Unsupported(f"no GPU can be used: {reason}")


class CupyDevices:
    """`Devices` through CuPy's thin layer over the CUDA runtime. `cupy`: the module."""

    def __init__(self, cupy: Any, min_compute_capability: float) -> None:
        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        self._errors = (self._runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError)
        self._modules: list[Any] = []  # keeps the code of kernels loaded
        # Streams are given out again and never destroyed: libraries keep memory for each stream that they have seen
        # (PyTorch's cuBLAS workspaces: 34 MiB on an H100), so that a new one for each load would fill the device.
        self._streams: dict[int, tuple[int, int]] = {}  # all, with their device and priority
        self._idle_streams: dict[tuple[int, int], list[int]] = {}
        self._streams_lock = threading.Lock()
        found = [self._info(index) for index in range(self._count())]
        self._infos = tuple(info for info in found if _is_supported(info, min_compute_capability))
        # For calls that CuPy does not have. The library is loaded already.
        self._driver = ctypes.CDLL("libcuda.so.1")

    @property
    def infos(self) -> tuple[DeviceInfo, ...]:
        """See Devices."""
        return self._infos

    def use(self, device: int) -> int:
        """See Devices."""
        with self._checked(f"use GPU {device}"):
            before = int(self._runtime.getDevice())
            self._runtime.setDevice(device)
        return before

    def allocate(self, device: int, nbytes: int) -> int:
        """See Devices."""
        with self._on(device, f"allocate {nbytes} bytes on GPU {device}"):
            # CUDA answers 0 bytes with no address.
            return int(self._runtime.malloc(max(nbytes, 1)))

    def free(self, device: int, address: int) -> None:
        """See Devices."""
        with self._on(device, f"free memory on GPU {device}"):
            self._runtime.free(address)

    def allocate_pinned(self, nbytes: int) -> int:
        """See Devices."""
        with self._checked(f"allocate {nbytes} bytes of pinned memory"):
            return int(self._runtime.hostAlloc(max(nbytes, 1), self._runtime.hostAllocPortable))

    def free_pinned(self, address: int) -> None:
        """See Devices."""
        with self._checked("free pinned memory"):
            self._runtime.freeHost(address)

    def memory_info(self, device: int) -> tuple[int, int]:
        """See Devices."""
        with self._on(device, f"read the free memory of GPU {device}"):
            free, total = self._runtime.memGetInfo()
            return int(free), int(total)

    def stream_priorities(self, device: int) -> tuple[int, int]:
        """See Devices."""
        what = f"read the stream priorities of GPU {device}"
        least, most_urgent = ctypes.c_int(), ctypes.c_int()
        with self._on(device, what):
            status = self._driver.cuCtxGetStreamPriorityRange(ctypes.byref(least), ctypes.byref(most_urgent))
        self._check(what, status)
        return least.value, most_urgent.value

    def create_stream(self, device: int, priority: int = 0) -> int:
        """See Devices."""
        with self._streams_lock:
            idle = self._idle_streams.get((device, priority))
            if idle:
                return idle.pop()
        with self._on(device, f"create a stream on GPU {device}"):
            stream = int(self._runtime.streamCreateWithPriority(self._runtime.streamNonBlocking, priority))
        with self._streams_lock:
            self._streams[stream] = device, priority
        return stream

    def destroy_stream(self, stream: int) -> None:
        """See Devices. InternalError for one that is not of `create_stream`."""
        with self._streams_lock:
            kind = self._streams.get(stream)
            if kind is None:
                raise InternalError("failed to destroy a stream: it is none of ours")
            self._idle_streams.setdefault(kind, []).append(stream)

    def create_event(self, device: int, timing: bool = False, spin: bool = False) -> int:
        """See Devices."""
        runtime = self._runtime
        flags = (0 if timing else runtime.eventDisableTiming) | (0 if spin else runtime.eventBlockingSync)
        with self._on(device, f"create an event on GPU {device}"):
            return int(runtime.eventCreateWithFlags(flags))

    def destroy_event(self, event: int) -> None:
        """See Devices."""
        with self._checked("destroy an event"):
            self._runtime.eventDestroy(event)

    def begin_capture(self, stream: int) -> None:
        """See Devices."""
        with self._checked("begin the capture of a CUDA graph"):
            self._runtime.streamBeginCapture(stream, self._runtime.streamCaptureModeThreadLocal)

    def end_capture(self, stream: int) -> int:
        """See Devices."""
        with self._checked("capture a CUDA graph"):
            graph = self._runtime.streamEndCapture(stream)
            try:
                return int(self._runtime.graphInstantiate(graph))
            finally:
                self._runtime.graphDestroy(graph)

    def destroy_graph(self, graph: int) -> None:
        """See Devices."""
        with self._checked("destroy a CUDA graph"):
            self._runtime.graphExecDestroy(graph)

    def load_kernel(self, device: int, path: Path, name: str) -> int:
        """See Devices."""
        what = f"load the kernel {name} on GPU {device}"
        with self._on(device, what):
            try:
                source = {"code": path.read_text()} if path.suffix == ".cu" else {"path": str(path)}
                module = self._cupy.RawModule(**source)
                kernel = module.get_function(name).kernel
            except self._errors:
                raise
            except Exception as error:  # of the compiler, or because there is none
                log.error("failed to %s: %s", what, error)
                raise InternalError(f"failed to {what}: {type(error).__name__}") from None
        self._modules.append((module, kernel))
        return int(kernel.ptr)

    def open_ipc(self, device: int, handle: bytes) -> int:
        """See Devices."""
        # CuPy reads 64 bytes whatever there are.
        if len(handle) != IPC_HANDLE_NBYTES:
            raise InvalidArg(f"a CUDA IPC handle has {IPC_HANDLE_NBYTES} bytes, not {len(handle)}")
        with self._on(device, f"open a CUDA IPC handle on GPU {device}"):
            return int(self._runtime.ipcOpenMemHandle(bytes(handle)))

    def close_ipc(self, device: int, address: int) -> None:
        """See Devices."""
        with self._on(device, f"close a CUDA IPC handle on GPU {device}"):
            self._runtime.ipcCloseMemHandle(address)

    def allocation_nbytes(self, address: int) -> int:
        """See Devices."""
        what = "read the size of a CUDA allocation"
        base, nbytes = ctypes.c_uint64(), ctypes.c_size_t()
        with self._checked(what):
            device = int(self._runtime.pointerGetAttributes(address).device)
        if device < 0:
            raise InternalError(f"failed to {what}: it is no memory of a GPU")
        with self._on(device, what):
            status = self._driver.cuMemGetAddressRange_v2(
                ctypes.byref(base), ctypes.byref(nbytes), ctypes.c_uint64(address)
            )
        self._check(what, status)
        return base.value + nbytes.value - address

    def _count(self) -> int:
        with self._checked("count the GPUs"):
            return int(self._runtime.getDeviceCount())

    def _info(self, index: int) -> DeviceInfo:
        with self._checked(f"read the properties of GPU {index}"):
            properties = self._runtime.getDeviceProperties(index)
            name = properties["name"]
            return DeviceInfo(
                index,
                name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name),
                (int(properties["major"]), int(properties["minor"])),
                int(properties["totalGlobalMem"]),
                str(self._runtime.deviceGetPCIBusId(index)),
            )

    def _check(self, what: str, status: int) -> None:
        """Of the driver's own functions."""
        if status:
            text = ctypes.c_char_p()
            if self._driver.cuGetErrorString(status, ctypes.byref(text)) or text.value is None:
                text.value = f"CUDA error {status}".encode()
            assert text.value is not None
            raise _failure(what, status, text.value.decode("utf-8", "replace"))

    @contextmanager
    def _on(self, device: int, what: str) -> Iterator[None]:
        """As `_checked`, with `device` current."""
        with self._checked(what):
            before = self._runtime.getDevice()
            # Also when it is the same: only this makes its context current, for calls of the driver.
            self._runtime.setDevice(device)
            try:
                yield
            finally:
                if before != device and self._has_context(before):
                    self._runtime.setDevice(before)

    def _has_context(self, device: int) -> bool:
        # A thread begins on GPU 0; going back there would make a context that takes hundreds of MiB of it for nothing.
        flags, active = ctypes.c_uint(), ctypes.c_int()
        status = self._driver.cuDevicePrimaryCtxGetState(device, ctypes.byref(flags), ctypes.byref(active))
        return status != 0 or active.value != 0

    @contextmanager
    def _checked(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise _failure(what, error.status, str(error)) from None


def _failure(what: str, status: int, text: str) -> Exception:
    """What a CUDA status other than success is raised as."""
    kind = MemoryError if status == _OUT_OF_MEMORY else InternalError
    return kind(f"failed to {what}: {text}")


def _is_supported(info: DeviceInfo, min_compute_capability: float) -> bool:
    capability = "{}.{}".format(*info.compute_capability)
    if float(capability) >= min_compute_capability:
        return True
    # Triton's words.
    log.warning(
        "gpu %d has compute capability '%s' which is less than the minimum supported of '%s'",
        info.index, capability, min_compute_capability,
    )  # fmt: skip
    return False
