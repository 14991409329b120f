# Counts what a client makes us do on one HTTP/2 connection, beside nghttp2 and before it. No clock: `now_ns` is an
# argument.

from libc.stdint cimport int32_t, int64_t, uint8_t

cdef enum Violation:
    VIOLATION_NONE = 0
    VIOLATION_RESETS = 1           # rapid reset, resets that the client made us send, header lists too long
    VIOLATION_CONTROLS = 2         # a flood of PING, SETTINGS, PRIORITY, unknown or empty frames
    VIOLATION_CONTINUATIONS = 3    # a header block in too many frames
    VIOLATION_HEADER_BLOCK = 4     # a header block of too many bytes, as sent or decoded

# `level` tokens are left as of `at_ns`; `rate` are added per second up to `burst`.
cdef struct Bucket:
    double level
    double burst
    double rate
    int64_t at_ns

cdef class FrameGuard:
    cdef Bucket resets
    cdef Bucket controls
    cdef uint8_t[9] head           # frame header that is being read
    cdef int head_nbytes           # of it that are there
    cdef int64_t skip_nbytes       # of preface or payload that follow
    cdef int continuations         # of the header block that is being read
    cdef int64_t block_nbytes      # of that block
    cdef readonly bint in_block    # a header block has begun and not ended
    cdef readonly bint greeted     # the preface and a first frame header were seen

    # Looks at the frame headers in the next `nbytes` bytes received. Never reads past them; returns a Violation.
    cdef int scan(self, const uint8_t *data, Py_ssize_t nbytes, int64_t now_ns) noexcept
    # How much of the payload of an unpadded DATA frame comes next, and of which stream; 0 when something else does.
    cdef int64_t payload_ahead(self, int32_t *stream_id) noexcept
    # A reset, the client's or one that it made us send; a control frame's worth of other trouble.
    cdef int count_reset(self, int64_t now_ns) noexcept
    cdef int count_control(self, int64_t now_ns) noexcept
    cdef int _frame(self, int64_t now_ns) noexcept
