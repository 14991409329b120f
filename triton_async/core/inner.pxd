# Requests that models make of other models (business logic scripting): the server's InferenceService for backends.

from libc.stdint cimport int64_t

from triton_async.core.reactor cimport Errand
from triton_async.core.server cimport InferenceServer
from triton_async.core.waits cimport Asking
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse

#   NEW --the loop takes it up--> ASKED --final response, cancelled--> OVER
#    |                                                                  ^
#    +--refused, cancelled----------------------------------------------+
cdef enum InnerState:
    INNER_NEW = 0        # with the thread that asks, or on its way to the loop
    INNER_ASKED = 1      # the server has its request
    INNER_OVER = 2       # whoever asked has heard the last of it

# What an InnerRequest has for the loop.
cdef enum InnerErrand:
    ERRAND_SUBMIT = 1
    ERRAND_CANCEL = 2
    ERRAND_RELIEF = 4    # enough was taken of what is unread

# One request of a model to another, and who hears of it. Made on any thread; its fields belong to the loop, but for
# `errands` and `n_taken`, which belong to whoever holds the GIL.
#
# Invariants
#   - `call` is told of one final response, or of one refusal, and of one release, behind which it hears nothing
#   - while ASKED it is among the `inner` of each of its askers
cdef class InnerRequest(Asking):
    cdef InnerRequests service
    cdef object call                     # backends.base.InferenceCall; None once it was told all
    cdef object caller                   # the ModelInstance that asks, until it is taken up
    cdef tuple askers                    # InferRequests for whose sake it is made
    cdef bint free                       # no engine reads its inputs any more
    cdef bint theirs                     # it is cancelled with them, not only awaited by their execution
    cdef int state                       # InnerState
    cdef int errands                     # InnerErrand bits; it stands in `service.incoming` while there are any
    cdef bint counts                     # `n_taken` is kept (InferenceCall.counts_reads)
    cdef int64_t n_told                  # responses that `call` was told of
    cdef int64_t n_taken                 # of them, who asked has taken
    cdef object resume                   # what the sender wants called when enough was taken, or None

    cdef int answer(self, InferResponse response) except -1
    cdef int64_t unread(self) noexcept
    # The last that `call` hears: a refusal, or the end of a request that was cancelled.
    cdef int refuse(self, object error) except -1
    # Its sender waits for nobody any more.
    cdef int _let_go(self) except -1
    cdef int _link(self) except -1
    cdef int _unlink(self) except -1
    cdef int _end(self) except -1

# Any thread may submit; all else on the loop. Requests of several threads wake the loop once.
#
# Invariants
#   - `incoming` has what the loop has not heard of; an errand is on the ring iff there is any
#   - no execution waits for itself, through whatever requests and instances: see core.waits
cdef class InnerRequests(Errand):
    cdef InferenceServer server
    cdef list incoming                   # InnerRequests with errands
    cdef set open                        # InnerRequests that are ASKED
    cdef set futures                     # of model control that threads wait for
    cdef bint closed                     # the server has stopped: all is refused
    cdef object control                  # what answers `ask`, or None
    cdef object thread                   # identifier of the loop's

    cdef int want(self, InnerRequest inner, int errand) except -1
    cdef bint _runs_at_once(self, InnerRequest inner) except -1
    cdef int _run(self, InnerRequest inner, int64_t now_ns) except -1
    cdef int _ask(self, InnerRequest inner, int64_t now_ns) except -1
    cdef int _cancel(self, InnerRequest inner) except -1
    cdef int _let_senders_go(self, InnerRequest inner) except -1
    cdef int _find_askers(self, InnerRequest inner) except -1
    cdef int _check(self, InnerRequest inner) except -1
