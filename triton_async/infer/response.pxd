# What comes back for a request, and the receiving end.

from libc.stdint cimport int64_t

cdef class InferResponse:
    cdef readonly object request         # InferRequest
    cdef readonly str model_name
    cdef readonly int64_t model_version  # the version that answered
    cdef readonly list outputs           # of Tensor, in the model's order, only those asked for
    cdef readonly dict parameters        # or None
    cdef readonly object error           # ServerError or None; outputs are then empty
    cdef readonly bint final             # no further response follows

# A front-end's receiver. Loop thread.
cdef class ResponseSink:
    # Called once for every response, the last one with `final`. Never inside `submit`. Must not raise.
    cdef int deliver(self, InferResponse response) except -1
    # Whether a response that is not final had better wait: so much waits for the client already that more of it takes
    # memory, and in the end ends the call. Never for who gets one response. Cheap: to be asked before each response.
    cdef bint congested(self) except -1
    # Only while congested: has `resume()` called, once, later, on the loop, when it is so no more or the call is over.
    cdef int on_relief(self, object resume) except -1

cpdef int64_t live_responses()
