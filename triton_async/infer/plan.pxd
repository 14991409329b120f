# What a model's config says of requests that differ in shape: which inputs are ragged or padded, what the server makes
# beside them, and how outputs are taken apart. Also how much room a batch has left.

from libc.stdint cimport int32_t, int64_t

from triton_async.infer.request cimport InferRequest
from triton_async.infer.tensor cimport Tensor

cdef extern from "assembly.h":
    enum: TA_MAX_LENGTHS
    enum: TA_VALUE_NBYTES
    enum: TA_INPUT_PLAIN
    enum: TA_INPUT_RAGGED
    enum: TA_INPUT_PADDED
    enum: TA_INPUT_MASK
    enum: TA_INPUT_LENGTHS
    enum: TA_INPUT_ELEMENT_COUNT
    enum: TA_OUTPUT_PLAIN
    enum: TA_OUTPUT_SCATTERED
    enum: TA_OUTPUT_CUT
    ctypedef struct ta_input_plan:
        int32_t kind
        int32_t datatype
        int32_t itemsize
        int32_t source
        int32_t length
        int32_t rank
        int64_t dims[16]
        int32_t lengths[16]
        char value[8]
        char pad[8]
    ctypedef struct ta_output_plan:
        int32_t kind
        int32_t itemsize
        int32_t source
        int32_t rank
        int64_t dims[16]
        int32_t lengths[16]
    ctypedef struct ta_plan:
        int32_t n_lengths
        int32_t n_inputs
        int32_t n_outputs
        ta_input_plan *inputs
        ta_output_plan *outputs
        void *owner

# Of a signature, by places of its inputs and outputs. Filled before the first request, immutable from then on; read by
# any thread. A length is a dimension, or several that are always equal in a request, that is padded.
cdef class BatchPlan:
    cdef ta_plan c
    cdef readonly tuple names            # of the lengths
    cdef readonly bint pads              # there are lengths
    cdef readonly bint ragged            # an input is ragged, or tells of the batch
    cdef readonly int64_t max_elements   # padded ones of a batch: rows by lengths; 0 without lengths
    cdef list buckets                    # of each length: ascending sizes, () for any
    cdef list sources                    # of each length: [(input, dimension), ...] that have it
    # For messages; the signature's:
    cdef str model
    cdef list input_names
    cdef list output_names

    # What a length is padded to; -1 when it is longer than the last bucket.
    cdef int64_t padded(self, int length, int64_t size) noexcept
    # What a request brings for a length: the first of its inputs that has it.
    cdef int64_t size_of(self, InferRequest request, int length) noexcept
    # Whether two requests may differ in the shape of this input.
    cdef bint is_uneven(self, Py_ssize_t place) noexcept
    # Raises InvalidArg for a request, its `slots` and `rows` set, whose lengths contradict each other or do not fit.
    cdef int check(self, InferRequest request) except -1
    cdef ta_input_plan *_input(self, int place) except NULL
    cdef ta_output_plan *_output(self, int place) except NULL
    cdef int _set_lengths(self, int32_t *to, lengths, int place) except -1

# How large a batch of a padded model gets with each further request. Loop thread.
cdef class Room:
    cdef BatchPlan plan
    cdef int64_t rows
    cdef int64_t[8] sizes                # longest so far, of each length

    cdef int clear(self) noexcept
    # Adds a request, when the padded batch stays within `max_elements`. The first one always does.
    cdef bint add(self, InferRequest request) noexcept
