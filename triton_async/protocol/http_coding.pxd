# Content codings of answers: which one a client asks for, and whether a body is worth it. Any thread.

from libc.stdint cimport int64_t

cdef enum Coding:
    CODING_IDENTITY = 0
    CODING_GZIP = 1
    CODING_DEFLATE = 2       # zlib's format (RFC 9110 8.4.1.2)
    CODING_REQUIRED = 4      # added to one of the two when the client refuses a body without coding

# What an Accept-Encoding value asks for (RFC 9110 12.5.3): the first of highest weight among the codings above, as
# Triton chooses. An item that is malformed, or names another coding, does not count.
cdef int accepted_coding(const unsigned char *value, Py_ssize_t length) noexcept nogil

# Whether a body of `nbytes` may be compressed for a client that asks for `coding`: with a required coding it has to be,
# else it has to be large.
cdef bint may_code(int coding, int64_t nbytes) noexcept nogil

# Whether it is then: it is made of these parts (objects with the buffer protocol) and looks as if it would shrink.
cdef bint worth_coding(int coding, list parts) except -1
