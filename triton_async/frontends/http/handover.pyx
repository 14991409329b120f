"""Where a request that goes to the full parser ends, and whether its answer is out. Event-loop thread."""

cimport cython
from libc.stdint cimport int64_t

from triton_async.protocol.http_head cimport CHUNK_DONE, ChunkTracker, follow_chunks


@cython.final
cdef class Handover:
    """What a connection knows of the slow lane."""

    cdef int begin(self, int64_t nbytes, bint chunked) except -1:
        self.relay.written = False
        self.content = None
        self.calls = 0
        self.left = nbytes
        self.chunked = chunked
        self.chunks = ChunkTracker(0, 0, 0, 0)
        return 0

    cdef Py_ssize_t measure(self, const unsigned char *data, Py_ssize_t size) noexcept:
        cdef Py_ssize_t taken = min(size, self.left)
        self.left -= taken
        if self.chunked and taken < size:
            taken += follow_chunks(&self.chunks, data + taken, size - taken)
        return taken

    cdef bint complete(self) noexcept:
        return self.left == 0 and (not self.chunked or self.chunks.state == CHUNK_DONE)

    cdef bint over(self) except -1:
        return self.complete() and self.content is not None and self.content.is_eof()
