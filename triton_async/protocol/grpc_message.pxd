# The length-prefixed messages of a gRPC call, put together from the pieces in which they arrive.

from libc.stdint cimport int64_t, uint8_t

from triton_async.memory.buffer cimport Buffer
from triton_async.memory.slab cimport SlabPool

# Status codes of gRPC that the wire itself calls for.
cdef enum GrpcStatus:
    GRPC_OK = 0
    GRPC_CANCELLED = 1
    GRPC_UNKNOWN = 2
    GRPC_DEADLINE_EXCEEDED = 4
    GRPC_RESOURCE_EXHAUSTED = 8
    GRPC_UNIMPLEMENTED = 12
    GRPC_INTERNAL = 13
    GRPC_UNAVAILABLE = 14

# Uncompressed messages of one call.
#
# Invariant: memory taken for a message <= GRPC_MESSAGE_START_NBYTES + GRPC_MESSAGE_GROWTH * bytes received of it
cdef class MessageReader:
    cdef SlabPool pool
    cdef SlabPool large_pool       # the owner's: for messages from INPUT_POOL_NBYTES on, `pool` at first
    cdef uint8_t[5] prefix
    cdef int prefix_nbytes         # of it that are there
    cdef int64_t nbytes            # of the message, as its prefix says
    cdef int64_t received          # of them
    cdef Buffer message            # what it is put together in; its capacity may still be less than `nbytes`

    # Takes bytes up to the end of one message. The message when it is complete, else None; `used` is set to the bytes
    # taken. Raises MessageError, after which the call cannot go on.
    cdef Buffer feed(self, const char *data, size_t size, size_t *used)
    # Where up to `nbytes` bytes of the message that has begun will stand, as a writable view: bytes that are received
    # there are not copied by `feed`. None when there is no such place.
    cdef object room(self, int64_t nbytes)
    # Whether a message has begun and is not complete.
    cdef bint inside(self) noexcept

    cdef SlabPool _pool(self)
    cdef Buffer _lease(self, int64_t nbytes)
    cdef int _begin(self, size_t at_hand) except -1
    cdef int _grow(self) except -1
