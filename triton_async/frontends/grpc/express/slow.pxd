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
    cdef object writer             # future of the writer

    cdef int _give_back(self) except -1
