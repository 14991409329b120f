# cython: annotation_typing=False, wraparound=True
"""Tensors as models see them, the numpy types of Triton's data types, and the form of BYTES. Any thread."""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import TYPE_CHECKING, Any, Callable, Iterable

import numpy as np

if TYPE_CHECKING:
    from .channel import TensorSource

# Numbers of `inference.DataType`, by name without `TYPE_`.
NUMBERS = {
    "BOOL": 1, "UINT8": 2, "UINT16": 3, "UINT32": 4, "UINT64": 5, "INT8": 6, "INT16": 7, "INT32": 8, "INT64": 9,
    "FP16": 10, "FP32": 11, "FP64": 12, "BYTES": 13, "BF16": 14,
}  # fmt: skip
TRITON_STRING_TO_NUMPY = {
    "TYPE_BOOL": bool,
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT16": np.uint16,
    "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
}
TRITON_TO_NUMPY_TYPE = {
    1: np.bool_, 2: np.uint8, 3: np.uint16, 4: np.uint32, 5: np.uint64, 6: np.int8, 7: np.int16, 8: np.int32,
    9: np.int64, 10: np.float16, 11: np.float32, 12: np.float64, 13: np.object_,
}  # fmt: skip
NUMPY_TO_TRITON_TYPE = {numpy_type: number for number, numpy_type in TRITON_TO_NUMPY_TYPE.items()}
NUMPY_TO_TRITON_TYPE[np.bytes_] = NUMBERS["BYTES"]
# What a tensor of a model may have, by `dtype.char`.
_BY_CHAR: dict[str, str] = {
    str(np.dtype(TRITON_TO_NUMPY_TYPE[number]).char): name for name, number in NUMBERS.items() if name != "BF16"
}  # fmt: skip
# Integers of one size go by several characters, strings of bytes are BYTES.
_BY_CHAR.update({char: f"{'U' * (char in 'BHILQ')}INT{8 * np.dtype(char).itemsize}" for char in "bBhHiIlLqQ"})
_BY_CHAR["S"] = "BYTES"

_LENGTH = struct.Struct("<I")
# DLDataTypeCode, DLDeviceType.
_DL_UINT, _DL_BFLOAT, _DL_CPU, _DL_CUDA, _DL_CUDA_HOST = 1, 4, 1, 2, 3
# What a consumer on CUDA's legacy default stream calls itself.
_LEGACY_STREAM = 1
# Where a DLTensor has its device, behind the address, and its type, behind that and the number of dimensions.
_DL_DEVICE_OFFSET, _DL_TYPE_OFFSET = 8, 20


class TritonModelException(Exception):
    """What the server refuses to do for a model."""


