"""gRPC's length-prefixed messages, assembled in leased memory that grows with what arrives. Sans-IO."""

from cpython.memoryview cimport PyMemoryView_FromObject
from libc.string cimport memcpy

from triton_async.memory.buffer cimport Buffer
from triton_async.memory.slab cimport SlabPool

from triton_async.defines import (
    GRPC_MAX_MESSAGE_NBYTES,
    GRPC_MESSAGE_GROWTH,
    GRPC_MESSAGE_START_NBYTES,
    INPUT_POOL_NBYTES,
)

cdef enum:
    PREFIX = 5

cdef int64_t _MESSAGE_MAX = GRPC_MAX_MESSAGE_NBYTES
cdef int64_t _START = GRPC_MESSAGE_START_NBYTES
cdef int64_t _LARGE = INPUT_POOL_NBYTES
cdef int64_t _GROWTH = GRPC_MESSAGE_GROWTH


class MessageError(Exception):
    """A call that must end: `status` is gRPC's."""

    def __init__(self, int status, str message):
        super().__init__(message)
        self.status = status
        self.message = message


cdef class MessageReader:
    """Reads the messages of one call into leases of `pool`, or of `large_pool` once its owner has set one."""

    def __cinit__(self, SlabPool pool):
        self.pool = self.large_pool = pool

    cdef Buffer feed(self, const char *data, size_t size, size_t *used):
        cdef size_t at = 0
        cdef size_t n
        cdef Buffer message
        used[0] = size
        if self.message is None:
            n = min(<size_t>(PREFIX - self.prefix_nbytes), size)
            memcpy(&self.prefix[self.prefix_nbytes], data, n)
            self.prefix_nbytes += <int>n
            at = n
            if self.prefix_nbytes < PREFIX:
                return None
            self._begin(size - at)
        while True:
            n = min(<size_t>(self.message.nbytes - self.received), size - at)
            if self.message.data + self.received != data + at:
                memcpy(self.message.data + self.received, data + at, n)
            self.received += n
            at += n
            if self.received == self.nbytes:
                break
            if self.received < self.message.nbytes:
                return None
            self._grow()
        used[0] = at
        message = self.message
        self.message = None
        self.prefix_nbytes = 0
        return message

    cdef object room(self, int64_t nbytes):
        if self.message is None or self.received == self.message.nbytes:
            return None
        return PyMemoryView_FromObject(self.message)[self.received:self.received + nbytes]

    cdef bint inside(self) noexcept:
        return self.prefix_nbytes > 0

    cdef int _begin(self, size_t at_hand) except -1:
        self.nbytes = (<int64_t>self.prefix[1] << 24 | <int64_t>self.prefix[2] << 16
                       | <int64_t>self.prefix[3] << 8 | self.prefix[4])
        self.received = 0
        if self.prefix[0] == 1:
            raise MessageError(GRPC_INTERNAL, "message is compressed but the call has no grpc-encoding")
        if self.prefix[0]:
            raise MessageError(GRPC_INTERNAL, f"message has the unknown flag {self.prefix[0]}")
        if self.nbytes > _MESSAGE_MAX:
            raise MessageError(GRPC_RESOURCE_EXHAUSTED,
                               f"Received message larger than max ({self.nbytes} vs. {_MESSAGE_MAX})")
        self.message = self._lease(min(self.nbytes, max(_START, <int64_t>at_hand)))
        return 0

    cdef SlabPool _pool(self):
        return self.large_pool if self.nbytes >= _LARGE else self.pool

    cdef Buffer _lease(self, int64_t nbytes):
        return self._pool().lease(nbytes)

    cdef int _grow(self) except -1:
        # Ordinary memory of this size takes nothing before it is written to; what is pinned or shared is taken at once.
        cdef bint ordinary = self._pool().arena is None
        cdef int64_t most = self.nbytes if ordinary else _START + _GROWTH * self.received
        cdef Buffer larger = self._lease(min(self.nbytes, most))
        memcpy(larger.data, self.message.data, self.received)
        self.message = larger
        return 0
