# Responses as messages. Loop thread.
#
#   RESPONSE  Answered, with NAMES text model, which is not that which was asked, then with HAS_ERROR u8 class, text
#             message; else with HAS_PARAMETERS parameters, and the tensors with their bytes (see parts.pxd)

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

from triton_async.backends.python.isolated.wire cimport Cursor, Writer
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.slab cimport SlabPool
from triton_async.processes.lane cimport Lane

cdef enum:
    FINAL = 1
    HAS_ERROR = 2
    RELEASES = 4             # with it the request is over, as by RELEASED
    REFUSED = 8
    NAMES = 16
    HAS_PARAMETERS = 32

cdef packed struct Answered:
    uint8_t kind             # RESPONSE
    uint64_t request
    uint8_t flags
    uint64_t lent            # number of what it lends; 0: nothing
    int64_t version          # of the model
    uint16_t n_tensors

# Where `flags` of a RESPONSE are.
cdef enum:
    FLAGS_AT = 9

# `lends`: gets what has to stay while the other side reads it, under a number that the caller puts behind the flags.
cdef int write_response(Writer to, Lane lane, InferResponse response, uint64_t number, ModelSignature signature,
                        list lends) except -1
cdef int write_error(Writer to, uint64_t number, uint8_t flags, str model_name, int64_t model_version,
                     object error) except -1
# The front of a RESPONSE whose kind was read.
cdef int read_answered(Cursor cursor, Answered *answered) except -1
# The response, of a cursor behind that; None when `request` is.
cdef InferResponse read_response(Cursor cursor, Lane lane, const Answered *answered, InferRequest request,
                                 ModelSignature signature, SlabPool pool)
