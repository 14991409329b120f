"""What the HTTP connections of one listener share: the server, the clock, memory to receive into. Event-loop thread."""

cimport cython
from libc.stdlib cimport free, malloc

from triton_async.memory.buffer cimport Buffer
from triton_async.memory.slab cimport SlabPool
from triton_async.protocol.http_reply cimport reply_tail

from email.utils import formatdate

import logging

from triton_async.defines import HTTP_MAX_UNSENT_NBYTES, HTTP_RECEIVE_NBYTES, INPUT_POOL_NBYTES, SLAB_ALIGNMENT

log = logging.getLogger("triton_async.http")

cdef Py_ssize_t RECEIVE_NBYTES = HTTP_RECEIVE_NBYTES
cdef int64_t LARGE_NBYTES = INPUT_POOL_NBYTES

# Seconds for a request to come whole, the first bytes of which were in the socket when the server stopped.
cdef double LAST_CHANCE_S = 1.0

cdef Py_ssize_t NO_LIMIT = 1 << 40

# Engines read tensors faster, and some only, from aligned addresses.
cdef int64_t ALIGNMENT = SLAB_ALIGNMENT


@cython.final
cdef class Hub:
    """Shared by the connections of one listener. `make_relay(connection, transport)` connects a full parser.

    `infers`: inference is answered here, and not left to the full parser. `check`: looks at the clocks of one of them
    (deadlines.check). `receiving`: what is known of bodies that are not complete (body.Receiving). `entry`: what is
    asked of infer requests (frontends.entry); None: nothing.
    """

    def __cinit__(self):
        self.scratch = <char *>malloc(RECEIVE_NBYTES)
        if self.scratch == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.scratch)

    def __init__(self, InferenceServer server, SlabPool pool, int64_t max_input_nbytes, loop, make_relay, check,
                 on_empty, receiving, bint infers=True, Py_ssize_t max_connections=NO_LIMIT, entry=None):
        self.server = server
        self.pool = pool
        self.max_input_nbytes = max_input_nbytes
        self.loop = loop
        self.make_relay = make_relay
        self.check = check
        self.on_empty = on_empty
        self.receiving = receiving
        self.max_unsent_nbytes = min(HTTP_MAX_UNSENT_NBYTES, server.share_nbytes)
        self.infers = infers
        self.max_connections = max_connections
        self.entry = entry
        self.connections = set()
        self._set_date()

    def _set_date(self):
        date = formatdate(usegmt=True)
        self.tail = reply_tail(date, "")
        self.closing_tail = reply_tail(date, "close")
        self.keeping_tail = reply_tail(date, "keep-alive")

    cdef Buffer lease_body(self, SlabPool liked, int64_t nbytes, int64_t header_nbytes):
        cdef SlabPool pool = liked if liked is not None and nbytes >= LARGE_NBYTES else self.pool
        cdef Buffer body = pool.lease(nbytes + ALIGNMENT)
        body.data += (ALIGNMENT - header_nbytes % ALIGNMENT) % ALIGNMENT
        body.nbytes = nbytes
        return body

    cdef int note_unsent(self, int64_t change) except -1:
        self.unsent_nbytes += change
        if change > 0 and self.unsent_nbytes > self.max_unsent_nbytes:
            slowest = max(self.connections, key=_unread_nbytes)
            log.warning("closing an HTTP connection that does not read %d bytes of its answers",
                        slowest.unread_nbytes())
            slowest.abort()
        return 0

    def tick(self):
        """To be called every second: timeouts, and the date."""
        self.now_s += 1
        self._set_date()
        for connection in tuple(self.connections):
            self.check(connection)

    def leave(self):
        """Has clients go elsewhere: each connection closes behind its next answer. New ones are taken all the same."""
        self.leaving = True

    def stop(self):
        """Closes what is idle; all others close behind the responses they owe."""
        self.leaving = self.stopping = True
        self.loop.call_later(LAST_CHANCE_S, self._close_rest)
        for connection in tuple(self.connections):
            connection.close_if_idle()

    # What was in the sockets at the stop had its time.
    def _close_rest(self):
        for connection in tuple(self.connections):
            connection.end_last_chance()

    def abort(self):
        """Closes every connection now; their requests are cancelled."""
        for connection in tuple(self.connections):
            connection.abort()


def _unread_nbytes(connection):
    return connection.unread_nbytes()