class Tensor:
    """A named tensor: an array of the model's, or what came from the server, which becomes an array when asked for."""

    # `_array`: None until asked for. `_source`: of what came from the server, else None. `_wire`: a BYTES array in its
    # form for the server, made with the tensor: an array of objects may change afterwards.
    __slots__ = ("_array", "_datatype", "_name", "_source", "_wire")

    def __init__(self, name: str, array: np.ndarray) -> None:
        if type(name) is not str or not isinstance(array, np.ndarray):
            raise _wrong_arguments(name, array)
        dtype = array.dtype
        datatype = _BY_CHAR.get(dtype.char)
        if datatype is None or not dtype.isnative or (type(array) is not np.ndarray and _is_masked(array)):
            raise TritonModelException("NumPy dtype is not supported.")
        self._name = name
        self._array: np.ndarray | None = array
        self._source: TensorSource | None = None
        self._datatype = datatype
        self._wire = encode(array.ravel()) if datatype == "BYTES" else None

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        """The same array at every call; of an input, the model may write into it."""
        if self._datatype == "BF16":
            raise TritonModelException(
                "Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack() and from_dlpack() instead."
            )
        array = self._array
        if array is None:
            array = self._open()
        return array

    def triton_dtype(self) -> int:
        """The number that `triton_to_numpy_type` takes."""
        return NUMBERS[self._datatype]

    def shape(self) -> list[int]:
        return list(self._source.shape if self._array is None and self._source is not None else self._open().shape)

    def is_cpu(self) -> bool:
        return self._gpu() is None

    def _gpu(self) -> int | None:
        source = self._source
        return None if source is None or self._array is not None else source.gpu

    def to_dlpack(self) -> Any:
        return self.__dlpack__()

    def __dlpack__(self, stream: Any = None, **_: Any) -> Any:
        if self._datatype == "BYTES":
            raise TritonModelException("DLPack does not have support for string tensors.")
        if self._gpu() is not None:
            assert self._source is not None
            return self._source.dlpack()
        capsule = _writable(self._open()).__dlpack__()
        if self._datatype == "BF16":
            _type_code(capsule).value = _DL_BFLOAT
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        gpu = self._gpu()
        return (_DL_CPU, 0) if gpu is None else (_DL_CUDA, gpu)

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> Tensor:
        """A tensor over the memory of another library's: a DLPack capsule, or an object that gives one."""
        if type(name) is not str:
            raise TypeError("from_dlpack(): the name of a tensor must be a str")
        capsule = _capsule(name, tensor)
        if _device_type(capsule) == _DL_CUDA:
            return _on_gpu(name, capsule)
        code = _type_code(capsule)
        bf16 = code.value == _DL_BFLOAT
        if bf16:  # numpy knows its bits
            code.value = _DL_UINT
        try:
            array = np.from_dlpack(_Capsule(capsule))
        except (BufferError, RuntimeError, TypeError) as error:
            raise TritonModelException(f"DLPack tensor '{name}' can not be used: {error}") from None
        if not array.flags.c_contiguous:
            raise TritonModelException(
                "DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in C-Order are "
                "supported."
            )
        made = Tensor(name, _writable(array))
        if bf16:
            made._datatype = "BF16"
        return made

    def _open(self) -> np.ndarray:
        array = self._array
        if array is None:
            assert self._source is not None
            array = self._array = self._source.array()
        return array

    def __repr__(self) -> str:
        return f"Tensor({self._name!r}, {self._datatype}, {self.shape()})"


def _is_masked(array: np.ndarray) -> bool:
    """Whether it has a mask, which a tensor has no place for. NumPy imports such arrays, some MiB, at the first use."""
    masked = sys.modules.get("numpy.ma")
    return masked is not None and isinstance(array, masked.MaskedArray)


def from_source(name: str, source: TensorSource) -> Tensor:
    """A tensor that came from the server."""
    tensor = Tensor.__new__(Tensor)
    tensor._name = name
    tensor._array = tensor._wire = None
    tensor._source = source
    tensor._datatype = source.datatype
    return tensor


def encode(array: np.ndarray) -> bytes:
    """The form for the server of a flat array of objects or `S` strings: `bytes` as they are, all else as text."""
    parts = []
    for item in array.tolist():
        data = item if type(item) is bytes else str(item).encode()
        parts.append(_LENGTH.pack(len(data)))
        parts.append(data)
    return b"".join(parts)


def decode(data: Any) -> list[bytes]:
    """The elements of a BYTES tensor from the server's form (with the buffer protocol). ValueError when it is cut."""
    view = memoryview(data)
    found = []
    at, end = 0, len(view)
    while at < end:
        if end - at < 4:
            raise ValueError(f"{end - at} bytes where the length of a string should be")
        (length,) = _LENGTH.unpack_from(view, at)
        at += 4
        if end - at < length:
            raise ValueError(f"{end - at} bytes of a string of {length}")
        found.append(bytes(view[at : at + length]))
        at += length
    return found


def object_array(items: Iterable[bytes], shape: Any) -> np.ndarray:
    """An array of `bytes` objects."""
    listed = list(items)
    array = np.empty(len(listed), dtype=np.object_)
    array[:] = listed
    return array.reshape(shape)


