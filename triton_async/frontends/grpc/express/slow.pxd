# The other RPCs: a stream as grpclib's handlers see theirs. Loop thread.

from triton_async.protocol.http2 cimport Http2Stream

# A frontends.grpc.call.CallStream. A task reads and writes it.
#
# Invariant: bytes beyond those that the reader waits for are not given back to the client's window
cdef class SlowStream(Http2Stream):
    cdef object calls              # frontends.grpc.calls.Calls of the connection
    cdef list headers              # (name, value) of the request
    cdef bytearray received        # not read yet
    cdef Py_ssize_t wanted         # bytes that the reader waits for
    cdef Py_ssize_t held           # bytes of `received` that were not given back
    cdef bint at_end               # nothing will follow
    cdef object waiter             # future of the reader
    cdef object timer              # TimerHandle that looks at the pace of what it waits for, or None
    cdef object writer             # future of the writer

    cdef int _give_back(self) except -1
    # Has `_look` called once what is waited for must have grown.
    cdef int _look_later(self) except -1
