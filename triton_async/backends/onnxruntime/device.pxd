# Inputs of one instance that requests have in GPU memory.

cimport cython
from libc.stddef cimport size_t

from triton_async.backends.onnxruntime.api cimport ort_allocator, ort_table
from triton_async.backends.onnxruntime.session cimport Session
from triton_async.infer.batch cimport ta_batch, ta_tensor
from triton_async.memory.cuda cimport ta_cuda

# GPU memory of the session's arena that one input is gathered to, kept from batch to batch: runs are synchronous.
ctypedef struct Scratch:
    void *data
    size_t nbytes


# Made, used and closed on the instance's thread, for which the session's GPU is current from then on.
@cython.final
cdef class DeviceInputs:
    cdef Session session
    cdef ort_table api
    cdef ort_allocator *allocator       # of the session's GPU; NULL once closed
    cdef const ta_cuda *cuda
    cdef int count
    cdef Scratch *scratch

    # Makes input `index`, of which some segment is in GPU memory, contiguous on the session's GPU. 0, or -1 after
    # ta_batch_fail. No GIL.
    cdef int gather(self, ta_batch *batch, int index) noexcept nogil

    cdef int _reserve(self, ta_batch *batch, int index, size_t nbytes) noexcept nogil
    cdef int _failed(self, ta_batch *batch, int result) noexcept nogil

# Whether some segment of `input` is in GPU memory.
cdef bint on_device(const ta_tensor *input) noexcept nogil
# Whether kernels may take the address as they do one of the engine's own.
cdef bint is_aligned(const void *data) noexcept nogil
