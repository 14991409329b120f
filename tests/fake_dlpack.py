"""Arrays in the memory of the fake CUDA driver, which speak DLPack as a GPU library does."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import fake_cuda
import numpy as np

CUDA = 2
_CODES = {"b": 6, "i": 0, "u": 1, "f": 2}


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_uint64), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("manager", ctypes.c_void_p), ("deleter", _DELETER)]


class GpuArray:
    """An array on a fake GPU. `strides`: in elements. Counts the capsules of it that are still held."""

    def __init__(self, array: np.ndarray, *, strides: tuple[int, ...] | None = None, **fields: int) -> None:
        self.devices = fake_cuda.FakeDevices()
        self.nbytes = array.nbytes
        self.address = self.devices.allocate(0, max(array.nbytes, 1) + 64)
        fake_cuda.write(self.address + 64, np.ascontiguousarray(array))
        self.shape, self.strides, self.dtype = array.shape, strides, array.dtype
        self.fields = fields
        self.held = 0
        self.streams: list[Any] = []
        self._kept: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return (CUDA, 0)

    def __dlpack__(self, stream: Any = None, dl_device: Any = None, copy: Any = None) -> Any:
        if dl_device is not None:
            assert tuple(dl_device) == (1, 0) and copy
            return self.read().__dlpack__()
        self.streams.append(stream)
        managed = _Managed()
        rank = len(self.shape)
        dims = (ctypes.c_int64 * max(rank, 1))(*self.shape)
        strides = None if self.strides is None else (ctypes.c_int64 * max(rank, 1))(*self.strides)
        managed.tensor = _Tensor(
            self.address, CUDA, 0, rank, _CODES[self.dtype.kind], 8 * self.dtype.itemsize, 1,
            ctypes.cast(dims, ctypes.POINTER(ctypes.c_int64)), ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64)), 64,
        )  # fmt: skip
        for name, value in self.fields.items():
            setattr(managed.tensor, name, value)
        managed.deleter = _DELETER(self._let_go)
        self._kept.append((managed, dims, strides))
        self.held += 1
        return _new_capsule(ctypes.addressof(managed))

    def read(self) -> np.ndarray:
        """What the GPU has."""
        found = np.zeros(self.shape, self.dtype)
        assert fake_cuda.library().cuMemcpy(found.ctypes.data, self.address + 64, self.nbytes) == 0
        return found

    def free(self) -> None:
        assert self.held == 0
        self.devices.free(0, self.address)

    def _let_go(self, managed: int) -> None:
        self.held -= 1


def take(capsule: Any) -> tuple[int, tuple[int, ...], Callable[[], None]]:
    """Consumes a capsule: the address on the GPU, its shape, and what gives it back."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    rename = ctypes.pythonapi.PyCapsule_SetName
    rename.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address = get(capsule, b"dltensor")
    managed = _Managed.from_address(address)
    assert rename(capsule, _USED) == 0
    tensor = managed.tensor
    assert tensor.device_type == CUDA and not tensor.strides
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    return tensor.data + tensor.byte_offset, shape, lambda: managed.deleter(address)


def count(shape: tuple[int, ...]) -> int:
    """Elements of an array of this shape."""
    return math.prod(shape)


_USED, _FRESH = b"used_dltensor", b"dltensor"


def _new_capsule(address: int) -> Any:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return new(address, _FRESH, None)
