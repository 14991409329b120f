"""TLS on top of a socket's transport: handshake, records, back-pressure both ways, an orderly end. Loop thread.

The TLS of asyncio and of uvloop costs no more CPU, but memory that clients decide about: each connection has its own
256 KiB to receive into, and an answer is encrypted, which is a copy of it, as soon as it is written, however slowly its
client reads. Here the connections of a listener share what they receive into, and an answer stays what it is until
there is room in the socket; so the bounds on unread answers count what is really held (bench/results/micro-tls.md).
"""

cimport cython

import logging
import ssl
from collections import deque

from triton_async.defines import (
    TLS_HANDSHAKE_TIMEOUT_S,
    TLS_MAX_CONTROL_NBYTES,
    TLS_RECEIVE_NBYTES,
    TLS_RECORD_NBYTES,
    TLS_WRITE_NBYTES,
)

log = logging.getLogger("triton_async.tls")

cdef Py_ssize_t RECORD_NBYTES = TLS_RECORD_NBYTES
cdef Py_ssize_t WRITE_NBYTES = TLS_WRITE_NBYTES
cdef Py_ssize_t MAX_CONTROL_NBYTES = TLS_MAX_CONTROL_NBYTES

_WantRead = ssl.SSLWantReadError


@cython.final
cdef class TlsFactory:
    """Serves the protocols of `make_protocol` inside TLS."""

    def __init__(self, context, make_protocol, loop, required_alpn=None):
        self.context = context
        self.make_protocol = make_protocol
        self.loop = loop
        self.required_alpn = required_alpn
        self.received = memoryview(bytearray(TLS_RECEIVE_NBYTES))

    def __call__(self):
        return TlsTransport(self)


