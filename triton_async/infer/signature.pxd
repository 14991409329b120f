# What a loaded model version takes and gives, and the check of a request against it.

from libc.stdint cimport int64_t, uint64_t

from triton_async.infer.plan cimport BatchPlan
from triton_async.infer.request cimport InferRequest
from triton_async.infer.tensor cimport Tensor

# One input or output as the model config declares it. Immutable.
cdef class TensorSpec:
    cdef readonly str name
    cdef readonly int datatype       # DataType
    cdef readonly tuple dims         # without the batch dimension; -1 = any
    cdef readonly tuple reshape      # what the engine sees instead of dims, or None
    cdef readonly bint optional
    cdef readonly bint any_rank      # an input that takes any number of dimensions, whatever `dims` say
    cdef readonly tuple labels       # of an output, for the classification extension; () when none
    # Between server and model: controls and states of sequences. Of a client's output: it is a state too.
    cdef bint injected
    cdef int rank
    cdef int64_t[16] c_dims
    cdef int index                   # place in the signature

    # Engine-side dims of a tensor with these client-side dims (batch dimension included when `batching`),
    # written to `out`; returns the rank. Without reshape the dims are copied.
    cdef int engine_dims(self, const int64_t *dims, int rank, bint batching, int64_t *out) noexcept
    # The reverse, for outputs; -1 when the engine's dims cannot be mapped back.
    cdef int client_dims(self, const int64_t *dims, int rank, bint batching, int64_t *out) noexcept

# Immutable for the life of a model version; shared by all its requests.
cdef class ModelSignature:
    cdef readonly str model_name
    cdef readonly int64_t model_version
    cdef readonly tuple inputs           # of TensorSpec, as the engine takes them: in config order, then the injected
    cdef readonly tuple outputs
    cdef readonly tuple client_inputs    # without the injected ones, which no client sends, sees or asks for
    cdef readonly tuple client_outputs
    cdef readonly int64_t max_batch_size  # 0: no batch dimension
    cdef readonly bint decoupled
    cdef readonly BatchPlan plan          # of a model whose requests may differ in shape; None: they may not
    cdef dict input_by_name
    cdef dict output_by_name
    cdef int required_inputs

    # Checks `request` and makes it ready for a batch: sets `slots` (its inputs in signature order, None where absent,
    # and for what is injected), `wanted` (a flag per output), `rows`, `n_placements`, `alone`. Raises InvalidArg with
    # Triton's words, or its own for what a plan asks for; the request must not be used then. Loop thread.
    cpdef int validate(self, InferRequest request) except -1

    cdef int _validate(self, InferRequest request) except -1
    cdef uint64_t _wanted(self, InferRequest request) except? 0
    cdef list _slots(self, InferRequest request)
    cdef int64_t _rows(self, InferRequest request) except -1
    cdef int _check(self, InferRequest request, TensorSpec spec, Tensor tensor) except -1
    # The elements of a BYTES input in host memory. Any thread with the GIL.
    cdef int check_bytes(self, InferRequest request, Tensor tensor) except -1
