cimport cython
from libc.stdint cimport int32_t, int64_t

from triton_async.backends.base cimport ModelInstance
from triton_async.backends.fil.forest cimport Forest
from triton_async.infer.batch cimport ta_batch
from triton_async.memory.slab cimport SlabPool


# An instance of a forest. `execute` allocates nothing but its outputs, and may run on any thread.
@cython.final
@cython.no_gc_clear
cdef class FilInstance(ModelInstance):
    cdef Forest forest          # of output__0
    cdef Forest shap            # of treeshap_output, None when the config has none
    cdef SlabPool pool
    cdef void *scratch          # owned; what the larger of the two forests needs
    cdef int output             # places of the outputs in the signature, -1: not there
    cdef int shap_output
    cdef int32_t[8] rank        # of each output's rows, dims of 1 left out, as FIL answers
    cdef int64_t[8][16] dims

    # Memory for an output of so many rows of `width` values; -1: the batch is failed.
    cdef int _lease(self, ta_batch *batch, int index, int64_t rows, int64_t width, int64_t itemsize) noexcept nogil
