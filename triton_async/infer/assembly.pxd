# Batches of requests that differ in shape (BatchPlan): laid out on the loop, put together and taken apart by whoever
# runs them.

from libc.stdint cimport int32_t, int64_t

from triton_async.infer.batch cimport ta_batch
from triton_async.infer.plan cimport BatchPlan, ta_plan
from triton_async.memory.slab cimport ta_slab_pool

cdef extern from "assembly.h":
    enum: TA_ASSEMBLED
    enum: TA_NO_MEMORY
    enum: TA_TOO_MANY
    enum: TA_OTHER_SHAPE
    enum: TA_BAD_STRINGS
    int64_t ta_assembly_nbytes(const ta_plan *plan, int64_t n_requests) noexcept nogil
    int32_t ta_part_dims(const ta_batch *batch, int32_t index, int32_t request, int64_t *dims) noexcept nogil

# Gives a closing batch its assembly, in `memory` of ta_assembly_nbytes, and the inputs that differ from what requests
# sent their shape. Their segments are laid out. Raises InternalError when a shape overflows. Loop thread.
cdef int lay_out(BatchPlan plan, ta_batch *batch, list requests, void *memory) except -1

# Makes the inputs of a batch that has an assembly, or fails the batch. Behind copies from devices, in front of the
# engine. Instance thread, no GIL.
cdef void assemble(ta_batch *batch, ta_slab_pool *pool) noexcept nogil

# Finds each request's part of an output in host memory, if it is not split by rows, or fails the batch. Behind
# `check_batch`, once. Instance thread, no GIL.
cdef void split_output(ta_batch *batch, int index) noexcept nogil
# The same for all wanted outputs of a batch that none of them left on a device.
cdef void split_outputs(ta_batch *batch) noexcept nogil

# Gives the memory of made inputs back.
cdef void release(ta_batch *batch) noexcept nogil
