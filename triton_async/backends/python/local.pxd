# The channel of Python models that run in the server process: requests in, responses out, calls of other models.

from libc.stdint cimport int64_t

from triton_async.backends.base cimport ModelInstance
from triton_async.infer.factory cimport ResponseFactory
from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport Tensor
from triton_async.infer.transfer cimport Transfer
from triton_async.memory.buffer cimport Buffer
from triton_async.memory.slab cimport SlabPool

# worker.channel.TensorSource over leased bytes. Any thread with the GIL.
#
# An array of it writes into the lease where that is nobody else's, which its `readonly` says; else into a copy.
cdef class LocalTensor:
    cdef Tensor tensor

# What the model sees of an input, and a client of an output: of its `reshape`, where it has one. InternalError for an
# output that it does not fit.
cdef Tensor engine_view(ModelSignature signature, TensorSpec spec, Tensor tensor)
cdef Tensor client_view(ModelSignature signature, TensorSpec spec, Tensor tensor)

# worker.channel.RequestSource: a request that an instance has. Its end gives the request an answer if it has none.
# Any thread with the GIL.
cdef class IncomingRequest:
    cdef ResponseFactory factory
    cdef InferRequest request
    cdef list tensors                # of the request, in signature order, None where absent
    cdef str instance                # Triton's name of the instance
    cdef list askers                 # the value of ASKERS that has it, of a decoupled model until its final response
    cdef public int flags
    cdef public int release_flags
    cdef public int64_t sent
    cdef public bint finished

# worker.channel.Channel of one instance. Any thread with the GIL.
cdef class LocalChannel:
    cdef readonly ModelSignature signature
    cdef SlabPool pool
    cdef object inference            # backends.base.InferenceService, or None
    cdef object metrics              # metrics.CustomMetrics
    cdef bint reschedules            # the model may have requests run once more
    cdef set handles                 # of metrics and families that are not dropped
    cdef public ModelInstance instance   # None while no instance has been made
    cdef int64_t answered_ns         # when an execution sent its first response, or returned; 0: not yet
    cdef bint holds                  # `execute` has returned, and the instance is not done with the batch

    # `lone`: the caller has the only reference.
    cdef int _send(self, IncomingRequest request, object response, bint final, bint lone) except -1
    cdef Transfer _mover(self)
    cdef list _outputs(self, IncomingRequest request, object response, bint lone)
    # `lone`: nobody has the api.Tensor but its list, so that an array that only it has may be sent as it is.
    cdef Tensor _output(self, TensorSpec spec, object tensor, bint lone)
    cdef Tensor _tensor(self, str name, int datatype, object tensor, bint lone)
    cdef Buffer _leased(self, object array, bint lone)

cdef IncomingRequest incoming(ResponseFactory factory, str instance)
