# ModelStreamInfer on the express lane. Loop thread.

from triton_async.frontends.grpc.express.call cimport ExpressCall
from triton_async.frontends.grpc.stream_requests cimport StreamRequests
from triton_async.protocol.grpc_backlog cimport Backlog

# Invariants
#   - at the bounds of `requests` nothing is read: what comes goes to the backlog, and the client's window closes
#   - bytes of the backlog are given back to the window when they are read, not before
cdef class StreamInfer(ExpressCall):
    cdef bint ends_on_error        # until `on_open`
    cdef bint drained
    cdef ExpressRequests requests  # None once the call is over
    cdef Backlog backlog           # None as long as there never was one

    cdef bint _waits(self) noexcept
    # Reads up to the bound; the bytes read. All of them when the call has ended.
    cdef size_t _read(self, const char *data, size_t nbytes) except? 0
    cdef int _read_backlog(self) except -1
    cdef int _finish_if_done(self) except -1

# The requests of a StreamInfer.
cdef class ExpressRequests(StreamRequests):
    cdef StreamInfer call          # None once it is over
