# What becomes of one request to an ensemble: the requests of its steps, and the tensors between them.

from libc.stdint cimport int64_t

from triton_async.core.dataflow cimport Dataflow, Scope, Selection, Step
from triton_async.core.servable cimport Servable
from triton_async.core.waits cimport Asking
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse

#   WAITING --a place is free--> OPEN --final response--> ANSWERED --released--> OVER
#      |                          |                                              ^
#      +------- refused ----------+--------- cancelled, released ----------------+
cdef enum CallState:
    CALL_WAITING = 0     # held back by max_inflight_requests, or on its way to the step's model
    CALL_OPEN = 1        # the model has its request
    CALL_ANSWERED = 2    # and has answered it
    CALL_OVER = 3

# A step's request, made for the sake of one to the ensemble.
#
# Invariants
#   - it is among the `inner` of the ensemble's request, and in `step.open` or `step.waiting` where the step is limited,
#     while WAITING or OPEN
cdef class StepCall(Asking):
    cdef Run run
    cdef Scope scope                 # whose tensors it takes
    cdef Step step
    cdef int state                   # CallState
    cdef bint downstream             # the response of a decoupled step waits for it, or a model does
    cdef bint freed                  # the model reads its inputs no more
    cdef object resume               # what its sender wants called when enough was taken; or None

    cdef int begin(self, int64_t now_ns) except -1
    cdef int submit(self, int64_t now_ns) except -1
    cdef int drop(self, int64_t now_ns) except -1
    cdef int _give_up(self) except -1
    cdef int _leave(self) except -1
    cdef int _let_go(self) except -1

# One request to an ensemble. To be filled up to `targets`, then started.
#
# Invariants
#   - while it is not `over` and not `doomed`, and nothing is on its way, there is a call that is WAITING or OPEN
#   - responses are passed on in the order of those of the decoupled steps that they come from
#   - the request's inputs are given free when it is over and all calls are
cdef class Run:
    cdef Servable ensemble
    cdef Dataflow flow               # the ensemble's
    cdef int64_t ahead               # as many of `n_open` as senders may be ahead
    cdef object trace_step           # the ensemble's
    cdef InferRequest request
    cdef Selection selection
    cdef Scope root
    cdef list targets                # by number of the step: the Servable, held; None for one that is left out
    cdef int64_t n_active            # calls that are WAITING or OPEN
    cdef int64_t n_held              # calls whose inputs a model may read
    cdef int64_t n_open              # scopes below the root that are not answered yet
    cdef int64_t begun_ns
    cdef int64_t[3] spent_ns         # by executions of the steps: input, infer, output
    cdef bint answering              # a response was passed on
    cdef bint busy                   # inside `submit` or a step's response
    cdef bint unbounded              # its senders are never held back: they might wait for themselves
    cdef bint awaiting               # it hears when the client takes responses again
    cdef object doomed               # the error it fails with, which is not passed on yet; or None
    cdef bint over                   # its final response was passed on, or it is cancelled
    cdef bint ended                  # and all calls are over

    cdef int start(self, int64_t now_ns) except -1
    # Lets go of the models of the steps. Nothing is asked of them any more.
    cdef int release_targets(self) except -1
    cdef int _try(self, Scope scope, Step step, int64_t now_ns) except -1
    cdef int _ask(self, Scope scope, Step step, int64_t now_ns) except -1
    cdef int heard(self, StepCall call, InferResponse response, int64_t now_ns) except -1
    cdef int _take(self, StepCall call, InferResponse response, int64_t now_ns) except -1
    cdef int _note_times(self, InferRequest request, int64_t now_ns) except -1
    # Goes on as far as it can: passes on what is complete, ends when all is, or nothing more can come.
    cdef int settle(self) except -1
    cdef bint _advance(self, Scope scope) except -1
    cdef int _pass_on(self, Scope scope) except -1
    cdef bint _is_last(self, Scope scope) noexcept
    cdef int fail(self, object error) except -1
    cdef int abandon(self) except -1
    cdef int _note_failure(self, int reason) except -1
    cdef int _drop_calls(self) except -1
    cdef int _end_if_done(self) except -1
    cdef int relieve(self) except -1
    cdef int await_client(self) except -1
    cdef bint crowded(self) except -1

# Senders that wait and that one of the nodes waits for, through whatever executions: they go on.
cdef int let_senders_go(list alternatives) except -1
