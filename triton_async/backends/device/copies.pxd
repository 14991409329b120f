# Copies between what a batch brings or wants and an instance's buffers on its device. Instance thread, no GIL.
#
# Results: 0, a CUresult, or NO_HOST_MEMORY.

from libc.stdint cimport int32_t, int64_t

from triton_async.infer.batch cimport ta_batch, ta_tensor
from triton_async.memory.arena cimport ta_arena
from triton_async.memory.cuda cimport ta_cuda, ta_cuda_function, ta_cuda_stream, ta_device_ptr
from triton_async.memory.slab cimport ta_slab_pool

cdef enum:
    NO_HOST_MEMORY = -1

# How one instance copies. Constant after its creation; owns nothing.
cdef struct Copies:
    const ta_cuda *cuda
    int32_t device
    ta_slab_pool *staging           # where host segments are joined, pinned when `stage_pageable`
    bint stage_pageable             # pageable segments go through `staging`; else straight from where they lie
    ta_slab_pool *outputs           # where outputs go
    ta_arena *device_outputs        # where those go that may stay on the device; NULL: with the others
    ta_cuda_function gather_kernel  # NULL: never used
    int32_t gather_threshold        # segments from which it is used

# An output of a run, on the device. `rows`: its first dim when it is the batch, as the engine ran it.
cdef struct Output:
    ta_device_ptr address
    int64_t nbytes
    int32_t rank
    bint late                       # known after the run only
    int64_t dims[16]

# Puts the copy of `input` to `to` on `stream`. Host memory it reads stays until the batch ends: the requests' own, or a
# slab that `input` then owns.
cdef int copy_in(const Copies *self, ta_tensor *input, ta_device_ptr to, ta_cuda_stream stream) noexcept nogil

# Makes `input` contiguous in host memory, at `input.data`, wherever its segments lie. Waits.
cdef int read_to_host(const Copies *self, ta_tensor *input) noexcept nogil

# Puts the copies of output `index` of the batch on `stream`, or makes them and waits when it is NULL: into the
# placements that it reaches without waiting, and to leased memory unless they are all that is wanted. That is the
# host's, but for an output that is taken anywhere and finds room on the device.
cdef int copy_out(const Copies *self, ta_batch *batch, int index, const Output *source,
                  ta_cuda_stream stream) noexcept nogil
