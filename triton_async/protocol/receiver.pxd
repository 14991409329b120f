# Who takes the bytes of a connection, where the transport below can call it without Python in between. Loop thread.

cdef class Receiver:
    # Where the next bytes go, and for how many there is room: none for who takes no bytes, whose connection ends with
    # the first that come. The memory stays until the next call.
    cdef Py_ssize_t make_room(self, unsigned char **at) except -1
    # So many bytes have come there.
    cdef int take_bytes(self, Py_ssize_t nbytes) except -1
