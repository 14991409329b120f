"""Who takes the bytes of a connection. Loop thread."""

from cpython.buffer cimport PyBUF_WRITE
from cpython.memoryview cimport PyMemoryView_FromMemory


cdef class Receiver:
    """A BufferedProtocol by shape, for transports that know no better."""

    cdef Py_ssize_t make_room(self, unsigned char **at) except -1:
        at[0] = NULL
        return 0

    cdef int take_bytes(self, Py_ssize_t nbytes) except -1:
        return 0

    def get_buffer(self, sizehint):
        """A view that the next bytes are received into; only good until `buffer_updated`."""
        cdef unsigned char *at = NULL
        cdef Py_ssize_t size = self.make_room(&at)
        return PyMemoryView_FromMemory(<char *>at, size, PyBUF_WRITE)

    def buffer_updated(self, Py_ssize_t nbytes):
        """So many bytes have come."""
        self.take_bytes(nbytes)
