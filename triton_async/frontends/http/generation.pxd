# The responses to one generate call, for whoever answers it. Event-loop thread.

from libc.stdint cimport int64_t

from triton_async.core.server cimport InferenceServer
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.signature cimport ModelSignature

# What came of the request, encoded as it comes, so that the leases of outputs end at once. A coroutine waits for it; a
# subclass hears of it by `_wake`.
cdef class Generation(ResponseSink):
    cdef InferenceServer server
    cdef InferRequest request      # until its final response, or the end of the call
    cdef bint decoupled
    cdef readonly bint streaming
    cdef readonly int count        # responses that count: an empty final one of a decoupled model does not
    cdef readonly object error     # of the first response, or None
    cdef readonly bint over        # nothing more comes
    cdef object refusal            # why no model has taken the request, heard behind `submit`; or None
    cdef list ready                # bytes not yet taken
    cdef int n_ready               # events that these are
    cdef object behind             # deque: a response that another thread encodes, and those behind it; or None
    cdef int64_t behind_nbytes     # of their outputs
    cdef int n_unsent              # events taken or ready whose bytes have not been written
    cdef int64_t unsent_nbytes
    cdef object waiter             # future of the handler, or None
    cdef list held_back            # callables of `on_relief`, or None

    # What is ready, of which nothing is ready then: bytes that are one event, or the one answer, or pieces of such.
    cdef list taken(self)
    # So many events, and bytes, have left.
    cdef int left(self, int count, int64_t nbytes) except -1
    # The call is over: cancels what is still in work. Idempotent.
    cdef int end(self) except -1

    # A response whose turn it is. Whether another thread encodes it.
    cdef bint _begin(self, InferResponse response) except -1
    # `body`: pieces of its JSON; `error`: why there are none.
    cdef int _answer(self, InferResponse response, list body, object error) except -1
    # A final response that says only that it is.
    cdef bint _is_end(self, InferResponse response) noexcept
    cdef int _add(self, list body) except -1
    # More waits than may: the stream ends here.
    cdef int _overflow(self) except -1
    cdef int _put(self, list body) except -1
    cdef Py_ssize_t _n_behind(self) except -1
    cdef int _finish(self) except -1
    # There is something to take, of a stream, or nothing more comes.
    cdef int _wake(self) except -1
    cdef int _give_up(self) except -1
    cdef int _relieve(self) except -1
