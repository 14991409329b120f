# Parameters of requests, inputs and outputs: map<string, InferParameter> entries on the wire.

from libc.stdint cimport int64_t, uint64_t

from triton_async.infer.request cimport InferRequest
from triton_async.protocol.wire cimport ta_wire

# Which alternative of InferParameter is set; the numbers are its fields.
cdef enum ParameterKind:
    PARAMETER_NONE = 0
    PARAMETER_BOOL = 1
    PARAMETER_INT64 = 2
    PARAMETER_STRING = 3
    PARAMETER_DOUBLE = 4
    PARAMETER_UINT64 = 5

cdef struct Parameter:
    int kind             # ParameterKind
    uint64_t bits        # bool, int64 (two's complement) and uint64
    double number
    ta_wire string       # inside the message

# Reads one map entry; `key` is "" when the entry has none. Raises wire.Malformed.
cdef str read_entry(ta_wire entry, Parameter *value)

# Applies one request parameter: Triton's own to the fields of `request`, any other to its `parameters`. Raises
# InvalidArg in Triton's words.
cdef int apply(InferRequest request, str key, Parameter *value) except -1

# N of the classification parameter of a requested output. Raises InvalidArg.
cdef int64_t classification(Parameter *value) except -1
