# What comes back for a request, and the receiving end.

from libc.stdint cimport int64_t

from triton_async.infer.event cimport ta_message

cdef class InferResponse:
    cdef readonly object request         # InferRequest
    cdef readonly str model_name
    cdef readonly int64_t model_version  # the version that answered
    cdef readonly list outputs           # of Tensor, in the model's order, only those asked for
    cdef readonly dict parameters        # or None
    cdef readonly object error           # ServerError or None; outputs are then empty
    cdef readonly bint final             # no further response follows
    cdef readonly bint refused           # its error is that of `submit`: no model has taken the request
    cdef ta_message message              # TA_RESPONSE, of an engine that answers by request
    # Of a decoupled model, for the statistics:
    cdef int64_t number                  # responses to the request before it
    cdef int64_t compute_ns              # since the one before it, or since its execution began
    cdef int64_t output_ns               # that sending it took

# A front-end's receiver. Loop thread.
cdef class ResponseSink:
    cdef bint unordered                  # its responses come before those of earlier requests, whatever the rule
    # Called once for every response, the last one with `final`, and not any more once the request is cancelled. Never
    # inside `submit`. Must not raise.
    cdef int deliver(self, InferResponse response) except -1
    # Called once for every request that was taken, cancelled or not: no engine has it or reads its inputs any more.
    # Before or after the final response; inside `cancel` for a request that had not begun. Must not raise.
    cdef int released(self, object request) except -1
    # Whether a response that is not final had better wait: so much waits for the client already that more of it takes
    # memory, and in the end ends the call. Never for who gets one response. Cheap: to be asked before each response.
    cdef bint congested(self) except -1
    # Only while congested: has `resume()` called, once, later, on the loop, when it is so no more or the call is over.
    cdef int on_relief(self, object resume) except -1

    # A request for whose sake the sink's own was made is cancelled, its execution is over, or it has ended.
    cdef int forsaken(self, object asker) except -1

cpdef int64_t live_responses()
