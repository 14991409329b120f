# Fields of requests and responses on their way to and from a worker. Any thread with the GIL.

from libc.stdint cimport uint64_t

from triton_async.backends.python.isolated.memory cimport SharedMemory
from triton_async.backends.python.isolated.wire cimport Cursor, Writer
from triton_async.infer.factory cimport ResponseFactory
from triton_async.infer.request cimport InferRequest
from triton_async.memory.slab cimport SlabPool

# What the model is to see of a request's inputs, in the order in which they came.
cdef list request_inputs(ResponseFactory factory)
# Whether nobody looks into the outputs of a request: front-ends send them as bytes. What models and ensembles ask for,
# JSON and classification is looked into.
cdef bint is_sent_on(InferRequest request)
# The event that hands a request over; `tensors`: its inputs, `block`: what these have of the shared memory, 0 for none.
cdef int write_request(Writer event, InferRequest request, uint64_t handle, uint64_t block, Writer tensors) except -1
# JSON of parameters, "" for none.
cdef bytes parameters_text(dict parameters)

# The event that brings a response to a request of the worker's. `tensors`: its outputs, None with word of the end
# alone.
cdef int write_inner_response(Writer event, uint64_t call, uint64_t block, Writer tensors, dict parameters,
                              object error, bint final) except -1

# What a worker has sent; WireError for what it cannot be. Parameters: None for none. An inference request of its own:
# the arguments of InferRequest, `decoupled` and `output_names`.
cdef dict json_object(bytes text)
cdef dict read_parameters(bytes text)
cdef dict read_inner_request(Cursor cursor, SharedMemory memory, SlabPool pool, list freed)
