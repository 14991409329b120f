# One request at a time that the full parser gets, cut out of what a connection receives. Event-loop thread.

from libc.stdint cimport int64_t

from triton_async.protocol.http_chunks cimport ChunkTracker

cdef class Handover:
    cdef object relay                # Relay to the full parser; None once it is closed
    cdef int64_t began_s             # when the request began
    cdef int64_t left                # bytes of the body still to hand over, when it is not chunked
    cdef bint chunked
    cdef ChunkTracker chunks
    cdef int calls                   # requests that the full parser found in what was handed over
    cdef object content              # body stream of the answered request; None until the answer is out

    # The next request, of which `nbytes` follow its head, or chunks.
    cdef int begin(self, int64_t nbytes, bint chunked, int64_t now_s) except -1
    # Hands over `head`, when it has not been yet, and what of the bytes belongs to the request; returns how many do.
    # Chunks are handed over as new ones, without extensions and trailers: one for each call that brings data, so that
    # what they cost does not depend on how the client cuts them. Nothing more once `broken`.
    cdef Py_ssize_t feed(self, bytes head, const unsigned char *data, Py_ssize_t size) except -1
    cdef Py_ssize_t _feed_chunks(self, bytes head, const unsigned char *data, Py_ssize_t size) except -1
    # Whether all of the request was handed over.
    cdef bint complete(self) noexcept
    # (HTTP status, message) when its body is malformed or has too many chunks; None.
    cdef tuple broken(self)
    # Whether both sides agree that the request is over: ours by its framing, the full parser by the end of the body
    # and a complete answer.
    cdef bint over(self) except -1
