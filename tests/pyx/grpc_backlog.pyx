"""protocol.grpc_backlog for Python."""

from libc.stddef cimport size_t

from triton_async.protocol.grpc_backlog cimport Backlog


cdef class Queue:
    """A Backlog."""

    cdef readonly Backlog backlog

    def __init__(self):
        self.backlog = Backlog()

    def append(self, bytes data):
        self.backlog.append(data, len(data))

    def peek(self):
        """The next bytes that stand together; b"" when there are none."""
        cdef size_t nbytes
        cdef const char *data = self.backlog.peek(&nbytes)
        return data[:nbytes] if data != NULL else b""

    def where(self):
        """The address of the next byte."""
        cdef size_t nbytes
        return <size_t>self.backlog.peek(&nbytes)

    def skip(self, int nbytes):
        self.backlog.skip(nbytes)
