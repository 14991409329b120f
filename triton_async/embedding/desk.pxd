# Where threads of the program that the server runs in hand in their requests.

from libc.stdint cimport int64_t

from triton_async.core.reactor cimport Errand
from triton_async.core.server cimport InferenceServer
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink

# What a Call has for the loop.
cdef enum CallErrand:
    CALL_SUBMIT = 1
    CALL_CANCEL = 2

# One request of another thread, and who hears of it. Made on any thread; its fields belong to the loop once it was
# submitted, or taken up by the thread that sends it, but for `errands`, which belongs to whoever holds the GIL.
#
# Invariants
#   - `refused` is called once, on the loop, for a request that was not taken, and nothing else is called then
cdef class Call(ResponseSink):
    cdef InferRequest request
    cdef int errands                     # CallErrand bits; it stands in `Desk.incoming` while there are any
    cdef bint asked                      # the server has taken its request

    cdef int refused(self, object error) except -1
    # It was cancelled: nothing is delivered any more.
    cdef int cancelled(self) except -1

# One for a server. Requests of several threads wake the loop once.
cdef class Desk(Errand):
    cdef readonly InferenceServer server
    cdef list incoming                   # Calls with errands; on the ring iff there is any
    cdef readonly bint closed            # the server has stopped: all is refused

    # Any thread with the GIL; never blocks. Behind the end of the server `refused` is called inside `submit`.
    cdef int submit(self, Call call) except -1
    # The same for a request that is not wanted any more: nothing is delivered for it then. Idempotent.
    cdef int cancel(self, Call call) except -1
    cdef int _want(self, Call call, int errand) except -1
    cdef int _run(self, Call call) except -1

# The responses to a request of the loop's own thread, for a coroutine that reads them one by one. Loop thread.
cdef class ResponseQueue(ResponseSink):
    cdef InferenceServer server
    cdef InferRequest request            # None before `open`
    cdef object waiting                  # deque of InferResponse
    cdef object reader                   # future of who waits for the next one, or None
    cdef object resume                   # of a sender that waits, or None
    cdef readonly bint over              # the final response came, or it was closed

    cdef int _wake(self) except -1
    cdef int _let_go(self) except -1

# A request of a thread that waits for its one response.
cdef class ThreadCall(Call):
    cdef object lock                     # held until there is an outcome
    cdef InferResponse response
    cdef object error
