# v2 infer over HTTP: bodies into requests, responses into bodies. No sockets, no event loop, no state.

from libc.stdint cimport int64_t

from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.buffer cimport Buffer
from triton_async.memory.regions cimport RegionRegistry

# Request in `body` (any object with the buffer protocol; whoever holds the request or one of its inputs keeps it alive
# and unchanged). `header_length`: bytes of JSON in front; -1: all of the body; 0: no JSON, the body is the one input,
# deduced from `signature`. Inputs in binary form are views into `body`. Checks form, not fitness: the request still
# has to pass `signature.validate`. Regions that the request names are leased from `regions`, of which None knows none.
# Any thread: for long JSON not the loop's (`is_long_json`). Raises ServerError with Triton's words; nothing is kept
# then.
cpdef InferRequest decode_infer(str model_name, int64_t model_version, ModelSignature signature, object body,
                                int64_t header_length, int64_t max_input_nbytes, int64_t received_ns,
                                RegionRegistry regions=*)

# Whether JSON of so many bytes takes longer to read than the loop has for one client.
cpdef bint is_long_json(int64_t nbytes)

# Whether a response without error takes longer to encode. Looks at all outputs.
cpdef bint is_long_answer(InferRequest request, InferResponse response)

# Body of a response without error: (JSON header, parts behind it, header length or None, content type). `parts` are
# the tensors in binary form, exporting their bytes; None as header length says that there are none.
cpdef tuple encode_infer(InferRequest request, InferResponse response, ModelSignature signature)

# The same for a long one, on a thread other than the loop's, which is not held up. The JSON comes in pieces of some
# HTTP_PIECE_NBYTES, all but the first one in front of the tensors: each is given back when it has left.
cpdef tuple encode_long(InferRequest request, InferResponse response, ModelSignature signature)

# One request parameter: what Triton knows by its name goes to its field, any other one to `others`. Raises ServerError.
cdef int take_parameter(InferRequest request, str key, object item, dict others) except -1

# `body` is the one input of the model, of its type and shape as far as they say it. Raises ServerError.
cdef int take_raw(InferRequest request, ModelSignature signature, Buffer body, int64_t max_nbytes) except -1

# The same text in pieces of that size; `pieces` is empty then.
cdef list grouped(list pieces)
