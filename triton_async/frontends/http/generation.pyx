"""The responses to one generate call: encoded as they come, to be written once in a turn of the loop."""

from libc.stdint cimport int64_t

from triton_async.core.server cimport InferenceServer
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.tensor cimport Tensor
from triton_async.protocol.generate cimport encode_generate, is_long_generate
from triton_async.protocol.http_codec cimport grouped
from triton_async.protocol.json_text cimport error_body

import logging
from collections import deque

from triton_async.defines import (
    HTTP_CONGESTED_EVENTS,
    HTTP_CONGESTED_NBYTES,
    HTTP_MAX_EVENT_NBYTES,
    HTTP_MAX_EVENTS,
)
from triton_async.errors import InternalError, ServerError
from triton_async.protocol.generate import encode_long_generate

log = logging.getLogger("triton_async.http")

cdef str NOT_ONE = (
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various "
    "number of responses"
)

cdef int CONGESTED_EVENTS = HTTP_CONGESTED_EVENTS
cdef int64_t CONGESTED_NBYTES = HTTP_CONGESTED_NBYTES
cdef int MAX_EVENTS = HTTP_MAX_EVENTS
cdef int64_t MAX_NBYTES = HTTP_MAX_EVENT_NBYTES

# Around the JSON of an event.
cdef int64_t FRAME_NBYTES = len(b"data: \n\n")


