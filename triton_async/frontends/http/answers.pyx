"""The answers that one HTTP connection owes: kept in the order of the requests, written when it is their turn."""

cimport cython
from libc.stdint cimport int64_t

from triton_async.infer.tensor cimport Tensor
from triton_async.protocol.http_reply cimport error_reply, infer_reply

import logging

from triton_async.defines import HTTP_WRITE_TIMEOUT_S
from triton_async.errors import ServerError
from triton_async.frontends.http.status import http_status

log = logging.getLogger("triton_async.http")

cdef int64_t WRITE_S = int(HTTP_WRITE_TIMEOUT_S)


@cython.final
cdef class Exchange(ResponseSink):
    """Takes the response of one request and waits for its turn."""

    cdef int deliver(self, InferResponse response) except -1:
        if self.answers is None:
            return 0
        self.response = response
        self.answers._flush()
        return self._wait() if self.answers is not None else 0

    # The response has to wait: for those before it, or for the socket.
    cdef int _wait(self) except -1:
        cdef Tensor tensor
        for tensor in self.response.outputs:
            self.waiting_nbytes += tensor.nbytes
        return self.answers._note_unsent(self.waiting_nbytes)


cdef class Answers:
    """The part of a connection that writes."""

    cdef Exchange _enqueue(self, ModelSignature signature):
        cdef Exchange exchange = Exchange.__new__(Exchange)
        exchange.answers = self
        exchange.signature = signature
        if self.last is None:
            self.first = exchange
        else:
            self.last.next = exchange
        self.last = exchange
        self.in_flight += 1
        return exchange

    cdef int _after_write(self) except -1:
        return 0

    cdef int _note_unsent(self, int64_t change) except -1:
        if self.gone:
            return 0
        self.unsent_nbytes += change
        return self.hub.note_unsent(change)

    cdef int _abandon(self) except -1:
        cdef Exchange exchange = self.first
        self.first = self.last = None
        self._note_unsent(-self.unsent_nbytes)
        self.gone = True
        while exchange is not None:
            exchange.answers = None
            if exchange.response is None and exchange.request is not None:
                self.hub.server.cancel_request(exchange.request)
            exchange.request = None
            exchange.response = None
            exchange = exchange.next
        return 0

    # Writes the responses whose turn it is.
    cdef int _flush(self) except -1:
        cdef Exchange exchange = self.first
        if exchange is None or self.gone:
            return 0
        while exchange is not None and not self.write_paused and (
            exchange.response is not None or exchange.problem is not None
        ):
            self.first = exchange.next
            if self.first is None:
                self.last = None
            self.in_flight -= 1
            self._write(exchange)
            exchange.answers = None
            exchange = self.first
        return self._after_write()

    cdef int _write(self, Exchange exchange) except -1:
        cdef bytes tail = self.hub.tail
        cdef InferResponse response = exchange.response
        cdef object data
        if self.hub.stopping and self.first is None and not self.receiving:
            tail = self.hub.closing_tail
        try:
            if response is None:
                data = error_reply(exchange.problem[0], exchange.problem[1], tail)
            elif response.error is not None:
                data = error_reply(http_status(response.error.code), response.error.message, tail)
            else:
                data = infer_reply(exchange.request, response, exchange.signature, tail)
        except ServerError as problem:
            data = error_reply(http_status(problem.code), problem.message, tail)
        except Exception:
            log.exception("HTTP handler failed")
            data = error_reply(500, "internal error, see the log of the server", tail)
        self.touched_s = self.hub.now_s
        if exchange.waiting_nbytes:
            self._note_unsent(-exchange.waiting_nbytes)
        if type(data) is bytes:
            self.transport.write(data)
        else:
            self.transport.writelines(data)
        return 0

    cdef int _pause(self) except -1:
        self.write_paused = True
        self.stalled_nbytes = self.transport.get_write_buffer_size()
        self.stalled_s = self.hub.now_s
        return self._note_unsent(self.stalled_nbytes)

    cdef int _unpause(self) except -1:
        self.write_paused = False
        self._note_unsent(-self.stalled_nbytes)
        return self._flush()

    cdef int _check_writing(self) except -1:
        cdef int64_t unsent = self.transport.get_write_buffer_size()
        if unsent != self.stalled_nbytes:
            if self.write_paused:
                self._note_unsent(unsent - self.stalled_nbytes)
            self.stalled_nbytes = unsent
            self.stalled_s = self.hub.now_s
        elif self.hub.now_s - self.stalled_s > WRITE_S:
            self.transport.abort()
        return 0
