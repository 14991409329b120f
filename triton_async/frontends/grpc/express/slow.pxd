# The other RPCs: a stream as grpclib's handlers see theirs. Loop thread.

from triton_async.protocol.http2 cimport Http2Stream

# A frontends.grpc.call.CallStream. A task reads and writes it.
#
# Invariant: bytes that no reader waits for or has taken, those in `received`, are not given back to the client's window
cdef class SlowStream(Http2Stream):
    cdef object calls              # frontends.grpc.calls.Calls of the connection
    cdef list headers              # (name, value) of the request
    cdef bytearray received        # came before anybody waited for it
    cdef Py_ssize_t wanted         # bytes that the reader waits for
    cdef bytes room                # memory for them, which grows with what comes, and nobody else has; None
    cdef Py_ssize_t filled         # so many of them are there
    cdef bint at_end               # nothing will follow
    cdef object waiter             # future of the reader
    cdef object timer              # TimerHandle that looks at the pace of what it waits for, or None
    cdef object writer             # future of the writer

    # Twice as much room, or what is wanted.
    cdef int _grow(self) except -1
    # The first `size` bytes of what came before, at `out`, which need not be held back any more.
    cdef int _take_received(self, char *out, Py_ssize_t size) except -1
    # Has `_look` called once what is waited for must have grown.
    cdef int _look_later(self) except -1
