# What core notes of a traced request. Loop thread.

from triton_async.infer.batch cimport ta_batch
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.trace cimport Trace

# It was taken: validated, with its inputs.
cdef int trace_queued(InferRequest request) except -1
# A response of its engine, before it is passed on.
cdef int trace_response(Trace trace, InferResponse response) except -1
# The execution that it was part of is over.
cdef int trace_execution(InferRequest request, ta_batch *batch) except -1
# Nothing is awaited of it any more.
cdef int trace_end(InferRequest request) except -1
