"""The HTTP express lane: one Connection per socket. Event-loop thread."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t
from libc.string cimport memchr, memcmp

from triton_async.frontends.http.answers cimport Answers, Exchange
from triton_async.frontends.http.handover cimport Handover
from triton_async.frontends.http.held cimport append, drop
from triton_async.frontends.http.hub cimport Hub
from triton_async.frontends.http.intake cimport Intake
from triton_async.infer.request cimport InferRequest
from triton_async.protocol.http_codec cimport decode_infer
from triton_async.protocol.http_head cimport (
    CHUNK_BAD,
    CHUNK_LOST,
    HEAD_CHUNKED,
    HEAD_INFER,
    HEAD_OTHER,
    HEAD_REFUSED,
    find_head_end,
    parse_head,
)
from triton_async.protocol.http_reply cimport error_reply
from triton_async.protocol.http_scan cimport scan_infer

import logging
import socket

from triton_async.defines import (
    HTTP_HELD_NBYTES,
    HTTP_MAX_BODY_NBYTES,
    HTTP_MAX_HEADERS_NBYTES,
    HTTP_MAX_LINE_NBYTES,
    HTTP_MAX_PIPELINED,
)
from triton_async.errors import ServerError
from triton_async.frontends.http.status import http_status

log = logging.getLogger("triton_async.http")

cdef Py_ssize_t HELD_NBYTES = HTTP_HELD_NBYTES
cdef Py_ssize_t MAX_HEAD_NBYTES = HTTP_MAX_HEADERS_NBYTES
# A head of one line's size at most cannot have a line that the full parser finds too long.
cdef Py_ssize_t MAX_PLAIN_NBYTES = HTTP_MAX_LINE_NBYTES
cdef int64_t MAX_BODY_NBYTES = HTTP_MAX_BODY_NBYTES
cdef int MAX_PIPELINED = HTTP_MAX_PIPELINED

# Seconds, and bytes to drop meanwhile, between a refusal and the end of its connection (RFC 9112 9.6).
cdef double LINGER_S = 1.0
cdef Py_ssize_t LINGER_NBYTES = 1 << 16

cdef int64_t _live = 0


@cython.final
cdef class Connection(Answers):
    """One client connection. A BufferedProtocol in all but name: uvloop asks for the methods, not for the base."""

    def __cinit__(self, Hub hub):
        global _live
        _live += 1
        self.hub = hub
        self.intake = Intake(hub)
        self.handover = Handover()

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
        if self.hub.stopping:
            transport.close()

    def get_buffer(self, Py_ssize_t sizehint):
        if self.state == CONNECTION_BODY:
            return memoryview(self.intake.body)[self.intake.at:]
        return self.hub.scratch_view

    def buffer_updated(self, Py_ssize_t nbytes):
        cdef const unsigned char *data = <const unsigned char *>self.hub.scratch
        cdef Py_ssize_t taken
        if self.state >= CONNECTION_CLOSING:
            self.linger_nbytes -= nbytes
            if self.linger_nbytes < 0:
                self.transport.close()
            return
        self.touched_s = self.hub.now_s
        if self.state == CONNECTION_BODY:
            self.intake.at += nbytes
            self._received()
            return
        if self.held.size == 0 and not self._blocked():
            taken = self._consume(data, nbytes)
            data += taken
            nbytes -= taken
            if nbytes and self.state < CONNECTION_CLOSING:
                self._hold(data, nbytes)
        else:
            self._hold(data, nbytes)
            self._consume_held()
        self._update_reading()

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
        return True

    def connection_lost(self, error):
        self.state = CONNECTION_CLOSED
        self._abandon()
        self._take_body()
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
            return self.write_paused or self.in_flight >= MAX_PIPELINED or self.hub.stopping
        if self.state == CONNECTION_RELAY:
            return self.handover.complete()
        return self.state >= CONNECTION_CLOSING

    # Acts on bytes as far as possible; returns how many are done with.
    cdef Py_ssize_t _consume(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t taken
        while at < size and not self._blocked():
            if self.state == CONNECTION_HEAD:
                taken = self._take_head(data + at, size - at)
                if taken == 0 and self.state == CONNECTION_HEAD:
                    break
            elif self.state == CONNECTION_BODY:
                taken = self.intake.take(data + at, size - at)
                self._received()
            else:
                taken = self._relay_bytes(data + at, size - at)
            at += taken
        return at

    def _consume_held(self):
        cdef Py_ssize_t taken
        if self.held.size:
            taken = self._consume(<const unsigned char *>self.held.data, self.held.size)
            self._drop_held(taken)

    # Returns bytes taken; 0 when the head is not complete, or has to wait for earlier responses, or when it was
    # handed over (the state says so).
    cdef Py_ssize_t _take_head(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t end = find_head_end(data, size, &self.seen)
        cdef int kind = HEAD_OTHER
        cdef bint large = end > MAX_HEAD_NBYTES or (end == 0 and size > MAX_HEAD_NBYTES)
        if end == 0 and not large:
            return 0
        self.seen = 0
        if end > 0 and not large:
            kind = parse_head(data, end, &self.head)
            if kind == HEAD_INFER and end <= MAX_PLAIN_NBYTES and self._admit(data):
                return end + self._begin_body(data + end, size - end)
        if self.in_flight:
            # Its answer must not overtake those of earlier requests.
            return 0
        if kind == HEAD_REFUSED:
            return self._refuse(self.head.status, "malformed request")
        if large:
            return self._refuse(414 if memchr(data, c'\n', MAX_PLAIN_NBYTES) == NULL else 431, "request head too large")
        return self._hand_over(kind, end)

    # Whether the request of `self.head` is one to answer here. All that is wrong with a head is for the slow lane
    # to say.
    cdef bint _admit(self, const unsigned char *data) except -1:
        cdef Head *head = &self.head
        cdef const char *name = <const char *>data + head.name_at
        cdef Hub hub = self.hub
        if head.content_length > MAX_BODY_NBYTES or head.header_length > head.content_length:
            return False
        if head.header_length <= 0 and head.content_length > hub.max_input_nbytes:
            return False
        if self.name is None or not _is_text(self.name, name, head.name_length):
            self.name = name[:head.name_length].decode("ascii")
        try:
            model = hub.server.find(self.name, head.version)
        except ServerError:
            return False
        self.signature = model.signature
        self.input_pool = model.input_pool
        return not self.signature.decoupled

    # Makes room for the body and takes what is there of it; returns how much.
    cdef Py_ssize_t _begin_body(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t taken
        try:
            taken = self.intake.begin(self.input_pool, self.head.content_length, max(self.head.header_length, 0),
                                      data, size)
        except MemoryError:
            self._refuse(503, "not enough memory for the request body")
            return size
        self.receiving = True
        self.state = CONNECTION_BODY
        self._received()
        return taken

    cdef int _received(self) except -1:
        if self.intake.complete():
            return self._submit()
        if not self.intake.note():
            return self._refuse(503, "too many request bodies are being received")
        return 0

    cdef Buffer _take_body(self):
        self.receiving = False
        return self.intake.end()

    # The body is complete: builds the request and puts it in line.
    cdef int _submit(self) except -1:
        cdef Exchange exchange = self._enqueue(self.signature)
        cdef InferRequest request = None
        cdef Buffer body = self._take_body()
        cdef int64_t header = self.head.header_length
        cdef int64_t scanned = header if header >= 0 else body.nbytes
        self.state = CONNECTION_HEAD
        try:
            if 0 < scanned <= self.hub.max_input_nbytes:
                request = scan_infer(self.name, self.head.version, self.signature, body, scanned, 0,
                                     self.hub.server.regions)
            if request is None:
                request = decode_infer(self.name, self.head.version, self.signature, body, header,
                                       self.hub.max_input_nbytes, 0, self.hub.server.regions)
            self.hub.server.submit_request(request, exchange)
            exchange.request = request
            return 0
        except ServerError as problem:
            exchange.problem = (http_status(problem.code), problem.message)
        except Exception:
            log.exception("HTTP handler failed")
            exchange.problem = (500, "internal error, see the log of the server")
        return self._flush()

    cdef int _hold(self, const unsigned char *data, Py_ssize_t size) except -1:
        if self.held.size == 0:
            self.head_s = self.hub.now_s
        return append(&self.held, data, size)

    cdef int _drop_held(self, Py_ssize_t count) noexcept:
        drop(&self.held, count)
        if self.held.size and count:
            self.head_s = self.hub.now_s
        return 0

    cdef int _update_reading(self) except -1:
        cdef bint pause = self.relay_paused or self.held.size >= HELD_NBYTES
        if pause == self.read_paused or self.half_closed or self.state >= CONNECTION_CLOSING:
            return 0
        self.read_paused = pause
        if pause:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()
        return 0

    cdef int _schedule_resume(self) except -1:
        if self.held.size and not self.resume_scheduled:
            self.resume_scheduled = True
            self.hub.loop.call_soon(self._resume)
        return 0

    def _resume(self):
        self.resume_scheduled = False
        if self.state < CONNECTION_CLOSING:
            self._consume_held()
            self._update_reading()
            self._end_input()

    cdef int _after_write(self) except -1:
        if self.hub.stopping:
            self.close_if_idle()
        return self._schedule_resume() if self.held.size else self._end_input()

    cdef int _end_input(self) except -1:
        if not self.half_closed or self.state >= CONNECTION_CLOSING:
            return 0
        if self.state == CONNECTION_BODY:
            self._take_body()
            self.state = CONNECTION_HEAD
        if self.state == CONNECTION_RELAY and not self._blocked():
            return self._close()
        if self.state == CONNECTION_HEAD and self.in_flight == 0 and not (self.held.size and self._blocked()):
            return self._close()
        return 0

    # No more is read; what was written still leaves.
    cdef int _close(self) except -1:
        if self.state < CONNECTION_CLOSING:
            self.state = CONNECTION_CLOSING
            if not self.write_paused:
                self.stalled_nbytes = -1
            self.transport.close()
        return 0

    # Answers outside of any request, and closes. A socket closed with bytes unread takes back what was sent, so the
    # client gets a moment to read the answer.
    cdef int _refuse(self, int status, str message) except -1:
        self._take_body()
        if self.in_flight:
            return self._close()
        self.state = CONNECTION_CLOSING
        self.stalled_nbytes = -1
        self.transport.write(error_reply(status, message, self.hub.closing_tail))
        self.linger_nbytes = LINGER_NBYTES
        self.hub.loop.call_later(LINGER_S, self.transport.close)
        return 0

    # -- the slow lane -----------------------------------------------------------------------------

    # Gives the request at the front to the full parser; the bytes follow through `_relay_bytes`.
    cdef Py_ssize_t _hand_over(self, int kind, Py_ssize_t head_nbytes) except -1:
        cdef Handover handover = self.handover
        cdef bint chunked = kind == HEAD_CHUNKED
        if handover.relay is None:
            handover.relay = self.hub.make_relay(self, self.transport)
        handover.begin(head_nbytes if chunked else head_nbytes + self.head.content_length, chunked)
        self.head_s = self.hub.now_s
        self.state = CONNECTION_TUNNEL if kind == HEAD_OTHER else CONNECTION_RELAY
        return 0

    # Gives the full parser what belongs to the request; returns how much that was.
    cdef Py_ssize_t _relay_bytes(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t taken = size
        if self.state == CONNECTION_RELAY:
            taken = self.handover.measure(data, size)
            if self.handover.chunks.state == CHUNK_LOST:
                self.state = CONNECTION_TUNNEL
                taken = size
            elif self.handover.chunks.state == CHUNK_BAD:
                return self._break_relay(size)
        self.handover.relay.feed(PyBytes_FromStringAndSize(<const char *>data, taken))
        self._return_from_relay()
        return taken

    # The body breaks off: nobody gets to see it. The full parser would leave its handler waiting for more.
    cdef Py_ssize_t _break_relay(self, Py_ssize_t size) except -1:
        relay, self.handover.relay = self.handover.relay, None
        relay.lost(None)
        if relay.written:
            self._close()
        else:
            self._refuse(400, "malformed request body")
        return size

    cdef int _return_from_relay(self) except -1:
        if self.state == CONNECTION_RELAY and self.handover.over():
            self.handover.content = None
            self.state = CONNECTION_HEAD
            self.touched_s = self.hub.now_s
            self._after_write()
        return 0

    def relay_started(self):
        """The full parser begins with a request."""
        self.handover.calls += 1
        if self.state != CONNECTION_TUNNEL and (self.state != CONNECTION_RELAY or self.handover.calls > 1):
            # It saw more than one request where we saw one: somebody tries to smuggle.
            self.transport.abort()

    def relay_answered(self, content, bint keep_alive):
        """Its response is written. `content`: body stream of the request; without `keep_alive` it closes next."""
        self.touched_s = self.head_s = self.hub.now_s
        if keep_alive and self.state == CONNECTION_RELAY:
            self.handover.content = content
            self._return_from_relay()

    def relay_closed(self):
        """The full parser closed its transport: that closes the connection unless the express lane uses it."""
        if self.state == CONNECTION_RELAY or self.state == CONNECTION_TUNNEL:
            self._close()
        self.handover.relay = None

    def relay_reading(self, bint paused):
        """The full parser wants bytes, or none for now."""
        self.relay_paused = paused
        self._update_reading()

    # -- stop ------------------------------------------------------------------------------------

    cdef bint _idle(self) noexcept:
        return self.state == CONNECTION_HEAD and self.in_flight == 0

    def close_if_idle(self):
        """Closes now when no request is in work; what was received of a next one is dropped."""
        if self._idle():
            self._close()
        elif self.state == CONNECTION_CLOSING:
            self.transport.close()

    def abort(self):
        """Closes at once, whatever is in work."""
        if self.transport is not None:
            self._note_unsent(-self.unsent_nbytes)
            self.gone = True
            self.transport.abort()

    def unread_nbytes(self):
        """Bytes of answers that wait for the client."""
        return self.unsent_nbytes


cdef inline bint _is_text(str known, const char *text, Py_ssize_t length) except -1:
    cdef Py_ssize_t known_length
    cdef const char *data = PyUnicode_AsUTF8AndSize(known, &known_length)
    return known_length == length and memcmp(data, text, length) == 0


def live_connections():
    """Connection objects alive, for the leak tests."""
    return _live
