"""GPUs for tests of blocking copies: tests/csrc/fake_cuda_sync.c as the driver, and Devices that share memory by IPC.

Device memory cannot be touched by host code, which dies of it; its owner, the client's process, sees it through
`Allocation.array`.
"""

from __future__ import annotations

import base64
import ctypes
import functools
import itertools
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from triton_async.errors import InternalError
from triton_async.memory.cuda import load_driver
from triton_async.memory.devices import DeviceInfo

SOURCE = Path(__file__).resolve().parent / "csrc" / "fake_cuda_sync.c"
_numbers = itertools.count(1)


@functools.cache
def _built() -> Path:
    path = Path(tempfile.mkdtemp(prefix="fake-cuda-sync-")) / "libfakecudasync.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run([*command, str(SOURCE), "-o", str(path)], check=True)
    return path


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_built()))
    library.fake_allocate.argtypes = [ctypes.c_size_t]
    library.fake_allocate.restype = ctypes.c_uint64
    library.fake_free.argtypes = library.fake_alias.argtypes = [ctypes.c_uint64]
    library.fake_alias.restype = ctypes.c_void_p
    library.fake_copies.restype = library.fake_synchronisations.restype = ctypes.c_int64
    return library


class Allocation:
    """Device memory of a client, with the handle that it sends to the server."""

    def __init__(self, nbytes: int, device: int = 0) -> None:
        self.nbytes = nbytes
        self.device = device
        self.address: int = _library().fake_allocate(nbytes)
        assert self.address
        # Nothing about a handle can be guessed from outside; ours starts with its number.
        self.handle = next(_numbers).to_bytes(8, "little") + bytes(range(56))

    @property
    def raw_handle(self) -> bytes:
        """As tritonclient's `get_raw_handle` gives it."""
        return base64.b64encode(self.handle)

    def array(self, dtype: type | str = np.uint8, offset: int = 0, count: int = -1) -> np.ndarray:
        """The client's view of the bytes from `offset` on."""
        view = (ctypes.c_ubyte * self.nbytes).from_address(_library().fake_alias(self.address))
        return np.frombuffer(view, dtype, count, offset)

    def free(self) -> None:
        _library().fake_free(self.address)


class Devices:
    """`memory.devices.Devices` as far as regions need it. `opened`: address -> times opened and not closed."""

    def __init__(self, count: int = 1) -> None:
        self.infos = tuple(
            DeviceInfo(i, f"Fake GPU {i}", (9, 0), 1 << 30, f"0000:{i:02X}:00.0") for i in range(count)
        )
        self.shared: dict[bytes, Allocation] = {}
        self.opened: dict[int, int] = {}
        self.used: list[int] = []  # what `use` was called with
        self.fail_close = False
        self.fail_use = False
        self.gate = threading.Event()  # opening waits for it
        self.gate.set()
        self.opening = threading.Event()  # somebody is opening

    def share(self, nbytes: int, device: int = 0) -> Allocation:
        """New memory of a client."""
        allocation = Allocation(nbytes, device)
        self.shared[allocation.handle] = allocation
        return allocation

    def memory_info(self, device: int) -> tuple[int, int]:
        return 1 << 30, 1 << 30

    def use(self, device: int) -> None:
        if self.fail_use:
            raise InternalError("CUDA_ERROR_OF_THE_FAKE: no context for you")
        assert 0 <= device < len(self.infos)
        self.used.append(device)
        _library().fake_set_context(1)

    def open_ipc(self, device: int, handle: bytes) -> int:
        self.opening.set()
        assert self.gate.wait(20)
        allocation = self.shared.get(handle)
        if allocation is None or allocation.device != device:
            raise InternalError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self.opened[allocation.address] = self.opened.get(allocation.address, 0) + 1
        return allocation.address

    def close_ipc(self, device: int, address: int) -> None:
        if self.fail_close:
            raise InternalError("CUDA_ERROR_OF_THE_FAKE: stays open")
        self.opened[address] -= 1
        if not self.opened[address]:
            del self.opened[address]

    def allocation_nbytes(self, address: int) -> int:
        return next(a.nbytes for a in self.shared.values() if a.address == address)


def copies() -> int:
    """Copies asked of the driver so far."""
    return int(_library().fake_copies())


def synchronisations() -> int:
    return int(_library().fake_synchronisations())


@contextmanager
def failing(copy: int = 0, synchronise: int = 0) -> Iterator[None]:
    """Every copy, or wait for copies, ends with that CUresult."""
    _library().fake_set_results(copy, synchronise)
    try:
        yield
    finally:
        _library().fake_set_results(0, 0)


@contextmanager
def devices(count: int = 1) -> Iterator[Devices]:
    """GPUs for one test, which leaves no region open."""
    load_driver(str(_built()))
    found = Devices(count)
    try:
        yield found
        assert found.opened == {}
    finally:
        for allocation in found.shared.values():
            allocation.free()
