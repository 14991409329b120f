# The wire form of BYTES elements (csrc/gather.h): a length of four bytes, then as many bytes. Any thread, no GIL.

from libc.stdint cimport int64_t

cdef extern from "gather.h":
    # End offset of element `count` elements after `offset`; -1 when the framing is broken or ends early.
    int64_t ta_bytes_skip(const char *data, int64_t nbytes, int64_t offset, int64_t count) noexcept nogil
