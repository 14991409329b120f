# The JSON header of an infer request in the form that clients write it, read without a JSON parser. No I/O.

from libc.stdint cimport int64_t

from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.buffer cimport Buffer
from triton_async.memory.regions cimport RegionRegistry

# Request in `body`, whose first `header_length` bytes are JSON (0 < header_length <= body.nbytes); the inputs become
# views that keep `body`, or leases of regions that it names. None when the header is not in the plain form: then
# `decode_infer` has to read it, and says what is wrong if anything is. What is returned equals what that would return.
cdef InferRequest scan_infer(str model_name, int64_t model_version, ModelSignature signature, Buffer body,
                             int64_t header_length, int64_t received_ns, RegionRegistry regions)