cdef class Generation(ResponseSink):
    """`streaming`: each response is a server-sent event; else the body of the answer, which is the first one's."""

    def __init__(self, InferenceServer server, bint decoupled, bint streaming):
        self.server = server
        self.decoupled = decoupled
        self.streaming = streaming
        self.ready = []

    # -- responses ---------------------------------------------------------------------------------

    cdef int deliver(self, InferResponse response) except -1:
        if self.over:
            return 0
        if response.refused:
            self.refusal = response.error
            return self._finish()
        if self.behind is None:
            self._begin(response)
            return 0
        if self.n_unsent + len(self.behind) >= MAX_EVENTS or self.behind_nbytes >= MAX_NBYTES:
            return self._overflow()
        self.behind.append(response)
        self.behind_nbytes += _nbytes(response)
        return 0

    cdef bint _begin(self, InferResponse response) except -1:
        cdef list body = None
        cdef object error = response.error
        if error is None and not self._is_end(response) and (self.streaming or self.count == 0):
            if is_long_generate(response):
                if self.behind is None:
                    self.behind = deque((response,))
                    self.behind_nbytes = _nbytes(response)
                work = self.server.loop.run_in_executor(None, encode_long_generate, response)
                work.add_done_callback(self._encoded)
                return True
            try:
                body = [encode_generate(response)]
            except Exception as problem:
                error = problem
        self._answer(response, body, error)
        return False

    def _encoded(self, work):
        cdef InferResponse response
        cdef object error = work.exception()
        if self.over or self.behind is None:
            return  # nobody waits any more
        self._answer(self.behind[0], None if error is not None else work.result(), error)
        while not self.over:
            response = self.behind.popleft()
            self.behind_nbytes -= _nbytes(response)
            if not self.behind:
                break
            if self._begin(self.behind[0]):
                return
        self.behind = None

    cdef bint _is_end(self, InferResponse response) noexcept:
        return response.error is None and response.final and self.decoupled and not response.outputs

    cdef int _answer(self, InferResponse response, list body, object error) except -1:
        if self._is_end(response):
            return self._finish()
        self.count += 1
        if self.streaming or self.count == 1:
            if error is not None and not isinstance(error, ServerError):
                log.error("HTTP handler failed", exc_info=error)
                error = InternalError("internal error, see the log of the server")
            if error is not None:
                body = [error_body(error.message)]
                if self.count == 1:
                    self.error = error
            self._add(body)
        if response.final:
            return self._finish()
        return self._wake() if self.streaming else 0

    cdef int _add(self, list body) except -1:
        cdef int64_t nbytes = 0
        for piece in body:
            nbytes += len(<bytes>piece)
        if self.n_unsent >= MAX_EVENTS or self.unsent_nbytes + nbytes > MAX_NBYTES:
            return self._overflow()
        return self._put(body)

    cdef int _overflow(self) except -1:
        self._give_up()
        self.over = True
        self._put([error_body("too many responses wait for this client")])
        return self._wake()

    cdef int _put(self, list body) except -1:
        if not self.streaming:
            self.ready += body
        elif len(body) == 1:
            self.ready.append(b"data: %b\n\n" % body[0])
        else:
            self.ready += [b"data: ", *body, b"\n\n"]
        self.n_unsent += 1
        self.n_ready += 1
        for piece in body:
            self.unsent_nbytes += len(<bytes>piece)
        if self.streaming:
            self.unsent_nbytes += FRAME_NBYTES
        return 0

    cdef int _finish(self) except -1:
        self.over = True
        self.request = None
        return self._wake()

    cdef int _wake(self) except -1:
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        return 0

    cdef int released(self, object request) except -1:
        return 0

    # -- back-pressure -----------------------------------------------------------------------------

    cdef bint congested(self) except -1:
        return not self.over and self.streaming and (
            self.n_unsent + self._n_behind() >= CONGESTED_EVENTS
            or self.unsent_nbytes + self.behind_nbytes >= CONGESTED_NBYTES
        )

    cdef Py_ssize_t _n_behind(self) except -1:
        return 0 if self.behind is None else len(self.behind)

    cdef int on_relief(self, object resume) except -1:
        if self.held_back is None:
            self.held_back = []
        self.held_back.append(resume)
        return 0

    cdef int _relieve(self) except -1:
        cdef list held_back = self.held_back
        self.held_back = None
        if held_back is not None:
            for resume in held_back:
                self.server.loop.call_soon(resume)
        return 0

    # -- what the handler does ---------------------------------------------------------------------

    def submit(self, InferRequest request):
        """Hands the request to the server. ServerError when it is refused."""
        self.server.submit_request(request, self)
        self.request = request

    async def wait(self):
        """Returns when there is something to take, or nothing more comes. What comes in one turn comes together.
        ServerError when the request is refused after all."""
        if not self.over and not (self.streaming and self.ready):
            self.waiter = self.server.loop.create_future()
            await self.waiter
        if self.refusal is not None:
            raise self.refusal

    def failure(self):
        """Of a call that takes one response: the error that is its answer, or None."""
        # Triton sends this text with status 200, or that of the first response.
        return self.error if self.count == 1 else InternalError(NOT_ONE)

    def take(self):
        """What is ready, as pieces of some HTTP_PIECE_NBYTES, and how many events that is."""
        cdef int count = self.n_ready
        return grouped(self.taken()), count

    def sent(self, int count, int64_t nbytes):
        """So many events, and bytes, were written to the socket."""
        self.left(count, nbytes)

    def close(self):
        """The call is over: cancels what is still in work. Idempotent."""
        self.end()

    cdef list taken(self):
        cdef list ready = self.ready
        self.ready = []
        self.n_ready = 0
        return ready

    cdef int left(self, int count, int64_t nbytes) except -1:
        self.n_unsent -= count
        self.unsent_nbytes -= nbytes
        if self.held_back is not None and (
            self.n_unsent + self._n_behind() <= CONGESTED_EVENTS // 2
            and self.unsent_nbytes + self.behind_nbytes <= CONGESTED_NBYTES // 2
        ):
            self._relieve()
        return 0

    cdef int end(self) except -1:
        self.over = True
        return self._give_up()

    cdef int _give_up(self) except -1:
        cdef InferRequest request = self.request
        self.request = None
        self.behind = None
        self.behind_nbytes = 0
        if request is not None:
            self.server.cancel_request(request)
        return self._relieve()


# Of its outputs.
cdef int64_t _nbytes(InferResponse response) noexcept:
    cdef Tensor tensor
    cdef int64_t nbytes = 0
    for tensor in response.outputs:
        nbytes += tensor.nbytes
    return nbytes
