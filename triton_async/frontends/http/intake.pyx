"""Receives one body after the other, each into memory of its own. Event-loop thread."""

cimport cython
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from triton_async.frontends.http.hub cimport Hub
from triton_async.memory.buffer cimport Buffer
from triton_async.memory.slab cimport SlabPool
from triton_async.protocol.http_chunks cimport CHUNK_BAD, CHUNK_DONE, CHUNK_MANY, ChunkTracker, decode_chunks

from triton_async.defines import HTTP_BODY_MIN_NBYTES_PER_S, HTTP_BODY_TIMEOUT_S
from triton_async.frontends.http.body import MALFORMED, MANY_CHUNKS, too_big

cdef int64_t BODY_S = int(HTTP_BODY_TIMEOUT_S)
# Least bytes of a body in each BODY_S.
cdef int64_t BODY_PACE_NBYTES = int(HTTP_BODY_TIMEOUT_S) * HTTP_BODY_MIN_NBYTES_PER_S

cdef tuple NO_MEMORY = (503, "not enough memory for the request body")
cdef tuple TOO_MANY = (503, "too many request bodies are being received")


@cython.final
cdef class Intake:
    """The receiving half of one connection's infer requests."""

    def __cinit__(self, Hub hub):
        self.hub = hub

    cdef int begin(self, SlabPool liked, int64_t nbytes, int64_t header_nbytes) except -1:
        self._start(False)
        try:
            self.body = self.hub.lease_body(liked, nbytes, header_nbytes)
        except MemoryError:
            self.problem = NO_MEMORY
        return 0

    cdef int begin_chunks(self, SlabPool liked, int64_t header_nbytes, int64_t limit) except -1:
        self._start(True)
        self.chunks = ChunkTracker(0, 0, 0, 0, 0, 0, 0)
        self.liked = liked
        self.header_nbytes = header_nbytes
        self.limit = limit
        return 0

    cdef int _start(self, bint chunked) except -1:
        self.at = 0
        self.chunked = chunked
        self.problem = None
        self.pace_s = self.hub.now_s
        self.pace_at = 0
        return 0

    cdef Py_ssize_t take(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t taken
        if self.problem is not None:
            return size
        if self.chunked:
            return self._take_chunks(data, size)
        taken = min(size, self.body.nbytes - self.at)
        memcpy(self.body.data + self.at, data, taken)
        self.at += taken
        return taken

    cdef Py_ssize_t _take_chunks(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t taken, written
        try:
            self._make_room(size)
        except MemoryError:
            self.problem = NO_MEMORY
            return size
        taken = decode_chunks(&self.chunks, data, size, self.body.data + self.at, &written)
        self.at += written
        if self.chunks.state == CHUNK_BAD:
            self.problem = (400, MALFORMED)
        elif self.chunks.state == CHUNK_MANY:
            self.problem = (400, MANY_CHUNKS)
        elif self.at > self.limit:
            self.problem = (400, too_big(f"more than {self.limit}", self.limit))
        return taken

    # Doubling makes each byte move once on average, however small the pieces are.
    cdef int _make_room(self, Py_ssize_t size) except -1:
        cdef Buffer body
        if self.body is not None and self.body.nbytes - self.at >= size:
            return 0
        body = self.hub.lease_body(self.liked, max(2 * self.at, self.at + size), self.header_nbytes)
        if self.at:
            memcpy(body.data, self.body.data, self.at)
        self.body = body
        return 0

    cdef bint complete(self) noexcept:
        if self.chunked:
            return self.chunks.state == CHUNK_DONE and self.problem is None
        return self.problem is None and self.at == self.body.nbytes

    cdef int note(self) except -1:
        cdef int64_t change = self.at - self.noted_nbytes
        self.noted_nbytes = self.at
        if not self.hub.receiving.note(change) and self.problem is None:
            self.problem = TOO_MANY
        return 0

    cdef Buffer end(self):
        cdef Buffer body = self.body
        self.body = self.liked = None
        if body is not None and self.chunked:
            body.nbytes = self.at
        if self.noted_nbytes:
            self.hub.receiving.note(-self.noted_nbytes)
            self.noted_nbytes = 0
        return body

    cdef bint too_slow(self) noexcept:
        if self.hub.now_s - self.pace_s < BODY_S:
            return False
        if self.at - self.pace_at < BODY_PACE_NBYTES:
            return True
        self.pace_s = self.hub.now_s
        self.pace_at = self.at
        return False