def serialize_byte_tensor(input_tensor: np.ndarray) -> bytes | None:
    """The server's form of an array of strings; None for an empty one, and for any other."""
    if input_tensor.size == 0 or input_tensor.dtype.kind not in "OS":
        return None
    return encode(input_tensor.ravel())


def deserialize_bytes_tensor(encoded_tensor: Any) -> np.ndarray:
    """A flat array of the strings in the server's form."""
    strings = decode(encoded_tensor)
    return object_array(strings, len(strings))


def triton_to_numpy_type(data_type: int) -> Any:
    return TRITON_TO_NUMPY_TYPE[data_type]


def numpy_to_triton_type(data_type: Any) -> int:
    return NUMPY_TO_TRITON_TYPE[data_type]


def triton_string_to_numpy(triton_type_string: str) -> Any:
    return TRITON_STRING_TO_NUMPY[triton_type_string]


def _writable(array: np.ndarray) -> np.ndarray:
    """The array, or one over its memory that may be written to: numpy has what came by DLPack as read-only, and does
    not give on by DLPack what is.
    """
    if array.flags.writeable:
        return array
    made: np.ndarray = np.asarray(_Writable(array))
    return made


class _Writable:
    """What numpy takes a writable array from, over the memory of another one, which it keeps."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


class _Capsule:
    """What numpy takes a DLPack capsule from."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_DL_CPU, 0)


# In the server's process: makes the TensorSource of a capsule on a GPU, which it takes over, or raises ValueError.
take_gpu_capsule: Callable[[str, Any], TensorSource] | None = None


def _capsule(name: str, tensor: Any) -> Any:
    """The DLPack capsule of what a model gave; in a process that takes no GPU memory, a copy on the host."""
    if not hasattr(tensor, "__dlpack__"):
        if type(tensor).__name__ != "PyCapsule":
            raise TritonModelException("DLPack capsule expected, or an object with a '__dlpack__' method.")
        return tensor
    device = tensor.__dlpack_device__()[0] if hasattr(tensor, "__dlpack_device__") else _DL_CPU
    if device in (_DL_CPU, _DL_CUDA_HOST):
        return tensor.__dlpack__()
    if device == _DL_CUDA and take_gpu_capsule is not None:
        return tensor.__dlpack__(stream=_LEGACY_STREAM)
    try:
        return tensor.__dlpack__(dl_device=(_DL_CPU, 0), copy=True)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TritonModelException(
            f"Tensor '{name}' is on a device of DLPack's type {int(device)}, and its library gives no copy on the "
            f"host: {error}"
        ) from None


def _on_gpu(name: str, capsule: Any) -> Tensor:
    if take_gpu_capsule is None:
        raise TritonModelException(
            f"Tensor '{name}' is stored in GPU: a model that runs in a process of its own gives such tensors as "
            "objects with '__dlpack__', not as capsules, so that they can be copied to the host"
        )
    try:
        return from_source(name, take_gpu_capsule(name, capsule))
    except ValueError as error:
        raise TritonModelException(f"DLPack tensor '{name}' can not be used: {error}") from None


def _device_type(capsule: Any) -> int:
    return ctypes.c_int32.from_address(_address(capsule) + _DL_DEVICE_OFFSET).value


def _type_code(capsule: Any) -> ctypes.c_uint8:
    return ctypes.c_uint8.from_address(_address(capsule) + _DL_TYPE_OFFSET)


def _address(capsule: Any) -> int:
    """Of the structure inside a DLPack capsule that nobody has taken yet."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype = ctypes.c_void_p
    get.argtypes = [ctypes.py_object, ctypes.c_char_p]
    try:
        return int(get(capsule, b"dltensor"))
    except ValueError:
        raise TritonModelException("DLPack capsule can not be used: it was used before, or is another kind") from None


def _wrong_arguments(*given: Any) -> TypeError:
    return TypeError(
        "__init__(): incompatible constructor arguments. The following argument types are supported:\n"
        "    1. c_python_backend_utils.Tensor(arg0: str, arg1: numpy.ndarray)\n\n"
        f"Invoked with: {', '.join(repr(type(value)) for value in given)}"
    )
