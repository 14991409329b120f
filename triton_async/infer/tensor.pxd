# One tensor of a request or a response: a shape and a type over leased bytes.

from libc.stdint cimport int64_t

from triton_async.memory.buffer cimport Buffer

cdef extern from "batch.h":
    enum: TA_MAX_RANK

# BYTES elements stand in wire form: 4-byte little-endian length, then the bytes.
# Exports its bytes through the buffer protocol (1-D, unsigned bytes), so it can be written to a socket as is.
cdef class Tensor:
    cdef readonly str name
    cdef readonly int datatype           # DataType
    cdef int rank
    cdef int64_t[16] dims
    cdef readonly int64_t element_count  # product of dims
    cdef char *data                      # first byte, inside `buffer`
    cdef readonly int64_t nbytes
    cdef readonly Buffer buffer          # the lease that keeps `data`; None when nbytes is 0

    cdef bint same_shape(self, Tensor other, int first_dim) noexcept

# A tensor of `shape` over `nbytes` bytes of `buffer` from `offset`. Raises InvalidArg when the shape has a
# negative dim, is deeper than MAX_RANK or overflows, or the range is not inside the buffer. Does not compare
# nbytes with the shape: that is validation's, which knows the model's name.
cdef Tensor view(str name, int datatype, object shape, Buffer buffer, int64_t offset, int64_t nbytes)

# The same with dims already checked, as batches make them.
cdef Tensor view_dims(str name, int datatype, const int64_t *dims, int rank, int64_t element_count,
                      Buffer buffer, char *data, int64_t nbytes)

cpdef int64_t live_tensors()
