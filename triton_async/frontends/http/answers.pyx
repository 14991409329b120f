"""The answers that one HTTP connection owes, written in the order of the requests, and its end behind the last."""

cimport cython
from libc.stdint cimport int64_t

from triton_async.frontends.transport cimport Transport
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.tensor cimport Tensor
from triton_async.protocol.http_codec cimport encode_long
from triton_async.protocol.http_coding cimport CODING_REQUIRED, may_code, worth_coding
from triton_async.protocol.http_head cimport CALL_STREAM
from triton_async.protocol.http_reply cimport (
    error_reply,
    general_reply,
    infer_reply,
    json_reply,
    packed_reply,
    set_old,
)

import logging

from triton_async.defines import HTTP_PIECE_NBYTES, HTTP_WRITE_TIMEOUT_S
from triton_async.errors import ServerError
from triton_async.frontends.entry import forward
from triton_async.frontends.http.compression import deflate
from triton_async.frontends.http.replies import FAILED
from triton_async.frontends.http.status import http_status
from triton_async.logs import access, with_id
from triton_async.protocol.http_coding import NAMES

log = logging.getLogger("triton_async.http")

cdef int _DEBUG = logging.DEBUG
cdef int64_t WRITE_S = int(HTTP_WRITE_TIMEOUT_S)
cdef int64_t PIECE_NBYTES = HTTP_PIECE_NBYTES

# Seconds between the last answer and the end of a connection whose client went on sending (RFC 9112 9.6), and how often
# it gets so many again because it still does.
cdef double LINGER_S = 1.0
cdef int LINGER_TIMES = 3


# As paths have them, by HeadCall.
cdef tuple CALLS = ("infer", "generate", "generate_stream")


@cython.final
cdef class Generated(Generation):
    """Tells its connection when there is something to write."""

    cdef int _wake(self) except -1:
        if self.exchange is None or self.exchange.answers is None:
            return 0
        return self.exchange.answers._generated(self.exchange)


@cython.final
cdef class Exchange(ResponseSink):
    """Takes the response of one request and waits for its turn."""

    cdef int deliver(self, InferResponse response) except -1:
        if self.answers is None:
            return 0
        self.response = response
        self.answers._flush()
        return self._wait() if self.answers is not None and not self.writing else 0

    cdef int released(self, object request) except -1:
        return 0

    cdef bint _ready(self) noexcept:
        if self.generation is not None and self.problem is None:
            return self.generation.over or (
                self.call == CALL_STREAM and (self.generation.n_ready > 0 or self.n_taken > 0)
            )
        return (self.response is not None or self.problem is not None) and not self.working

    cdef bint _streams(self) noexcept:
        return self.call == CALL_STREAM and self.problem is None and self.generation.refusal is None

    cdef ResponseSink _sink(self):
        return self if self.generation is None else self.generation

    cdef int _accepted(self, InferRequest request, int64_t began_ns) except -1:
        if self.generation is None:
            self.request = request
        else:
            self.generation.request = request
            self.request_id = request.id
        self.received_ns = request.received_ns
        if request.trace is not None:
            self.trace = request.trace
            self.trace.note("HTTP_RECV_START", began_ns)
            self.trace.note("HTTP_RECV_END", request.received_ns)
        return 0

    # What takes longer than the loop has for one client goes to another thread.
    cdef int _start(self, object work, object done) except -1:
        self.working = True
        work.add_done_callback(done)
        return 0

    def decoded(self, work):
        """The request is decoded; on the loop thread again."""
        cdef InferRequest request = None
        self.working = False
        self.hub.server.release(self.held_nbytes)
        self.hub = None
        if self.answers is None:
            return
        try:
            request = work.result()
            if self.forwarded:
                forward(request, self.forwarded)
            if self.fields is not None:
                request.trace_parent, self.fields = self.fields, None
            self.answers.hub.server.submit_request(request, self._sink())
            self._accepted(request, self.began_ns)
            return
        except ServerError as problem:
            self.problem = (http_status(problem.code), problem.message)
        except Exception:
            log.exception("HTTP handler failed")
            self.problem = FAILED
        self.request_id = None if request is None else request.id
        self.answers._flush()

    def encoded_elsewhere(self, work):
        """The body is encoded, or compressed; on the loop thread again."""
        self.working = False
        try:
            self.encoded, self.compressed = work.result()
        except ServerError as problem:
            self.response = None
            self.problem = (http_status(problem.code), problem.message)
        except Exception:
            log.exception("encoding a response failed")
            self.response = None
            self.problem = FAILED
        if self.answers is not None:
            self.answers._flush()

    # The response has to wait: for those before it, or for the socket.
    cdef int _wait(self) except -1:
        cdef Tensor tensor
        if self.generation is not None:
            self.waiting_nbytes += self.generation.unsent_nbytes
        else:
            for tensor in self.response.outputs:
                self.waiting_nbytes += tensor.nbytes
        return self.answers._note_unsent(self.waiting_nbytes)


