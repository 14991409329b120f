"""The HTTP express lane: one Connection per socket. Event-loop thread."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t
from libc.string cimport memchr, memcmp

from triton_async.core.servable cimport Servable
from triton_async.frontends.http.answers cimport (
    CONNECTION_BODY,
    CONNECTION_CLOSED,
    CONNECTION_CLOSING,
    CONNECTION_HEAD,
    CONNECTION_LAST,
    CONNECTION_RELAY,
    Exchange,
    Generated,
)
from triton_async.frontends.http.held cimport append, drop
from triton_async.frontends.http.hub cimport Hub
from triton_async.frontends.http.intake cimport Intake
from triton_async.frontends.http.slow_lane cimport SlowLane
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.request cimport InferRequest
from triton_async.infer.strings cimport has_many_strings
from triton_async.memory.buffer cimport Buffer
from triton_async.protocol.generate cimport decode_generate
from triton_async.protocol.http_codec cimport decode_infer, is_long_json
from triton_async.protocol.http_head cimport (
    CALL_INFER,
    CALL_STREAM,
    HEAD_EMPTY,
    HEAD_INFER,
    HEAD_REFUSED,
    PROBLEM_HEAD_SIZE,
    PROBLEM_LINE_SIZE,
    PROBLEM_SYNTAX,
    Head,
    find_head_end,
    head_problem,
    parse_head,
)
from triton_async.protocol.http_repeat cimport KnownHeader, KnownReply
from triton_async.protocol.http_scan cimport scan_infer

import fcntl
import logging
import socket
import termios

from triton_async.defines import (
    HTTP_HELD_NBYTES,
    HTTP_MAX_BODY_NBYTES,
    HTTP_MAX_HEADERS_NBYTES,
    HTTP_MAX_LINE_NBYTES,
    HTTP_MAX_PIPELINED,
    HTTP_RECEIVE_NBYTES,
    HTTP_REQUESTS_PER_TURN,
)
from triton_async.errors import InvalidArg, ServerError
from triton_async.frontends.entry import forward
from triton_async.frontends.http.replies import CONTINUE, FAILED
from triton_async.frontends.http.status import http_status
from triton_async.protocol.generate import decode_generate as decode_generate_elsewhere
from triton_async.protocol.head_fields import head_fields
from triton_async.protocol.http_codec import decode_long

log = logging.getLogger("triton_async.http")

cdef Py_ssize_t HELD_NBYTES = HTTP_HELD_NBYTES
cdef Py_ssize_t MAX_HEAD_NBYTES = HTTP_MAX_HEADERS_NBYTES
cdef Py_ssize_t MAX_LINE_NBYTES = HTTP_MAX_LINE_NBYTES
cdef int64_t MAX_BODY_NBYTES = HTTP_MAX_BODY_NBYTES
cdef int MAX_PIPELINED = HTTP_MAX_PIPELINED
# Seconds after which a client that sends no more, and waits, is asked for a sign of life.
cdef double PROBE_S = 0.1
cdef Py_ssize_t RECEIVE_NBYTES = HTTP_RECEIVE_NBYTES
cdef int64_t LONG_AGO_S = 1 << 30
cdef int REQUESTS_PER_TURN = HTTP_REQUESTS_PER_TURN

# Kind of a head that is not complete.
cdef enum:
    HEAD_MORE = -1

# Heads up to this size are kept, to know them when they come again.
cdef Py_ssize_t KNOWN_NBYTES = 1024

# Bytes behind the last request that are read, only to be dropped, while that has no answer yet.
cdef Py_ssize_t LINGER_NBYTES = 1 << 16

cdef int64_t _live = 0


@cython.final
cdef class Connection(SlowLane):
    """One client connection."""

    def __cinit__(self, Hub hub):
        global _live
        _live += 1
        self.hub = hub
        self.intake = Intake(hub)
        self.linger_nbytes = LINGER_NBYTES
        self.left = REQUESTS_PER_TURN

    def __dealloc__(self):
        global _live
        _live -= 1
        drop(&self.held, self.held.size)

    # -- what the event loop calls -----------------------------------------------------------------

    def connection_made(self, transport):
        self.transport = transport
        self.touched_s = self.hub.now_s
        self.hub.connections.add(self)
        plain = transport.get_extra_info("socket")
        if plain is not None and plain.family != socket.AF_UNIX:
            # Finds out about clients that vanished without a word.
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self.hub.stopping or len(self.hub.connections) > self.hub.max_connections:
            transport.close()

    cdef Py_ssize_t make_room(self, unsigned char **at) except -1:
        if self.state == CONNECTION_BODY and not self.intake.chunked:
            at[0] = <unsigned char *>self.intake.body.data + self.intake.at
            return self.intake.body.nbytes - self.intake.at
        at[0] = <unsigned char *>self.hub.scratch
        return RECEIVE_NBYTES

    cdef int take_bytes(self, Py_ssize_t nbytes) except -1:
        cdef const unsigned char *data = <const unsigned char *>self.hub.scratch
        cdef Py_ssize_t taken
        if self.state >= CONNECTION_LAST:
            return self._drop(nbytes)
        self.touched_s = self.hub.now_s
        try:
            if self.state == CONNECTION_BODY and not self.intake.chunked:
                self.intake.at += nbytes
                self._received()
                return 0
            if self.held.size == 0 and not self._blocked():
                taken = self._consume(data, nbytes)
                if taken < nbytes:
                    self._hold(data + taken, nbytes - taken)
            else:
                self._hold(data, nbytes)
                self._consume_held()
            self._update_reading()
        except Exception:
            self._break_off()
        return 0

    # What goes wrong here is no client's doing. Where the next request begins nobody knows.
    def _break_off(self):
        log.exception("HTTP connection failed")
        if self.transport is None:
            return
        if self.state == CONNECTION_RELAY or self.state >= CONNECTION_LAST:
            self.transport.abort()
            return
        self._give_up_body()
        self._refuse(FAILED)

    def eof_received(self):
        """The client sends no more. True: it may still read the answers to what it has sent completely.

        A client that closed its socket looks the same until something is written to it: see deadlines.check.
        """
        if self.state >= CONNECTION_CLOSING:
            return False
        self.half_closed = True
        self.touched_s = self.hub.now_s
        if self.held.size:
            self._schedule_resume()
        else:
            self._end_input()
        if self.state < CONNECTION_CLOSING:
            # What is answered by then needs no question.
            self.hub.loop.call_later(PROBE_S, self._ask_for_life)
        return True

    def _ask_for_life(self):
        self.touched_s = -LONG_AGO_S
        self.hub.check(self)

    def connection_lost(self, error):
        self.state = CONNECTION_CLOSED
        self._abandon()
        self.intake.end()
        self.input_pool = None
        self._drop_held(self.held.size)
        if self.handover.relay is not None:
            self.handover.relay.lost(error)
            self.handover.relay = None
        self.handover.content = None
        self.transport = None
        self.hub.connections.discard(self)
        if not self.hub.connections:
            self.hub.on_empty()

    def pause_writing(self):
        if self.handover.relay is not None:
            self.handover.relay.pause_writing()
        self._pause()

    def resume_writing(self):
        if self.handover.relay is not None:
            self.handover.relay.resume_writing()
        self._unpause()
        self._schedule_resume()

    # -- reading -----------------------------------------------------------------------------------

    # Whether bytes have to wait, other than for the rest of a head.
    cdef bint _blocked(self) noexcept:
        if self.state == CONNECTION_HEAD:
            return self.left == 0 or self.write_paused or self.in_flight >= MAX_PIPELINED or (
                self.hub.stopping and not self.last_chance
            ) or (self.last is not None and self.last.call == CALL_STREAM)
        return self.state == CONNECTION_RELAY and self.handover.complete()

    # Acts on bytes as far as possible; returns how many are done with.
    cdef Py_ssize_t _consume(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t taken
        while at < size and not self._blocked():
            if self.state == CONNECTION_HEAD:
                taken = self._take_head(data + at, size - at)
                if taken == 0:
                    break
            elif self.state == CONNECTION_BODY:
                taken = self.intake.take(data + at, size - at)
                self._received()
            elif self.state == CONNECTION_RELAY:
                taken = self._relay_bytes(b"", data + at, size - at)
            else:
                taken = size - at
                self._drop(taken)
            at += taken
        return at

    def _consume_held(self):
        cdef Py_ssize_t taken
        if self.held.size:
            taken = self._consume(<const unsigned char *>self.held.data, self.held.size)
            self._drop_held(taken)

    # Kind of the head at the front, which ends at `end`.
    cdef int _parse(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t *end) noexcept:
        cdef int kind
        if self.head_text is not None and self.seen == 0 and size >= len(self.head_text) and (
            memcmp(data, PyBytes_AS_STRING(self.head_text), len(self.head_text)) == 0
        ):
            end[0] = len(self.head_text)
            return HEAD_INFER
        end[0] = find_head_end(data, size, &self.seen)
        if end[0] == 0 and size <= MAX_HEAD_NBYTES:
            return HEAD_MORE
        self.seen = 0
        self.head_text = None
        if 0 < end[0] <= MAX_HEAD_NBYTES:
            kind = parse_head(data, end[0], &self.head)
            if kind == HEAD_INFER and end[0] <= KNOWN_NBYTES:
                self.head_text = PyBytes_FromStringAndSize(<const char *>data, end[0])
            return kind
        self.head.problem = PROBLEM_SYNTAX
        if end[0] >= 0:
            self.head.problem = PROBLEM_HEAD_SIZE
            if memchr(data, c'\n', MAX_LINE_NBYTES) == NULL:
                self.head.problem = PROBLEM_LINE_SIZE
        return HEAD_REFUSED

    # Returns bytes taken; 0 when the head is not complete, or has to wait for earlier responses.
    cdef Py_ssize_t _take_head(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t end
        cdef int kind = self._parse(data, size, &end)
        if kind == HEAD_MORE:
            return 0
        self.last_chance = False
        self.left -= 1
        if self.left == 0:
            self._call_next()
        if kind == HEAD_EMPTY and not self.blank:
            self.blank = True
            return end
        if kind == HEAD_EMPTY:
            self.head.problem = PROBLEM_SYNTAX
            kind = HEAD_REFUSED
        if kind == HEAD_REFUSED:
            self._refuse(head_problem(self.head.problem))
            return size
        # Neither 100 Continue nor an answer of the full parser may overtake the answers to earlier requests; and a
        # stream behind them would hold its model's instance, whom they may be waiting for, before it can be written.
        if kind == HEAD_INFER and not (self.in_flight and self._alone()) and self._admit(data, end):
            self.blank = False
            if self.hub.server.tracing is not None:
                self._note_head(data, end)
            return end + self._begin_body(data + end, size - end)
        if self.in_flight:
            return 0
        self.blank = False
        return self._hand_over(data, end, size)

    cdef bint _alone(self) noexcept:
        return self.head.expects or self.head.call == CALL_STREAM

    cdef int _note_head(self, const unsigned char *data, Py_ssize_t size) except -1:
        self.began_ns = ta_now_ns()
        self.fields = head_fields(data[:size]) if self.hub.server.reads_context else None
        return 0

    # Bytes of a body that may be received here.
    cdef int64_t _body_limit(self) noexcept:
        return MAX_BODY_NBYTES if self.head.header_length > 0 else min(self.hub.max_input_nbytes, MAX_BODY_NBYTES)

    # Whether the request of `self.head` is one to answer here. All that is wrong with it is for the slow lane to say.
    cdef bint _admit(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Head *head = &self.head
        cdef const char *name = <const char *>data + head.name_at
        cdef Hub hub = self.hub
        if not self.hub.infers or not head.chunked and (
            head.content_length > self._body_limit() or head.header_length > head.content_length
        ):
            return False
        if hub.entry is not None and not self._enter(data, size):
            return False
        if self.name is None or not _is_text(self.name, name, head.name_length):
            self.name = name[:head.name_length].decode("ascii")
        try:
            self.model = hub.server.find(self.name, head.version)
        except Exception:
            return False
        self.signature = self.model.signature
        self.input_pool = self.model.input_pool
        return head.call != CALL_INFER or not self.signature.decoupled

    cdef bint _enter(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef object entry = self.hub.entry
        cdef object generation = entry.generation
        if self.head_text is not None and self.head_text is self.entered and generation == self.entered_at:
            return True
        self.forwarded = entry.admit(head_fields(data[:size]))
        self.entered = None if self.forwarded is None else self.head_text
        self.entered_at = generation
        return self.forwarded is not None

    # Makes room for the body and takes what is there of it; returns how much.
    cdef Py_ssize_t _begin_body(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef int64_t header_nbytes = max(self.head.header_length, 0)
        cdef Py_ssize_t taken
        if self.head.chunked:
            self.intake.begin_chunks(self.input_pool, header_nbytes, self._body_limit())
        else:
            self.intake.begin(self.input_pool, self.head.content_length, header_nbytes)
        taken = self.intake.take(data, size)
        self.receiving = True
        self.state = CONNECTION_BODY
        self._received()
        if self.head.expects and self.state == CONNECTION_BODY:
            self.transport.write(CONTINUE)
        return taken

    cdef int _received(self) except -1:
        if self.intake.complete():
            return self._submit()
        self.intake.note()
        if self.intake.problem is None:
            return 0
        self._give_up_body()
        return self._refuse(self.intake.problem)

    cdef int _give_up_body(self) except -1:
        self.receiving = False
        self.intake.end()
        return 0

    # The body is complete: builds the request and puts it in line.
    cdef int _submit(self) except -1:
        cdef Exchange exchange = self._enqueue(self.signature)
        cdef InferRequest request = None
        cdef Buffer body = self.intake.end()
        cdef Servable model = self.model
        self.model = None
        exchange.old = self.head.old
        exchange.coding = self.head.coding
        exchange.version = self.head.version
        exchange.call = self.head.call
        if exchange.call != CALL_INFER:
            exchange.generation = Generated(self.hub.server, self.signature.decoupled, exchange.call == CALL_STREAM)
            exchange.generation.exchange = exchange
        self.receiving = False
        self.state = CONNECTION_HEAD
        if self.head.closes:
            self._end_behind(exchange)
        try:
            if is_long_json(self.head.header_length if self.head.header_length >= 0 else body.nbytes):
                return self._submit_later(exchange, body)
            request = self._decode(exchange, body)
            if has_many_strings(request):
                return self._look_elsewhere(exchange, body.nbytes, self.signature.validated, request)
            if self.forwarded:
                forward(request, self.forwarded)
            if self.fields is not None:
                request.trace_parent, self.fields = self.fields, None
            self.hub.server.submit_request(request, exchange._sink(), model)
            exchange._accepted(request, self.began_ns)
            if exchange.scanned and not exchange.repeats:
                self._learn(request, body)
            return 0
        except ServerError as problem:
            exchange.problem = (http_status(problem.code), problem.message)
        except Exception:
            log.exception("HTTP handler failed")
            exchange.problem = FAILED
        exchange.request_id = None if request is None else request.id
        return self._flush()

    # The same for JSON that takes long to read: another thread does, and the exchange goes on from there.
    cdef int _submit_later(self, Exchange exchange, Buffer body) except -1:
        cdef int64_t header = self.head.header_length if self.head.header_length >= 0 else body.nbytes
        if header > body.nbytes:
            raise InvalidArg(f"inference header size should be in range (0, {body.nbytes}), got: {header}")
        if exchange.generation is not None:
            return self._look_elsewhere(
                exchange, body.nbytes, decode_generate_elsewhere, self.name, self.head.version, self.signature, body,
                self.hub.max_input_nbytes, ta_now_ns(),
            )
        return self._look_elsewhere(
            exchange, body.nbytes, decode_long, self.name, self.head.version, self.signature, body, header,
            self.hub.max_input_nbytes, ta_now_ns(), self.hub.server.regions,
        )

    # Has another thread make, or check, the request of `nbytes` bytes.
    def _look_elsewhere(self, Exchange exchange, int64_t nbytes, *call):
        self.hub.server.hold(nbytes)
        exchange.held_nbytes = nbytes
        work = self.hub.loop.run_in_executor(None, *call)
        exchange.fields, self.fields = self.fields, None
        exchange.forwarded = self.forwarded
        exchange.began_ns = self.began_ns
        exchange.hub = self.hub
        return exchange._start(work, exchange.decoded)

    cdef InferRequest _decode(self, Exchange exchange, Buffer body):
        cdef InferRequest request = None
        cdef int64_t header = self.head.header_length if self.head.header_length >= 0 else body.nbytes
        if exchange.generation is not None:
            return decode_generate(self.name, self.head.version, self.signature, body, self.hub.max_input_nbytes, 0)
        if header > body.nbytes:
            raise InvalidArg(f"inference header size should be in range (0, {body.nbytes}), got: {header}")
        if 0 < header <= self.hub.max_input_nbytes:
            if self.known_header is not None:
                request = self.known_header.again(self.head.version, self.signature, body, header)
            exchange.repeats = request is not None
            if request is None:
                request = scan_infer(self.name, self.head.version, self.signature, body, header, 0,
                                     self.hub.server.regions)
        if request is None:
            return decode_infer(self.name, self.head.version, self.signature, body, header,
                                self.hub.max_input_nbytes, 0, self.hub.server.regions)
        exchange.scanned = True
        return request

    cdef int _learn(self, InferRequest request, Buffer body) except -1:
        cdef int64_t header = self.head.header_length if self.head.header_length >= 0 else body.nbytes
        if self.known_header is None:
            self.known_header = KnownHeader.__new__(KnownHeader)
            self.known_reply = KnownReply.__new__(KnownReply)
        return self.known_header.learn(request, self.signature, body, header)

    cdef int _hold(self, const unsigned char *data, Py_ssize_t size) except -1:
        if self.held.size == 0:
            self.head_s = self.hub.now_s
        return append(&self.held, data, size)

    cdef int _drop_held(self, Py_ssize_t count) noexcept:
        drop(&self.held, count)
        if self.held.size and count:
            self.head_s = self.hub.now_s
        return 0

    cdef Py_ssize_t _behind(self) noexcept:
        return self.held.size

    cdef int _drop(self, Py_ssize_t count) except -1:
        self.unread = True
        self.linger_nbytes -= count
        return self._update_reading()

    cdef int _linger(self) except -1:
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        return SlowLane._linger(self)

    cdef int _update_reading(self) except -1:
        cdef bint pause = self.relay_paused or self.linger_nbytes < 0 or (
            self.held.size and (self.left == 0 or self.held.size >= HELD_NBYTES)
        )
        if pause == self.read_paused or self.half_closed or self.state >= CONNECTION_CLOSING:
            return 0
        self.read_paused = pause
        if pause:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()
        return 0

    cdef int _schedule_resume(self) except -1:
        return self._call_next() if self.held.size else 0

    cdef int _call_next(self) except -1:
        if not self.resume_scheduled:
            self.resume_scheduled = True
            self.hub.server.reactor.turn.call_next(self._resume)
        return 0

    def _resume(self):
        self.resume_scheduled = False
        self.left = REQUESTS_PER_TURN
        try:
            if self.state < CONNECTION_LAST:
                self._consume_held()
                self._end_input()
            self._update_reading()
        except Exception:
            self._break_off()

    cdef int _after_write(self) except -1:
        if self.state == CONNECTION_LAST:
            return SlowLane._after_write(self)
        if self.hub.leaving:
            self.close_if_idle()
        return self._schedule_resume() if self.held.size else self._end_input()

    # -- the end -----------------------------------------------------------------------------------

    cdef int _end_input(self) except -1:
        if not self.half_closed or self.state >= CONNECTION_LAST:
            return 0
        if self.state == CONNECTION_BODY:
            self._give_up_body()
            self.state = CONNECTION_HEAD
        if self.state == CONNECTION_RELAY and not self._blocked():
            return self._close()
        if self.state == CONNECTION_HEAD and self.in_flight == 0 and not (self.held.size and self._blocked()):
            return self._close()
        return 0

    cdef bint _idle(self) noexcept:
        return self.state == CONNECTION_HEAD and self.in_flight == 0

    def close_if_idle(self):
        """Closes now when no request is in work; what was received of a next one is dropped. Not when one waits in the
        socket: that is still answered."""
        if self._idle() and not self.last_chance:
            self.last_chance = _waits(self.transport)
            if not self.last_chance:
                self._close()
        elif self.state == CONNECTION_CLOSING:
            self.transport.close()

    def end_last_chance(self):
        """The server stops: a request that has not come whole never will."""
        self.last_chance = False
        if self._idle():
            self._close()


# Whether the socket has bytes that were not read.
cdef bint _waits(transport) except -1:
    plain = transport.get_extra_info("socket")
    if plain is None or plain.fileno() < 0:
        return False
    return int.from_bytes(fcntl.ioctl(plain.fileno(), termios.FIONREAD, bytes(4)), "little") > 0


cdef inline bint _is_text(str known, const char *text, Py_ssize_t length) except -1:
    cdef Py_ssize_t known_length
    cdef const char *data = PyUnicode_AsUTF8AndSize(known, &known_length)
    return known_length == length and memcmp(data, text, length) == 0


def live_connections():
    """Connection objects alive, for the leak tests."""
    return _live
