"""How long a look at the strings of a request takes. Any thread with the GIL."""

from libc.stdint cimport int64_t

from triton_async.datatypes cimport DT_BYTES
from triton_async.infer.tensor cimport Tensor
from triton_async.memory.buffer cimport MEMORY_GPU

from triton_async.defines import STRINGS_OFFLOAD_ELEMENTS

cdef int64_t MANY = STRINGS_OFFLOAD_ELEMENTS


cpdef bint has_many_strings(InferRequest request):
    cdef Tensor tensor
    cdef int64_t count = 0
    for tensor in request.inputs:
        if tensor.datatype == DT_BYTES and (tensor.buffer is None or tensor.buffer.memory_type != MEMORY_GPU):
            count += min(tensor.element_count, tensor.nbytes >> 2)
    return count > MANY


cdef int64_t inputs_nbytes(InferRequest request) noexcept:
    cdef Tensor tensor
    cdef int64_t nbytes = 0
    for tensor in request.inputs:
        nbytes += tensor.nbytes
    return nbytes
