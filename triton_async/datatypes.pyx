"""Tensor element types: `inference.DataType` numbers, v2 protocol names, NumPy types, checked sizes."""

import numpy as np

cdef tuple _NAMES = ("<invalid>", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32",
                     "INT64", "FP16", "FP32", "FP64", "BYTES", "BF16")
cdef int64_t LARGEST = 0x7FFFFFFFFFFFFFFF
cdef dict _BY_NAME = {name: number for number, name in enumerate(_NAMES) if number}

cdef int[15] _SIZES
_SIZES[:] = [0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 2]

# BF16 has no NumPy type of its own: its bit patterns travel as uint16.
cdef tuple _NUMPY = (None, np.bool_, np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32,
                     np.int64, np.float16, np.float32, np.float64, np.object_, np.uint16)

NAMES = _NAMES


cdef int itemsize(int datatype) noexcept nogil:
    if datatype < 0 or datatype >= DT_COUNT:
        return 0
    return _SIZES[datatype]


cpdef int from_name(str name):
    return _BY_NAME.get(name, DT_INVALID)


cpdef str to_name(int datatype):
    if datatype < 0 or datatype >= DT_COUNT:
        return "<invalid>"
    return _NAMES[datatype]


cdef int64_t elements(const int64_t *dims, int rank) noexcept nogil:
    cdef int64_t count = 1
    cdef bint empty = False
    cdef int i
    for i in range(rank):
        if dims[i] < 0:
            return -1
        if dims[i] == 0:
            empty = True
    if empty:
        return 0
    for i in range(rank):
        if count > LARGEST // dims[i]:
            return -1
        count *= dims[i]
    return count


cdef int64_t nbytes(int64_t element_count, int datatype) noexcept nogil:
    cdef int size = itemsize(datatype)
    if element_count < 0:
        return -1
    if size > 1 and element_count > LARGEST // size:
        return -1
    return element_count * size


def element_size(int datatype) -> int:
    """Bytes of one element; 0 for BYTES, whose elements carry their own length."""
    return itemsize(datatype)


def numpy_dtype(int datatype):
    """NumPy scalar type; object_ for BYTES, uint16 (the bit pattern) for BF16, None when invalid."""
    if datatype < 0 or datatype >= DT_COUNT:
        return None
    return _NUMPY[datatype]


def element_count(shape) -> int:
    """Number of elements of `shape` (non-negative ints); -1 when negative dims or 64-bit overflow."""
    cdef object count = 1
    cdef object dim
    for dim in shape:
        if dim < 0:
            return -1
        count *= dim
    return count if count <= 0x7FFFFFFFFFFFFFFF else -1


def from_config_name(str name) -> int:
    """DataType number of a config name ("TYPE_FP32", "TYPE_STRING"); 0 when unknown."""
    if not name.startswith("TYPE_"):
        return DT_INVALID
    return DT_BYTES if name == "TYPE_STRING" else _BY_NAME.get(name[5:], DT_INVALID)


def to_config_name(int datatype) -> str:
    """Config name ("TYPE_FP32") of a DataType number."""
    if datatype == DT_BYTES:
        return "TYPE_STRING"
    if datatype <= 0 or datatype >= DT_COUNT:
        return "TYPE_INVALID"
    return "TYPE_" + _NAMES[datatype]
