# Complete HTTP responses of the infer call as bytes, for the express lane; equal to what the slow lane sends.
# No sockets, no event loop. `tail` is what follows the Content-Length value: reply_tail().

from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature

# The response without error: `bytes` when it is small, else a list of objects with the buffer protocol that keep
# the leases of the outputs and are to be written in order. Raises ServerError when an output cannot be written.
cdef object infer_reply(InferRequest request, InferResponse response, ModelSignature signature, bytes tail)

# {"error": message} with an HTTP status.
cdef bytes error_reply(int status, str message, bytes tail)

# End of every head: the date, and whether the connection closes behind the response.
cpdef bytes reply_tail(str date, bint closing)
