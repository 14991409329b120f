"""Receives one body after the other, each into memory of its own. Event-loop thread."""

cimport cython
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from triton_async.frontends.http.hub cimport Hub
from triton_async.memory.buffer cimport Buffer
from triton_async.memory.slab cimport SlabPool

from triton_async.defines import HTTP_BODY_MIN_NBYTES_PER_S, HTTP_BODY_TIMEOUT_S

cdef int64_t BODY_S = int(HTTP_BODY_TIMEOUT_S)
# Least bytes of a body in each BODY_S.
cdef int64_t BODY_PACE_NBYTES = int(HTTP_BODY_TIMEOUT_S) * HTTP_BODY_MIN_NBYTES_PER_S


@cython.final
cdef class Intake:
    """The receiving half of one connection's infer requests."""

    def __cinit__(self, Hub hub):
        self.hub = hub

    cdef Py_ssize_t begin(self, SlabPool liked, int64_t nbytes, int64_t header_nbytes,
                          const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t taken
        self.body = self.hub.lease_body(liked, nbytes, header_nbytes)
        self.at = 0
        taken = self.take(data, size)
        self.pace_s = self.hub.now_s
        self.pace_at = taken
        return taken

    cdef Py_ssize_t take(self, const unsigned char *data, Py_ssize_t size) noexcept:
        cdef Py_ssize_t taken = min(size, self.body.nbytes - self.at)
        memcpy(self.body.data + self.at, data, taken)
        self.at += taken
        return taken

    cdef bint complete(self) noexcept:
        return self.at == self.body.nbytes

    cdef bint note(self) except -1:
        cdef int64_t change = self.at - self.noted_nbytes
        self.noted_nbytes = self.at
        return self.hub.receiving.note(change)

    cdef Buffer end(self):
        cdef Buffer body = self.body
        self.body = None
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
