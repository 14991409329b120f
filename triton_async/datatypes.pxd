# Tensor element types: numbers of `inference.DataType`, names of the v2 protocol, sizes.

from libc.stdint cimport int64_t

cdef enum DataType:
    DT_INVALID = 0
    DT_BOOL = 1
    DT_UINT8 = 2
    DT_UINT16 = 3
    DT_UINT32 = 4
    DT_UINT64 = 5
    DT_INT8 = 6
    DT_INT16 = 7
    DT_INT32 = 8
    DT_INT64 = 9
    DT_FP16 = 10
    DT_FP32 = 11
    DT_FP64 = 12
    DT_BYTES = 13        # TYPE_STRING in a config, BYTES on the wire
    DT_BF16 = 14
    DT_COUNT = 15

# Bytes of one element; 0 for BYTES (variable) and for an invalid type. Any thread, no GIL.
cdef int itemsize(int datatype) noexcept nogil

# DataType of a v2 protocol name ("FP32"), DT_INVALID when there is none of that name.
cpdef int from_name(str name)

# v2 protocol name of a DataType ("FP32"); "<invalid>" when out of range.
cpdef str to_name(int datatype)

# Product of `rank` dims, all >= 0. -1 when it does not fit a signed 64-bit integer. The only places that
# multiply dims are this function and `nbytes`.
cdef int64_t elements(const int64_t *dims, int rank) noexcept nogil

# Bytes of a tensor of a fixed-size type; -1 on overflow. BYTES has no size of its own: 0.
cdef int64_t nbytes(int64_t element_count, int datatype) noexcept nogil
