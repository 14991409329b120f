# What is made once and sent often, and what is gathered to be sent at once.

from libc.stdint cimport int64_t

from triton_async.protocol.nghttp2 cimport nghttp2_nv

# Header fields ready for nghttp2. Immutable. `constant` ones are made once, live as long as the process and are not
# copied by nghttp2.
cdef class HeaderBlock:
    cdef nghttp2_nv *fields
    cdef readonly size_t count
    cdef list keep                 # bytes objects that `fields` points into

# Bytes on their way to the socket, gathered for one write; shared by all sessions of a thread.
cdef class OutBuffer:
    cdef char *data                # small frames, copied
    cdef size_t nbytes
    cdef size_t capacity
    cdef list parts                # finished parts: bytes, and views of payloads
    cdef readonly int64_t total_nbytes  # in parts and data

    cdef int append(self, const void *data, size_t nbytes) except -1
    # A view of a payload that stays where it is; the view keeps it alive.
    cdef int append_view(self, object part, Py_ssize_t start, Py_ssize_t nbytes) except -1
    # What was gathered, as a list of objects with the buffer protocol, and starts anew.
    cdef list take(self)
