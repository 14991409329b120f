# ModelInferRequest messages to requests, without a protobuf object.

from libc.stdint cimport int64_t

from triton_async.infer.request cimport InferRequest
from triton_async.memory.buffer cimport Buffer
from triton_async.memory.regions cimport RegionRegistry

# The request in `message`. Raw inputs are views that hold a reference to `message`; typed contents are packed into
# memory of their own; regions that it names are leased from `regions`, of which None knows none. Raises wire.Malformed,
# InvalidArg (against Triton's rules for gRPC requests) and NotFound (a region). `context` of the request is True when
# the client asks for an empty final response, which matters to streams of decoupled models; the front-end may then use
# it for its own. Does not look at any model: InferenceServer validates. Any thread with the GIL.
cdef InferRequest decode(Buffer message, int64_t received_ns, RegionRegistry regions)

# Whether decoding it takes longer than the loop has for one client: what is not raw contents has so many bytes. Any
# thread with the GIL.
cpdef bint is_long_message(object message)
