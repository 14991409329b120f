# The one clock (csrc/clock.h). Any thread, no GIL. For who stamps what happened or asks core for something; policy
# is given its time as an argument.

from libc.stdint cimport int64_t

cdef extern from "clock.h":
    # CLOCK_MONOTONIC in nanoseconds.
    int64_t ta_now_ns() noexcept nogil
    # Milliseconds since 1970, a few of them old: for people, not for deadlines.
    int64_t ta_epoch_ms() noexcept nogil