# On another thread: what `encode_infer` returns, and its body compressed, or None where that is not worth it.
def _encode(request, response, signature, int coding):
    encoded = encode_long(request, response, signature)
    parts = (encoded[0], *encoded[1])
    if may_code(coding, sum(map(_nbytes, parts))) and worth_coding(coding, list(parts)):
        return _compress(encoded, coding)
    return encoded, None


def _compress(encoded, int coding):
    return encoded, deflate(NAMES[coding & ~CODING_REQUIRED], (encoded[0], *encoded[1]))


def _nbytes(part):
    return memoryview(part).nbytes


# The model that was asked, for logs; "?" when it is not known.
cdef str _model(Exchange exchange):
    if exchange.request is not None:
        return exchange.request.model_name
    return "?" if exchange.signature is None else exchange.signature.model_name


cdef str _id(Exchange exchange):
    if exchange.request is not None:
        return exchange.request.id
    return exchange.request_id or ""


cdef int64_t _body_nbytes(object data) except -1:
    cdef bytes head = data if type(data) is bytes else bytes(data[0])
    cdef int64_t nbytes = -head.find(b"\r\n\r\n") - 4
    for part in ([data] if type(data) is bytes else data):
        nbytes += _nbytes(part)
    return nbytes


cdef class Answers(Receiver):
    """The part of a connection that writes."""

    cdef Exchange _enqueue(self, ModelSignature signature):
        cdef Exchange exchange = Exchange.__new__(Exchange)
        exchange.answers = self
        exchange.signature = signature
        exchange.version = -1
        if self.last is None:
            self.first = exchange
        else:
            self.last.next = exchange
        self.last = exchange
        self.in_flight += 1
        return exchange

    cdef int _after_write(self) except -1:
        return self._end() if self.state == CONNECTION_LAST and self.in_flight == 0 else 0

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
            if exchange.generation is not None:
                exchange.generation.exchange = None
                exchange.generation.end()
                exchange.generation = None
            if exchange.response is None and exchange.request is not None:
                self.hub.server.cancel_request(exchange.request)
            exchange.request = None
            exchange.response = exchange.rest = None
            exchange.trace = None
            exchange = exchange.next
        return 0

    # Writes the responses whose turn it is.
    cdef int _flush(self) except -1:
        cdef Exchange exchange = self.first
        cdef object data
        if exchange is None or self.gone or exchange.writing:
            return 0
        while exchange is not None and not self.write_paused and exchange._ready():
            if exchange._streams():
                if not self._write_events(exchange):
                    return 0
            else:
                data = self._reply(exchange)
                if data is None:
                    break
                if access.on:
                    exchange.status = int(data[9:12] if type(data) is bytes else bytes(data[0][9:12]))
                    self._note(exchange, _body_nbytes(data))
                self._write(exchange, data)
                if exchange.writing:
                    return 0
            self._forget_first()
            exchange = self.first
        return self._after_write()

    cdef int _generated(self, Exchange exchange) except -1:
        if exchange.generation.over:
            self._flush()
            if (
                exchange.answers is not None and not exchange.writing and exchange.call != CALL_STREAM
                and not exchange.waiting_nbytes
            ):
                exchange._wait()
        elif exchange is self.first and not self.write_paused and not self.flush_scheduled:
            # What else comes in this turn leaves with it.
            self.flush_scheduled = True
            self.hub.server.reactor.turn.call_late(self.flush)
        return 0

    def flush(self):
        """Writes what has come in this turn of the loop."""
        self.flush_scheduled = False
        self._flush()

    cdef bint _write_events(self, Exchange exchange) except -1:
        return True

    cdef int _forget_first(self) except -1:
        cdef Exchange exchange = self.first
        if exchange is None:
            return 0  # the connection was lost meanwhile
        self.first = exchange.next
        if self.first is None:
            self.last = None
        self.in_flight -= 1
        exchange.answers = None
        if exchange.generation is not None:
            exchange.generation.exchange = None
            exchange.generation = None
        return 0

    cdef int _note(self, Exchange exchange, int64_t nbytes) except -1:
        version = "" if exchange.version == -1 else f"/versions/{exchange.version}"
        path = f"/v2/models/{_model(exchange)}{version}/{CALLS[exchange.call]}"
        access.note(self.transport.get_extra_info("peername"), f"POST {path}", exchange.status, nbytes,
                    exchange.received_ns or ta_now_ns(), request_id=_id(exchange))
        return 0

    # The error that is the answer, which the log has too when it is verbose.
    cdef object _failed(self, Exchange exchange, int status, str message, bytes tail):
        if log.isEnabledFor(_DEBUG):
            log.debug("%s of model '%s' failed with %d: %s", CALLS[exchange.call], _model(exchange), status,
                      with_id(_id(exchange), message))
        return error_reply(status, message, tail)

    cdef object _reply(self, Exchange exchange):
        cdef bytes tail = self._tail(exchange)
        cdef InferResponse response = exchange.response
        cdef object data
        try:
            if exchange.problem is not None:
                data = self._failed(exchange, exchange.problem[0], exchange.problem[1], tail)
            elif exchange.generation is not None:
                data = self._generated_reply(exchange.generation, exchange, tail)
            elif response.error is not None:
                data = self._failed(exchange, http_status(response.error.code), response.error.message, tail)
            elif exchange.compressed is not None:
                data = packed_reply(exchange.encoded, exchange.coding, exchange.compressed, tail)
            elif exchange.encoded is not None:
                data = general_reply(exchange.encoded, 0, tail)
            else:
                data = infer_reply(exchange.request, response, exchange.signature, exchange.coding, tail,
                                   self.known_reply if exchange.repeats else None)
                if data is None:
                    work = self.hub.loop.run_in_executor(None, _encode, exchange.request, response,
                                                         exchange.signature, exchange.coding)
                    exchange._start(work, exchange.encoded_elsewhere)
                    return None
                if type(data) is tuple:
                    work = self.hub.loop.run_in_executor(None, _compress, data, exchange.coding)
                    exchange._start(work, exchange.encoded_elsewhere)
                    return None
        except ServerError as problem:
            data = self._failed(exchange, http_status(problem.code), problem.message, tail)
        except Exception:
            log.exception("HTTP handler failed")
            data = error_reply(FAILED[0], FAILED[1], tail)
        if exchange.old:
            set_old(data)
        return data

    cdef object _generated_reply(self, Generated generation, Exchange exchange, bytes tail):
        cdef object problem = generation.refusal
        if problem is None:
            problem = generation.failure()
        if problem is not None:
            return self._failed(exchange, http_status(problem.code), problem.message, tail)
        return json_reply(generation.taken(), tail)

    # HTTP/1.0 closes unless the answer says otherwise, HTTP/1.1 the other way round.
    cdef bytes _tail(self, Exchange exchange):
        cdef bint closes = exchange.closes or (
            self.hub.leaving and exchange.next is None and not self.receiving
        )
        if exchange.old:
            return self.hub.tail if closes else self.hub.keeping_tail
        return self.hub.closing_tail if closes else self.hub.tail

    cdef int _write(self, Exchange exchange, object data) except -1:
        self.touched_s = self.hub.now_s
        if exchange.waiting_nbytes:
            self._note_unsent(-exchange.waiting_nbytes)
            exchange.waiting_nbytes = 0
        if exchange.trace is not None:
            exchange.trace.note("HTTP_SEND_START", ta_now_ns())
        if type(data) is bytes:
            if isinstance(self.transport, Transport):
                (<Transport>self.transport).write(data)
            else:
                self.transport.write(data)
        else:
            # What was made of the outputs is sent; they themselves are not needed any more.
            exchange.response = exchange.encoded = exchange.compressed = None
            (<list>data).reverse()
            self._write_some(exchange, data)
        if exchange.trace is not None:
            if exchange.generation is None:
                exchange.trace.note("HTTP_SEND_END", ta_now_ns())
            exchange.trace = None
        return 0

    # Writes from the end of `parts` until the socket takes no more; the rest waits with the exchange.
    cdef int _write_some(self, Exchange exchange, list parts) except -1:
        cdef list some = []
        cdef int64_t nbytes = 0
        while parts and not self.write_paused and not self.gone:
            some.append(parts.pop())
            nbytes += len(some[len(some) - 1])
            if nbytes >= PIECE_NBYTES or not parts:
                self.transport.writelines(some)
                some = []
                nbytes = 0
        exchange.writing = len(parts) > 0
        exchange.rest = parts if parts else None
        self.stalled_s = self.hub.now_s
        nbytes = -exchange.waiting_nbytes
        for part in parts:
            nbytes += len(part)
        exchange.waiting_nbytes += nbytes
        return self._note_unsent(nbytes) if nbytes else 0

    cdef int _go_on(self) except -1:
        cdef Exchange exchange = self.first
        cdef list rest
        if exchange is None or exchange.rest is None or self.gone:
            return 0
        rest = exchange.rest
        self._write_some(exchange, rest)
        if not exchange.writing and not exchange.begun:
            self._forget_first()
            if self.first is None:
                self._after_write()
        return 0

    cdef int _pause(self) except -1:
        self.write_paused = True
        self.stalled_nbytes = self.transport.get_write_buffer_size()
        self.stalled_s = self.hub.now_s
        return self._note_unsent(self.stalled_nbytes)

    cdef int _unpause(self) except -1:
        self.write_paused = False
        self._note_unsent(-self.stalled_nbytes)
        self._go_on()
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

    cdef int _refuse(self, tuple problem) except -1:
        cdef Exchange exchange = self._enqueue(None)
        exchange.problem = problem
        self.unread = True
        self._end_behind(exchange)
        return self._flush()

    cdef int _end_behind(self, Exchange exchange) except -1:
        exchange.closes = True
        self.state = CONNECTION_LAST
        return 0

    # A socket closed with bytes unread takes back what was sent, so who went on sending gets a moment to read.
    cdef int _end(self) except -1:
        if not self.unread or self.half_closed:
            return self._close()
        self.state = CONNECTION_CLOSING
        self.stalled_nbytes = -1
        return self._linger()

    # Whatever comes is dropped, as fast as it comes: a large body, say, that was refused by its head.
    cdef int _linger(self) except -1:
        self.linger(LINGER_TIMES)
        return 0

    def linger(self, int times):
        """Closes, unless something has come since the last time."""
        if self.unread and times and not self.gone and not self.hub.stopping:
            self.unread = False
            self.hub.loop.call_later(LINGER_S, self.linger, times - 1)
        else:
            self.transport.close()

    cdef int _close(self) except -1:
        if self.state < CONNECTION_CLOSING:
            self.state = CONNECTION_CLOSING
            if not self.write_paused:
                self.stalled_nbytes = -1
            self.transport.close()
        return 0

    def abort(self):
        """Closes at once, whatever is in work."""
        if self.transport is not None:
            self._note_unsent(-self.unsent_nbytes)
            self.gone = True
            self.transport.abort()

    def unread_nbytes(self):
        """Bytes of answers that wait for the client."""
        return self.unsent_nbytes
