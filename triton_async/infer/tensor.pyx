"""Tensors over leased bytes, and their NumPy forms. No I/O, any thread with the GIL."""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.string cimport memcpy

import numpy as np

from triton_async.datatypes cimport DT_BYTES, elements, itemsize, to_name
from triton_async.datatypes cimport nbytes as size_of
from triton_async.memory.buffer cimport MEMORY_GPU, Buffer, wrap

from triton_async import datatypes
from triton_async.errors import InvalidArg

cdef int64_t _live = 0


@cython.freelist(128)
cdef class Tensor:
    """One named tensor. `shape`: tuple of ints; bytes are row-major, little-endian."""

    def __cinit__(self):
        global _live
        _live += 1

    def __dealloc__(self):
        global _live
        _live -= 1

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.buffer is not None and self.buffer.memory_type == MEMORY_GPU:
            raise BufferError("device memory has no host view")
        PyBuffer_FillInfo(view, self, self.data, self.nbytes, True, flags)

    def __len__(self):
        return self.nbytes

    def __repr__(self):
        return f"Tensor({self.name!r}, {to_name(self.datatype)}, {list(self.shape)}, {self.nbytes} bytes)"

    @property
    def shape(self):
        cdef int i
        return tuple([self.dims[i] for i in range(self.rank)])

    cdef bint same_shape(self, Tensor other, int first_dim) noexcept:
        cdef int i
        if self.rank != other.rank or self.datatype != other.datatype:
            return False
        for i in range(first_dim, self.rank):
            if self.dims[i] != other.dims[i]:
                return False
        return True

    def numpy(self):
        """Array of `shape`: a read-only view of the bytes, or for BYTES an object array of `bytes` copies.

        BF16 comes as its uint16 bit patterns. ValueError when the bytes do not fill the shape.
        """
        shape = self.shape
        if self.datatype == DT_BYTES:
            strings = decode_bytes(self)
            if len(strings) != self.element_count:
                raise ValueError(f"{len(strings)} BYTES elements for {self.element_count} places")
            array = np.empty(self.element_count, dtype=np.object_)
            array[:] = strings
            return array.reshape(shape)
        # NumPy would allocate for a large shape without bytes, and take FP64 where there is no type.
        if itemsize(self.datatype) == 0 or self.nbytes != size_of(self.element_count, self.datatype):
            raise ValueError(f"{self.nbytes} bytes for {self.element_count} elements of {to_name(self.datatype)}")
        dtype = np.dtype(datatypes.numpy_dtype(self.datatype))
        if self.nbytes == 0:
            return np.empty(shape, dtype=dtype)
        return np.frombuffer(self, dtype=dtype).reshape(shape)


cdef Tensor view(str name, int datatype, object shape, Buffer buffer, int64_t offset, int64_t nbytes):
    cdef Tensor tensor = Tensor.__new__(Tensor)
    cdef int64_t available = 0 if buffer is None else buffer.nbytes
    cdef int rank = 0
    cdef object dim
    if offset < 0 or nbytes < 0 or offset > available or nbytes > available - offset:
        raise InvalidArg(f"tensor '{name}' does not lie inside its {available} bytes")
    if len(shape) > TA_MAX_RANK:
        raise InvalidArg(f"tensor '{name}' has {len(shape)} dimensions, at most {TA_MAX_RANK} are supported")
    for dim in shape:
        if not 0 <= dim <= 0x7FFFFFFFFFFFFFFF:
            raise InvalidArg(f"tensor '{name}' has the dimension {dim}, expected 0 to 2^63 - 1")
        tensor.dims[rank] = dim
        rank += 1
    tensor.name = name
    tensor.datatype = datatype
    tensor.rank = rank
    tensor.element_count = elements(tensor.dims, rank)
    if tensor.element_count < 0:
        raise InvalidArg(
            f"invalid shape for input '{name}': shape [{','.join(map(str, shape))}] causes total element count "
            "to exceed maximum size of 9223372036854775807"
        )
    tensor.nbytes = nbytes
    if nbytes:
        tensor.buffer = buffer
        tensor.data = buffer.data + offset
    return tensor


cdef Tensor view_dims(str name, int datatype, const int64_t *dims, int rank, int64_t element_count,
                      Buffer buffer, char *data, int64_t nbytes):
    cdef Tensor tensor = Tensor.__new__(Tensor)
    tensor.name = name
    tensor.datatype = datatype
    tensor.rank = rank
    memcpy(tensor.dims, dims, rank * sizeof(int64_t))
    tensor.element_count = element_count
    tensor.nbytes = nbytes
    if nbytes:
        tensor.buffer = buffer
        tensor.data = data
    return tensor


def make(str name, int datatype, shape, source, int64_t offset=0, nbytes=None):
    """Tensor over `source` (a Buffer or an object with the buffer protocol). Bytes are not copied."""
    cdef Buffer buffer = source if isinstance(source, Buffer) else wrap(source)
    return view(name, datatype, shape, buffer, offset, buffer.nbytes - offset if nbytes is None else nbytes)


def from_numpy(str name, array, datatype=None):
    """Tensor over the array's bytes (a contiguous array is not copied; object and string arrays are encoded).

    `datatype` names the DataType where NumPy cannot: BF16 given as uint16.
    """
    if array.dtype.kind in "OSU":
        return make(name, DT_BYTES, array.shape, encode_bytes(array.reshape(-1)))
    if datatype is None:
        datatype = _from_numpy_dtype(array.dtype)
    contiguous = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
    if contiguous.nbytes == 0:
        return view(name, datatype, array.shape, None, 0, 0)
    return make(name, datatype, array.shape, contiguous.reshape(-1).view(np.uint8))


def _from_numpy_dtype(dtype):
    for number in range(1, len(datatypes.NAMES)):
        if number != DT_BYTES and datatypes.numpy_dtype(number) == dtype.type:
            return number
    raise InvalidArg(f"NumPy type {dtype} has no tensor datatype")


def encode_bytes(strings):
    """Wire form of an iterable of bytes or str elements."""
    cdef list parts = []
    for item in strings:
        if isinstance(item, str):
            item = item.encode()
        elif not isinstance(item, bytes):
            item = str(item).encode() if not isinstance(item, (bytearray, memoryview)) else bytes(item)
        parts.append(len(item).to_bytes(4, "little"))
        parts.append(item)
    return b"".join(parts)


cpdef list decode_bytes(Tensor tensor):
    """The elements of a BYTES tensor as `bytes`. ValueError when the framing is broken."""
    cdef list found = []
    cdef int64_t at = 0
    cdef unsigned int length
    if tensor.buffer is not None and tensor.buffer.memory_type == MEMORY_GPU:
        raise ValueError("device memory has no host view")
    while tensor.nbytes - at >= 4:
        memcpy(&length, tensor.data + at, 4)
        at += 4
        if tensor.nbytes - at < length:
            raise ValueError("incomplete BYTES element")
        found.append(tensor.data[at:at + length])
        at += length
    if at != tensor.nbytes:
        raise ValueError("incomplete BYTES length")
    return found


def leave_out(int64_t count):
    """So many tensors that are there belong to models and not to requests: `live_tensors` leaves them out. Negative:
    they are about to go."""
    global _live
    _live -= count


cpdef int64_t live_tensors():
    return _live
