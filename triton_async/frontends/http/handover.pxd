# One request at a time that the full parser gets, cut out of what a connection receives. Event-loop thread.

from libc.stdint cimport int64_t

from triton_async.protocol.http_head cimport ChunkTracker

cdef class Handover:
    cdef object relay                # Relay to the full parser; None once it is closed
    cdef int64_t left                # bytes of head and body still to hand over, before any chunks
    cdef bint chunked
    cdef ChunkTracker chunks
    cdef int calls                   # requests that the full parser found in what was handed over
    cdef object content              # body stream of the answered request; None until the answer is out

    # The next request: `nbytes` bytes, and chunks behind them when `chunked`.
    cdef int begin(self, int64_t nbytes, bint chunked) except -1
    # How many of these bytes belong to the request; sets the state of `chunks`.
    cdef Py_ssize_t measure(self, const unsigned char *data, Py_ssize_t size) noexcept
    # Whether all of the request was handed over.
    cdef bint complete(self) noexcept
    # Whether both sides agree that the request is over: ours by its framing, the full parser by the end of the body
    # and a complete answer.
    cdef bint over(self) except -1
