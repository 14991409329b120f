"""Where a request that goes to the full parser ends, and whether its answer is out. Event-loop thread."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t

from triton_async.protocol.http_chunks cimport CHUNK_BAD, CHUNK_DONE, ChunkTracker, decode_chunks

from triton_async.frontends.http.body import MALFORMED, MANY_CHUNKS


@cython.final
cdef class Handover:
    """What a connection knows of the slow lane."""

    cdef int begin(self, int64_t nbytes, bint chunked, int64_t now_s) except -1:
        self.relay.written = False
        self.content = None
        self.calls = 0
        self.began_s = now_s
        self.left = nbytes
        self.chunked = chunked
        self.chunks = ChunkTracker(0, 0, 0, 0, 0, 0, 0)
        return 0

    cdef Py_ssize_t feed(self, bytes head, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t taken
        if self.chunked:
            taken = self._feed_chunks(head, data, size)
        else:
            taken = min(size, self.left)
            self.left -= taken
            self.relay.feed(head + PyBytes_FromStringAndSize(<const char *>data, taken))
        return taken

    cdef Py_ssize_t _feed_chunks(self, bytes head, const unsigned char *data, Py_ssize_t size) except -1:
        cdef bytes room = PyBytes_FromStringAndSize(NULL, size)
        cdef Py_ssize_t written
        cdef Py_ssize_t taken = decode_chunks(&self.chunks, data, size, PyBytes_AS_STRING(room), &written)
        cdef bytes last = b"0\r\n\r\n" if self.chunks.state == CHUNK_DONE else b""
        if self.chunks.state >= CHUNK_BAD:
            return taken
        if written:
            self.relay.feed(b"%b%x\r\n%b\r\n%b" % (head, written, room[:written], last))
        elif head or last:
            self.relay.feed(head + last)
        return taken

    cdef bint complete(self) noexcept:
        return self.chunks.state >= CHUNK_DONE if self.chunked else self.left == 0

    cdef tuple broken(self):
        if not self.chunked or self.chunks.state < CHUNK_BAD:
            return None
        return 400, MALFORMED if self.chunks.state == CHUNK_BAD else MANY_CHUNKS

    cdef bint over(self) except -1:
        return self.complete() and self.content is not None and self.content.is_eof()
