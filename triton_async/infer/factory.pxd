# How an engine that answers by request answers one of them (Triton's TRITONBACKEND_ResponseFactory).

from libc.stdint cimport int64_t

from triton_async.infer.event cimport ta_message
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.transfer cimport Transfer

# Any thread, with the GIL.
#
# Invariants
#   - exactly one final response and one release are posted for every factory, at the latest when it is dropped; or a
#     release alone, of a request that is rescheduled
#   - nothing is posted behind either
cdef class ResponseFactory:
    cdef readonly InferRequest request
    cdef readonly ModelSignature signature
    cdef readonly list inputs            # Tensor or None, in signature order; None once released
    cdef readonly bint finished          # the final response was sent
    cdef readonly bint released
    cdef Transfer transfer               # what copies outputs to regions and to the host; of whoever holds the GIL
    cdef void (*post)(void *context, ta_message *message) noexcept nogil
    cdef void *context                   # inside `keeper`
    cdef object keeper
    cdef int64_t last_ns                 # when the last response was sent, or the execution began; 0: not known

    # Sends one response. `outputs`: Tensors of outputs of the model, those that nobody asked for left out; taken over.
    # Raises InternalError, and sends nothing, behind the final one, for an output that the model has not, or one of
    # another data type.
    cpdef int send(self, list outputs, dict parameters=*, object error=*, bint final=*) except -1
    # The same without an error, for who has looked at what the request asks for, and has none of another data type
    # unless it wants to. `outputs` are on the host.
    cpdef int send_taken(self, list outputs, dict parameters, bint final) except -1
    # The engine reads the inputs no more. A second time nothing.
    cpdef int release(self) except -1
    # The request is not answered but run once more, by another factory: neither a final response nor its release
    # follow. For engines whose models may ask for that. A second time, or behind the final response, nothing.
    cpdef int reschedule(self) except -1
    # `resume()` is called once, as soon as a further response need not wait any more: at once, or later on the loop.
    cpdef int on_relief(self, object resume) except -1

    cdef int _send(self, list outputs, dict parameters, bint final, int64_t begun_ns) except -1
    cdef int _note_times(self, InferResponse response, int64_t begun_ns) except -1
    cdef list _taken(self, list outputs)
    cdef int _check_open(self) except -1
    cdef int _post_response(self, InferResponse response) except -1
