# The generate extension: JSON without tensor syntax into requests, responses into it. No sockets, no state.

from libc.stdint cimport int64_t

from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature

# Request in `body` (any object with the buffer protocol, of at most `max_nbytes` bytes): members named like inputs of
# the model are tensors, `id` is the request's, all others are parameters; those of `parameters` count like members of
# the document. A scalar is one element, an array as many as it has; dims come from the signature. Raises ServerError.
cpdef InferRequest decode_generate(str model_name, int64_t model_version, ModelSignature signature, object body,
                                   int64_t max_nbytes, int64_t received_ns)

# The JSON object of a response without error: model, version, id, parameters, and each output, a scalar where it has
# one element, else a flat array. ServerError for what JSON cannot take.
cpdef bytes encode_generate(InferResponse response)

# Whether that takes longer than the loop has for one client: `encode_long_generate` is for another thread then.
cpdef bint is_long_generate(InferResponse response)
