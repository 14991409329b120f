# Tensors of a batch as ONNX Runtime values and back. Instance thread, no GIL.
#
# Functions that return int give 0, or -1 after ta_batch_fail.

from libc.stdint cimport int64_t

from triton_async.backends.onnxruntime.api cimport ort_allocator, ort_memory_info, ort_status, ort_table, ort_value
from triton_async.infer.batch cimport ta_batch, ta_placement, ta_tensor
from triton_async.memory.slab cimport ta_slab_pool

# What conversions need of the engine.
ctypedef struct Engine:
    ort_table api
    ort_memory_info *memory_info
    ort_memory_info *device_info  # memory of the session's GPU; NULL on the CPU
    ort_allocator *allocator
    ta_slab_pool *pool

# An output may be written straight into a slab of ours, which is cheaper than taking over the engine's memory,
# but only if its shape is known before the run and the engine does write there. What a model declares is not
# always true (a run into a slab of the wrong shape fails), and an output that is an input of the graph stays where
# it is (the slab would keep what it held before), so both are seen to be so before they are relied on. That a slab was
# written is seen after every run: it may hold what belongs to others.
#
#   UNKNOWN --a run gave the declared shape--> SEEN --a run wrote into the slab--> KNOWN
#      |                                         |                                   |
#      +--another shape--> NEVER <---------------+--another shape, or not written----+
cdef enum Shape:
    SHAPE_UNKNOWN = 0
    SHAPE_SEEN = 1
    SHAPE_KNOWN = 2
    SHAPE_NEVER = 3

# One input or output of the signature as the model has it.
ctypedef struct Port:
    const char *name        # of the model's tensor, also in messages
    int datatype            # DataType
    int element_type        # ONNX Runtime's number of it
    int itemsize            # bytes; 0 for BYTES
    bint scalar             # the model's tensor has rank 0, whatever the config says
    int rank                # output: engine rank
    int64_t dims[16]        # output: engine dims, -1 where a run decides; dims[0] is the batch's rows if batching
    int shape               # output: Shape

# Makes `input`, gathered before, a value. BYTES are copied, other bytes are used in place: they must outlive the
# value. Bytes that the type's alignment forbids to use in place are moved to a slab of the batch. Bytes in GPU memory
# are on the session's GPU and aligned.
cdef int wrap_input(const Engine *engine, const Port *port, ta_batch *batch, ta_tensor *input,
                    ort_value **value) noexcept nogil

# Leases memory for an output of seen or known shape, marks it and makes a value over it.
cdef int lease_output(const Engine *engine, const Port *port, ta_batch *batch, ta_tensor *output,
                      ort_value **value) noexcept nogil

# Makes a value over the part of a region on the session's GPU that `placement`, of an output of known shape, names.
# 1; 0 when the output does not fit there; -1 when the batch failed.
cdef int place_output(const Engine *engine, const Port *port, ta_batch *batch, ta_tensor *output,
                      ta_placement *placement, ort_value **value) noexcept nogil

# Whether a run left the slab of an output as lease_output marked it.
cdef bint untouched(const ta_tensor *output) noexcept nogil

# Fills `output` from a value that the engine made. Takes the value over: it is released or, where its memory
# serves as the output's, owned by `output`.
cdef int take_output(const Engine *engine, const Port *port, ta_batch *batch, ta_tensor *output,
                     ort_value *value) noexcept nogil

# Whether a run failed because an output has not the shape of the memory that it was given.
cdef bint is_other_shape(const Engine *engine, const ort_status *status) noexcept nogil

# Fails the batch with a status and releases it.
cdef int fail(const Engine *engine, ta_batch *batch, ort_status *status) noexcept nogil

# To be called once before the first take_output: `release` of an output gets a value alone.
cdef void set_release_table(ort_table api) noexcept nogil

# Waits until all outputs that were let go of are released, before their session is. Any thread.
cdef void settle_values() noexcept nogil