@cython.final
cdef class TlsTransport:
    """One connection. Not an asyncio.Transport by type: nobody asks, and extension types cannot be one."""

    def __cinit__(self, TlsFactory factory):
        self.factory = factory
        self.state = TLS_HANDSHAKE
        self.reading = True
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.backlog = deque()

    # -- protocol: called by the transport below ---------------------------------------------------

    def connection_made(self, transport):
        self.below = transport
        self.tls = self.factory.context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.timer = self.factory.loop.call_later(TLS_HANDSHAKE_TIMEOUT_S, self._on_handshake_timeout)

    def get_buffer(self, sizehint):
        return self.factory.received

    def buffer_updated(self, Py_ssize_t nbytes):
        if self.state >= TLS_FLUSHING:
            return
        self.incoming.write(self.factory.received[:nbytes])
        if self.state == TLS_HANDSHAKE:
            self._handshake()
        self._deliver()

    def eof_received(self):
        # Cut off without a close_notify: to both protocols above just a client that is gone, no end of a message.
        if self.state == TLS_HANDSHAKE:
            self._fail("the client went away")
        elif self.state == TLS_OPEN:
            self.above.eof_received()
            self.close()
        # The transport below is closed by us when it has all that it is to send.
        return True

    def connection_lost(self, error):
        above, served = self.above, self.served
        self.state = TLS_CLOSED
        self._stop_timer()
        self.backlog.clear()
        self.backlog_nbytes = 0
        # The protocol keeps its transport: not to be a cycle.
        self.below = self.above = self.tls = None
        self.served = False
        if served:
            above.connection_lost(error)

    def pause_writing(self):
        self.below_paused = True
        if self.served and not self.above_paused:
            self.above_paused = True
            self.above.pause_writing()

    def resume_writing(self):
        self.below_paused = False
        self._pump()
        if self.above_paused and not self.below_paused and self.served:
            self.above_paused = False
            self.above.resume_writing()

    # -- transport: called by the protocol above ---------------------------------------------------

    def write(self, data):
        self._put(data)
        self._pump()

    def writelines(self, parts):
        cdef list items = list(parts)
        cdef Py_ssize_t nbytes = 0
        for part in items:
            nbytes += memoryview(part).nbytes
        if nbytes <= RECORD_NBYTES:
            # One record instead of several.
            self._put(b"".join(items))
        else:
            for part in items:
                self._put(part)
        self._pump()

    def close(self):
        """Sends what was written, then ends. The client need not answer."""
        if self.state == TLS_OPEN:
            self.state = TLS_FLUSHING
            if self.reading:
                self.reading = False
                self.below.pause_reading()
            self._pump()
        elif self.state == TLS_HANDSHAKE:
            self.abort()

    def abort(self):
        """Ends now."""
        if self.below is not None:
            self.state = TLS_CLOSED
            self.below.abort()

    def is_closing(self):
        return self.state >= TLS_FLUSHING or self.below.is_closing()

    def is_reading(self):
        return self.reading and not self.is_closing()

    def pause_reading(self):
        if self.reading and self.state == TLS_OPEN:
            self.reading = False
            self.below.pause_reading()

    def resume_reading(self):
        if not self.reading and self.state == TLS_OPEN:
            self.reading = True
            self.below.resume_reading()
            # What came before the pause is here already, and nothing below will bring it up.
            self.factory.loop.call_soon(self._deliver_rest)

    def get_write_buffer_size(self):
        below = 0 if self.below is None else self.below.get_write_buffer_size()
        return self.backlog_nbytes + <Py_ssize_t>self.outgoing.pending + below

    def get_write_buffer_limits(self):
        return (0, 0) if self.below is None else self.below.get_write_buffer_limits()

    def set_write_buffer_limits(self, high=None, low=None):
        if self.below is not None:
            self.below.set_write_buffer_limits(high, low)

    def can_write_eof(self):
        return False

    def get_extra_info(self, name, default=None):
        if name == "sslcontext":
            return self.factory.context
        if name == "ssl_object":
            return default if self.tls is None else self.tls
        return default if self.below is None else self.below.get_extra_info(name, default)

    # -- reading -----------------------------------------------------------------------------------

    cdef int _handshake(self) except -1:
        try:
            self.tls.do_handshake()
        except _WantRead:
            return self._send()
        except ssl.SSLError as error:
            return self._fail(error)
        self._stop_timer()
        required = self.factory.required_alpn
        if required is not None and self.tls.selected_alpn_protocol() != required:
            return self._fail(f"the client does not offer {required}")
        self.state = TLS_OPEN
        self.above = self.factory.make_protocol()
        self.buffered = hasattr(self.above, "get_buffer")
        self._send()
        self.served = True
        self.above.connection_made(self)
        return 0

    cdef bint _has_input(self) except -1:
        # Asking is far cheaper than the exception of a read without bytes.
        return <Py_ssize_t>self.incoming.pending > 0 or <Py_ssize_t>self.tls.pending() > 0

    cdef int _deliver(self) except -1:
        cdef Py_ssize_t count
        while self.state == TLS_OPEN and self.reading and self._has_input():
            if self.buffered:
                count = self._read_into(self.above.get_buffer(-1))
                if count:
                    self.above.buffer_updated(count)
            else:
                data = bytearray(RECORD_NBYTES)
                count = self._read_into(memoryview(data))
                if count:
                    self.above.data_received(bytes(data[:count]))
            if self.input_end != INPUT_MORE:
                break
        if self.state != TLS_OPEN:
            return 0
        if self.input_end == INPUT_BROKEN:
            return self._fail(self.failure)
        if self.input_end == INPUT_CLOSED:
            self.above.eof_received()
            self.close()
            return 0
        return self._answer_control()

    # Fills the view as far as there are whole records; returns how far. `input_end` says what stopped it.
    cdef Py_ssize_t _read_into(self, object view) except -1:
        cdef Py_ssize_t filled = 0
        cdef Py_ssize_t size = len(view)
        cdef Py_ssize_t count
        self.input_end = INPUT_MORE
        while filled < size and self._has_input():
            try:
                count = self.tls.read(size - filled, view[filled:])
            except _WantRead:
                self.input_end = INPUT_PARTIAL
                break
            except ssl.SSLError as error:
                self.failure = str(error)
                self.input_end = INPUT_BROKEN
                break
            if count == 0:
                self.input_end = INPUT_CLOSED
                break
            filled += count
        return filled

    # Reading makes OpenSSL write too: answers to key updates.
    cdef int _answer_control(self) except -1:
        if not self.below_paused:
            self._send()
        elif <Py_ssize_t>self.outgoing.pending > MAX_CONTROL_NBYTES:
            log.debug("closing a TLS connection that asks and does not read")
            self.abort()
        return 0

    def _deliver_rest(self):
        try:
            self._deliver()
        except Exception:
            log.exception("TLS connection failed")
            self.abort()

    # -- writing -----------------------------------------------------------------------------------

    cdef int _put(self, object data) except -1:
        if self.state != TLS_OPEN:
            return 0
        view = memoryview(data)
        if view.nbytes == 0:
            return 0
        if view.ndim != 1 or view.itemsize != 1:
            view = view.cast("B")
        self.backlog.append(view)
        self.backlog_nbytes += view.nbytes
        return 0

    cdef int _pump(self) except -1:
        try:
            while self.backlog_nbytes and not self.below_paused and self.state != TLS_CLOSED:
                self._encrypt()
                self._send()
        except ssl.SSLError as error:
            return self._fail(error)
        if self.state == TLS_FLUSHING and not self.backlog_nbytes:
            return self._finish()
        return 0

    cdef int _encrypt(self) except -1:
        cdef Py_ssize_t count
        while self.backlog_nbytes and <Py_ssize_t>self.outgoing.pending < WRITE_NBYTES:
            view = self.backlog[0]
            # A call may encrypt all that it is given.
            count = self.tls.write(view[:WRITE_NBYTES])
            if count == len(view):
                self.backlog.popleft()
            else:
                self.backlog[0] = view[count:]
            self.backlog_nbytes -= count
        return 0

    cdef int _send(self) except -1:
        if self.below is not None and <Py_ssize_t>self.outgoing.pending:
            self.below.write(self.outgoing.read())
        return 0

    # -- end ---------------------------------------------------------------------------------------

    def _on_handshake_timeout(self):
        self.timer = None
        if self.state == TLS_HANDSHAKE:
            log.debug("closing a connection that does not finish its TLS handshake")
            self.abort()

    def _stop_timer(self):
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    cdef int _fail(self, object error) except -1:
        log.debug("TLS connection failed: %s", error)
        self.state = TLS_CLOSED
        self.backlog.clear()
        self.backlog_nbytes = 0
        if self.below is None:
            return 0
        if self.below_paused:
            self.below.abort()
        else:
            self._send()
            self.below.close()
        return 0

    cdef int _finish(self) except -1:
        self.state = TLS_CLOSED
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            # Our close_notify is written, the client's has not come, and need not (RFC 8446, 6.1).
            pass
        self._send()
        self.below.close()
        return 0
