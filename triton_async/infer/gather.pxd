# What instances do with the plain memory of a batch (csrc/gather.h). Instance thread, no GIL.

from libc.stdint cimport int32_t

from triton_async.infer.batch cimport ta_batch, ta_tensor
from triton_async.memory.slab cimport ta_slab_pool

cdef extern from "gather.h":
    # Makes `input` contiguous: nothing to do for one segment, else a slab is leased and copied to. 0, or -1 when there
    # is no memory for it.
    int ta_gather(ta_tensor *input, ta_slab_pool *pool) noexcept nogil
    # Gives back what ta_gather or an instance leased for `tensor`. Safe to call twice.
    void ta_tensor_release(ta_tensor *tensor) noexcept nogil
    # Marks the batch failed with a TA_CODE_ (codes.pxd) and a printf-style message.
    void ta_batch_fail(ta_batch *batch, int32_t code, const char *format, ...) noexcept nogil
    # After the execution: closes gaps in the batch's times.
    void ta_batch_close_times(ta_batch *batch) noexcept nogil
