# ModelInferRequest messages to requests, without a protobuf object.

from libc.stdint cimport int64_t

from triton_async.infer.request cimport InferRequest
from triton_async.memory.buffer cimport Buffer

# The request in `message`. Raw inputs are views that hold a reference to `message`; typed contents are packed into
# memory of their own. Raises wire.Malformed, InvalidArg (against Triton's rules for gRPC requests) and NotFound
# (shared memory regions). `context` of the request is True when the client asks for an empty final response, which
# matters to streams of decoupled models; the front-end may then use it for its own. Does not look at any model:
# InferenceServer validates. Any thread with the GIL.
cdef InferRequest decode(Buffer message, int64_t received_ns)
