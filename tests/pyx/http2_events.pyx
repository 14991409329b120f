"""An HTTP/2 session that turns everything into event tuples, for tests and tools written in Python. Sans-IO."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from triton_async.protocol.http2 cimport Http2Session, Http2Stream
from triton_async.protocol.http2_output cimport HeaderBlock, OutBuffer


cdef class EventStream(Http2Stream):
    """Events: ("open", id, headers, overflow), ("data", id, bytes), ("end", id), ("sent", id, left), ("close", ...)."""

    cdef public bint auto_consume  # give windows back at once

    cdef int on_open(self) except -1:
        self.watches_progress = True
        self._event(("open", self.id, self.session.head.items(), bool(self.session.head.overflow)))
        return 0

    cdef int on_data(self, const char *data, size_t nbytes) except -1:
        self._event(("data", self.id, data[:nbytes]))
        return self.consume(nbytes) if self.auto_consume else 0

    cdef int on_end(self) except -1:
        self._event(("end", self.id))
        return 0

    cdef int on_progress(self) except -1:
        self._event(("sent", self.id, self.queued_nbytes))
        return 0

    cdef int on_close(self, uint32_t error_code) except -1:
        self._event(("close", self.id, error_code))
        return 0

    @property
    def n_parts(self):
        """Parts that the stream holds a place for."""
        return 0 if self.parts is None else len(self.parts)

    def _event(self, event):
        (<EventSession>self.session).events.append(event)

    def respond(self, head, bint end=False):
        """Sends the response head."""
        self.send_head(HeaderBlock(head), end)

    def send(self, list parts):
        """Queues payload."""
        self.send_parts(parts, sum([len(part) for part in parts]))

    def finish(self, trailers):
        """Ends the answer."""
        self.send_trailers(HeaderBlock(trailers))

    def cancel(self, uint32_t error_code):
        """Sends RST_STREAM."""
        self.reset(error_code)

    def give_back(self, size_t nbytes):
        """Gives received bytes back to the client's windows."""
        self.consume(nbytes)


cdef class EventSession(Http2Session):
    """Further events: ("ping",), ("pong",)."""

    cdef readonly list events      # tuples, in order
    cdef readonly dict opened      # stream id -> EventStream, also of closed ones
    cdef public bint auto_consume
    cdef public bint refuse        # refuse new streams
    cdef public int64_t late_ns    # of new streams

    def __cinit__(self, *args):
        self.events = []
        self.opened = {}
        self.auto_consume = True

    def __init__(self, OutBuffer out=None):
        pass

    cdef Http2Stream open_stream(self, int32_t id):
        cdef EventStream stream
        if self.refuse:
            return None
        stream = EventStream()
        stream.auto_consume = self.auto_consume
        stream.late_ns = self.late_ns
        self.opened[id] = stream
        return stream

    cdef int on_ping(self) except -1:
        self.events.append(("ping",))
        return 0

    cdef int on_pong(self) except -1:
        self.events.append(("pong",))
        return 0

    def feed(self, data, int64_t now_ns=0):
        """Bytes from the client."""
        cdef bytes received = bytes(data)
        self.receive(<const uint8_t *>PyBytes_AS_STRING(received), len(received), now_ns)

    def output(self, int64_t limit=1 << 62, int64_t now_ns=0):
        """Parts to be sent."""
        return self.collect(limit, now_ns)

    def finished(self):
        return self.is_finished()

    def say_ping(self):
        self.ping()

    def say_shutdown(self):
        self.announce_shutdown()

    def say_goaway(self, uint32_t error_code, bytes text=b"", bint end=False):
        self.goaway(error_code, text, end)

    def shut(self):
        """Closes every stream."""
        self.close()
