# A batch: requests that one instance runs together.

from libc.stdint cimport int32_t, int64_t

from triton_async.infer.event cimport ta_message
from triton_async.infer.plan cimport ta_plan
from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport Tensor
from triton_async.memory.slab cimport ta_slab

cdef extern from "assembly.h":
    ctypedef struct ta_assembly:
        const ta_plan *plan
        int64_t *rows
        int64_t *lengths
        int64_t padded[8]
        ta_slab **made

cdef extern from "batch.h":
    ctypedef struct ta_segment:
        const char *data
        int64_t nbytes
        int64_t rows
        int32_t memory_type
        int32_t device_id
        const int64_t *dims
        int32_t rank
    ctypedef struct ta_part:
        int64_t start
        int64_t nbytes
    ctypedef struct ta_tensor:
        int32_t datatype
        int32_t rank
        int64_t dims[16]
        int64_t nbytes
        char *data
        int32_t memory_type
        int32_t device_id
        int32_t wanted
        int32_t n_segments
        ta_segment *segments
        void *owner
        void (*release)(void *owner) noexcept nogil
        ta_part *parts
    ctypedef struct ta_placement:
        char *data
        int64_t capacity
        int32_t memory_type
        int32_t device_id
        int32_t output
        int32_t request
        int64_t row
        int64_t rows
        int64_t nbytes
        int32_t placed
        int32_t result
    enum: TA_NOT_WANTED
    enum: TA_WANTED
    enum: TA_WANTED_PLACED
    enum: TA_WANTED_ANYWHERE
    enum: TA_NOT_PLACED
    enum: TA_PLACED
    enum: TA_TOO_SMALL
    enum: TA_COPY_FAILED
    enum: TA_HANDED
    enum: TA_BEGUN
    enum: TA_REVOKED
    ctypedef struct ta_batch:
        ta_message message
        int32_t by_request
        ta_message *told
        int32_t n_inputs
        int32_t n_outputs
        ta_tensor *inputs
        ta_tensor *outputs
        int64_t rows
        int32_t n_requests
        int32_t n_placements
        ta_placement *placements
        ta_assembly *assembly
        int32_t device_inputs
        int32_t failed
        int32_t error_code
        char error[1024]
        int64_t compute_start_ns
        int64_t compute_input_end_ns
        int64_t compute_output_start_ns
        int64_t compute_end_ns
        void *owner
    int ta_batch_begin(ta_batch *batch) noexcept nogil
    int ta_batch_revoke(ta_batch *batch) noexcept nogil
    int32_t ta_batch_phase(ta_batch *batch) noexcept nogil

# What is checked of every batch that an instance has run: each wanted output was filled and its bytes fill its
# shape; the times are in order. Fails the batch otherwise. Of an engine that answers by request only the times.
# Instance thread, no GIL.
cdef void check_batch(ta_batch *batch) noexcept nogil

#   OPEN --close--> CLOSED --handed to an instance--> (instance thread) --event ring--> finish --> DONE
cdef enum BatchState:
    BATCH_OPEN = 0      # may take requests; loop thread
    BATCH_CLOSED = 1    # never changes again; `c` is complete; belongs to one instance
    BATCH_DONE = 2      # responses were made, leases of inputs are given up

# Invariants: requests is never empty once closed; rows == sum of the requests' rows; all requests have equal
# engine dims beyond the batch dimension, but for inputs that may differ (BatchPlan), and bring the same inputs.
cdef class Batch:
    cdef ta_batch c
    cdef readonly list requests          # of InferRequest
    cdef readonly ModelSignature signature
    cdef readonly int64_t rows
    cdef int state
    cdef public object runner            # core's own: the model that takes the batch back
    cdef public object instance          # core's own: the instance that holds it
    cdef void *memory                    # one block: inputs, outputs, segments, placements, assembly
    cdef size_t memory_nbytes

    # Adds a validated request. Loop thread, while OPEN.
    cdef int add(self, InferRequest request) except -1
    # Lays out `c` for the instance. Loop thread.
    cdef int close(self) except -1
    # After an instance of the whole-batch form is done: one InferResponse per request, in order. Releases the inputs.
    # Loop thread.
    cdef list finish(self)

    cdef list _split(self)
    # Lays out where requests want their outputs; `found`: (output index, request index, RequestedOutput), sorted.
    cdef int _place(self, list found, ta_placement *placements) except -1

    # The inputs of request `number` in signature order (None where absent), on the instance thread with the GIL. They
    # keep their bytes, which the request owns, or the batch where core has brought them to the host.
    cdef list request_inputs(self, int number)

    # For instances written in Python, on the instance thread with the GIL:
    # whole-batch input tensors in signature order (None where absent), gathered. They own their bytes, so an output
    # may be one of them. Call once.
    cdef list input_tensors(self)
    # Makes `tensor` (of the engine's dims) output `index`. Raises InternalError when the model has none such, or
    # none of its data type.
    cdef int set_output(self, int index, Tensor tensor) except -1

# A batch of these validated requests, at least one. Loop thread, or that of who has borrowed an instance for it.
cdef Batch closed_batch(ModelSignature signature, list requests)

# Whether two validated requests may share a batch: equal shapes beyond the batch dimension where the signature asks for
# them, the same inputs. Does not look at size.
cdef bint compatible(ModelSignature signature, InferRequest first, InferRequest request) noexcept

# Why an output is not in its region, as an error; None when it is there.
cdef object placement_problem(str name, const ta_placement *placement)

# Whether the request takes this output.
cdef bint asks_for(InferRequest request, TensorSpec spec) noexcept

cpdef int64_t live_batches()
