"""Hands requests of other threads to the server's loop, and keeps responses for those who read them one by one."""

import logging
from _thread import allocate_lock
from collections import deque

cimport cython
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t

from triton_async.core.reactor cimport Errand
from triton_async.core.server cimport InferenceServer
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink

from triton_async.defines import INNER_MAX_UNREAD, INNER_UNREAD
from triton_async.errors import Cancelled, InternalError, ServerError, Unavailable

log = logging.getLogger("triton_async.core")

cdef Py_ssize_t UNREAD = INNER_UNREAD
cdef Py_ssize_t MAX_UNREAD = INNER_MAX_UNREAD


cdef class Call(ResponseSink):
    cdef int refused(self, object error) except -1:
        return 0

    cdef int cancelled(self) except -1:
        return 0


cdef class Desk(Errand):
    """One for `server`, made on its loop's thread; to be closed behind its `stop`."""

    def __init__(self, InferenceServer server):
        self.server = server
        self.incoming = []

    cdef int submit(self, Call call) except -1:
        if self.closed:
            return call.refused(Unavailable("Server exiting"))
        return self._want(call, CALL_SUBMIT)

    cdef int cancel(self, Call call) except -1:
        return 0 if self.closed else self._want(call, CALL_CANCEL)

    cdef int _want(self, Call call, int errand) except -1:
        cdef bint first
        if call.errands == 0:
            first = not self.incoming
            self.incoming.append(call)
            if first:
                Py_INCREF(self)  # goes up with it
                self.server.reactor.post(&self.message)
        call.errands |= errand
        return 0

    cdef int arrive(self, int64_t now_ns) except -1:
        cdef list incoming = self.incoming
        cdef Call call
        self.incoming = []
        for call in incoming:
            try:
                self._run(call)
            except ServerError as error:
                call.refused(error)
            except Exception as error:
                log.exception("a request of this process failed")
                call.refused(InternalError(type(error).__name__))
        return 0

    cdef int _run(self, Call call) except -1:
        cdef int errands = call.errands
        call.errands = 0
        if errands & CALL_SUBMIT:
            if errands & CALL_CANCEL:
                raise Cancelled("the request was cancelled")
            self.server.submit_request(call.request, call)
            call.asked = True
        elif errands & CALL_CANCEL and call.asked and call.request is not None:
            self.server.cancel_request(call.request)
            call.cancelled()
        return 0

    def infer(self, InferRequest request, timeout_s=None):
        """InferResponse of the request, for a thread other than the loop's, which waits for it. ServerError.
        TimeoutError after `timeout_s` seconds; the request is cancelled then."""
        cdef ThreadCall call = ThreadCall.__new__(ThreadCall)
        call.request = request
        call.lock = allocate_lock()
        call.lock.acquire()
        self.submit(call)
        try:
            if not call.lock.acquire(True, -1 if timeout_s is None else max(0, timeout_s)):
                raise TimeoutError(f"no response within {timeout_s:g} s")
        except BaseException:
            self.cancel(call)
            raise
        if call.error is not None:
            raise call.error
        if call.response.error is not None:
            raise call.response.error
        return call.response

    def close(self):
        """Refuses all that comes. Loop thread."""
        cdef Call call
        self.closed = True
        incoming, self.incoming = self.incoming, []
        for call in incoming:
            if call.errands & CALL_SUBMIT:
                call.refused(Unavailable("Server exiting"))


@cython.final
cdef class ThreadCall(Call):
    cdef int deliver(self, InferResponse response) except -1:
        if self.response is None and self.error is None:
            self.response = response
            self.request = None  # which has the call as its sink
            self.lock.release()
        return 0

    cdef int refused(self, object error) except -1:
        if self.response is None and self.error is None:
            self.error = error
            self.lock.release()
        return 0

    cdef int released(self, object request) except -1:
        return 0


@cython.final
cdef class ResponseQueue(ResponseSink):
    """The responses to one request of the loop's own thread, in their order."""

    def __init__(self, InferenceServer server):
        self.server = server
        self.waiting = deque()

    def open(self, InferRequest request):
        """Hands the request in, once. ServerError when it is refused."""
        self.request = request
        self.server.submit_request(request, self)

    async def next(self):
        """The next InferResponse; None behind the final one, or when it was closed. One reader at a time."""
        while not self.waiting:
            if self.over:
                return None
            self.reader = self.server.loop.create_future()
            try:
                await self.reader
            finally:
                self.reader = None
        response = self.waiting.popleft()
        if self.resume is not None and len(self.waiting) <= UNREAD // 2:
            self._let_go()
        return response

    def close(self):
        """Nobody reads any more: cancels the request. Idempotent."""
        self.waiting.clear()
        if not self.over:
            self.over = True
            request, self.request = self.request, None
            if request is not None:
                self.server.cancel_request(request)
            self._let_go()
            self._wake()

    cdef int deliver(self, InferResponse response) except -1:
        if self.over:
            return 0
        if response.final:
            self.over = True
        elif len(self.waiting) >= MAX_UNREAD:
            response = InferResponse(self.request, response.model_name, response.model_version, [], None, Unavailable(
                f"too many responses of model '{response.model_name}' wait for their reader"))
            self.over = True
            self.server.cancel_request(self.request)
        self.waiting.append(response)
        if self.over:
            self.request = None  # which has this as its sink
            self._let_go()
        return self._wake()

    cdef int released(self, object request) except -1:
        return 0

    cdef bint congested(self) except -1:
        return not self.over and len(self.waiting) >= UNREAD

    cdef int on_relief(self, object resume) except -1:
        self.resume = resume
        return 0

    cdef int _wake(self) except -1:
        if self.reader is not None and not self.reader.done():
            self.reader.set_result(None)
        return 0

    cdef int _let_go(self) except -1:
        resume, self.resume = self.resume, None
        if resume is not None:
            resume()
        return 0
