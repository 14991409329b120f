"""The slow lane of one connection: requests handed to the full parser, one at a time. Event-loop thread."""

from cpython.bytes cimport PyBytes_FromStringAndSize

from triton_async.frontends.http.answers cimport CONNECTION_HEAD, CONNECTION_RELAY
from triton_async.frontends.http.handover cimport Handover
from triton_async.frontends.http.streams cimport Streams
from triton_async.protocol.http_head cimport without_upgrade


cdef class SlowLane(Streams):
    """What a connection does while the full parser has its request."""

    def __cinit__(self, *_):
        self.handover = Handover()

    cdef Py_ssize_t _hand_over(self, const unsigned char *data, Py_ssize_t end, Py_ssize_t size) except -1:
        cdef Handover handover = self.handover
        cdef bytes head = PyBytes_FromStringAndSize(<const char *>data, end)
        if self.head.upgrades:
            head = without_upgrade(head)
        if handover.relay is None:
            handover.relay = self.hub.make_relay(self, self.transport)
        handover.begin(self.head.content_length, self.head.chunked, self.hub.now_s)
        self.state = CONNECTION_RELAY
        return end + self._relay_bytes(head, data + end, size - end)

    cdef Py_ssize_t _relay_bytes(self, bytes head, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t taken = self.handover.feed(head, data, size)
        cdef tuple problem = self.handover.broken()
        if problem is None:
            self._return_from_relay()
        else:
            self._break_relay(problem)
        return taken

    # The body breaks off: nobody gets to see it. The full parser would leave its handler waiting for more.
    cdef int _break_relay(self, tuple problem) except -1:
        relay, self.handover.relay = self.handover.relay, None
        relay.lost(None)
        self.relay_paused = False
        if relay.written:
            return self._close()
        return self._refuse(problem)

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
        if self.state != CONNECTION_RELAY or self.handover.calls > 1:
            # It saw more than one request where we saw one: somebody tries to smuggle.
            self.transport.abort()

    def relay_answered(self, content, bint keep_alive):
        """Its response is written. `content`: body stream of the request; without `keep_alive` it closes next."""
        self.touched_s = self.hub.now_s
        if keep_alive and self.state == CONNECTION_RELAY:
            self.handover.content = content
            self._return_from_relay()

    def relay_closed(self):
        """The full parser closed its transport: that closes the connection unless the express lane uses it."""
        self.handover.relay = None
        self.relay_reading(False)
        if self.state == CONNECTION_RELAY:
            self.unread = self._behind() > 0 or not self.handover.complete()
            self._end()

    def relay_reading(self, bint paused):
        """The full parser wants bytes, or none for now."""
        self.relay_paused = paused
        self._update_reading()

    cdef int _update_reading(self) except -1:
        return 0

    cdef Py_ssize_t _behind(self) noexcept:
        return 0
