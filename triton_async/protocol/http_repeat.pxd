# What a client asks for again: most send the same JSON header each time, but for its `id`, and get the same JSON back.
# The bytes are compared, and what was made of them before is used once more. No I/O. One of each for a connection.

from libc.stdint cimport int64_t, uint64_t

from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.buffer cimport Buffer

# A tensor but for its bytes.
cdef struct Form:
    int datatype                     # DataType
    int rank
    int64_t[16] dims
    int64_t count                    # of elements
    int64_t nbytes
    int slot                         # of an input, in its signature

# Several of them.
cdef class Forms:
    cdef Form *forms
    cdef list names
    cdef int64_t nbytes              # of all

    cdef int note(self, list tensors) except -1

# What a header of JSON said that `scan_infer` has read, and its signature has found valid.
cdef class KnownHeader:
    cdef ModelSignature signature    # None before the first one
    cdef bint identified             # the header began with an id, which `text` is without
    cdef bytes text
    cdef Forms inputs                # in the order of their bytes
    cdef list outputs                # of RequestedOutput; all requests have this very list
    cdef str id
    cdef uint64_t priority
    cdef uint64_t timeout_us
    cdef object sequence_id
    cdef int flags
    cdef bint binary_default
    cdef bint fits                   # nothing is left to validate, and these are what comes of it:
    cdef int64_t rows
    cdef uint64_t wanted
    cdef int misses                  # headers in a row that were not the known one

    # The request in `body`, as scan_infer(signature.model_name, ...) would make it of these bytes; None when the header
    # is not the known one.
    cdef InferRequest again(self, int64_t model_version, ModelSignature signature, Buffer body, int64_t header_length)
    cdef int _enter_inputs(self, InferRequest request, Buffer body, int64_t offset) except -1
    # To be called behind the submission of what `scan_infer` made of such a body. Passes over what is not worth it.
    cdef int learn(self, InferRequest request, ModelSignature signature, Buffer body, int64_t header_length) except -1
    cdef int _learn_inputs(self, InferRequest request) except -1

# The head and the JSON of a response in binary form, as it was sent.
cdef class KnownReply:
    cdef list asked                  # the `outputs` of its request, itself; None before the first one
    cdef bint binary_default
    cdef str id
    cdef str model_name
    cdef int64_t model_version
    cdef Forms outputs
    cdef bytes head                  # up to where the tail follows
    cdef bytes json

    # Whether `head`, `json` are what this response begins with.
    cdef bint fits(self, InferRequest request, InferResponse response) noexcept
    cdef int learn(self, InferRequest request, InferResponse response, bytes head, bytes json) except -1
