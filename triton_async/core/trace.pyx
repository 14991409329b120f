"""The events of Triton's traces, from what core knows of a request anyway. Loop thread."""

from triton_async.infer.batch cimport ta_batch
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.trace cimport Trace


cdef int trace_queued(InferRequest request) except -1:
    cdef Trace trace = request.trace
    trace.note("REQUEST_START", request.received_ns)
    trace.note_tensors("TENSOR_QUEUE_INPUT", request.inputs)
    return 0


cdef int trace_response(Trace trace, InferResponse response) except -1:
    trace.note_tensors("TENSOR_BACKEND_OUTPUT", response.outputs)
    return trace.note("INFER_RESPONSE_COMPLETE", ta_now_ns())


cdef int trace_execution(InferRequest request, ta_batch *batch) except -1:
    cdef Trace trace = request.trace
    if batch.compute_start_ns == 0:
        return 0
    trace.note("COMPUTE_START", batch.compute_start_ns)
    trace.note("COMPUTE_INPUT_END", batch.compute_input_end_ns)
    trace.note("COMPUTE_OUTPUT_START", batch.compute_output_start_ns)
    trace.note("COMPUTE_END", batch.compute_end_ns)
    return trace.note_tensors("TENSOR_BACKEND_INPUT", request.inputs)


cdef int trace_end(InferRequest request) except -1:
    request.trace.note("QUEUE_START", request.queue_start_ns)
    return request.trace.note("REQUEST_END", ta_now_ns())
