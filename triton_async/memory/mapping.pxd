# The part of a file that is mapped, while its owner may make the file smaller: csrc/guard.h.

from libc.stdint cimport int64_t

cdef class Mapping:
    cdef readonly int fd             # open as long as the mapping
    cdef int64_t end                 # bytes that the file must have
    cdef char *data                  # first byte wanted; inside the mapping, which begins with a page
    cdef char *begin
    cdef size_t mapped
    cdef int guard

    # Whether the file has all bytes, and always had when they were used. Any thread.
    cdef bint whole(self) noexcept nogil
