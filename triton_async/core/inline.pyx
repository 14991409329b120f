"""Decides when a model's executions are short enough for the loop thread."""

cimport cython

from triton_async.defines import INLINE_AFTER, INLINE_MEAN_NS, INLINE_STALL_NS, INLINE_STEADY_NS, INLINE_WATCHED

cdef int64_t AFTER = INLINE_AFTER
cdef int64_t MEAN_NS = INLINE_MEAN_NS
cdef int64_t STEADY_NS = INLINE_STEADY_NS
cdef int64_t STALL_NS = INLINE_STALL_NS
cdef int64_t WATCHED = INLINE_WATCHED
cdef int64_t MORE_AFTER_STALL = 16
cdef int64_t NEEDED_MAX = 1 << 40


@cython.final
cdef class InlinePolicy:
    """See inline.pxd."""

    def __init__(self):
        self.needed = AFTER
        self.watched = WATCHED

    cdef void note(self, int64_t execution_ns, int64_t mean_ns, bint here, bint displaced) noexcept:
        cdef bint stalled = here and execution_ns > STALL_NS and not displaced
        # The first one that nobody watched may have been anybody's fault.
        if stalled and self.watched:
            self.needed = min(self.needed * MORE_AFTER_STALL, NEEDED_MAX)
        if stalled:
            self.watched = WATCHED
        elif here and self.watched:
            self.watched -= 1
            if self.watched == 0 and self.needed > AFTER:
                self.needed //= MORE_AFTER_STALL
                self.watched = WATCHED
        if not displaced:
            self.steady = self.steady + 1 if execution_ns <= STEADY_NS else 0
        self.allowed = self.steady >= self.needed and mean_ns <= MEAN_NS

    def noted(self, int64_t execution_ns, int64_t mean_ns, bint here, bint displaced=False):
        """`note`, for tests: whether the next batch may run on the loop thread."""
        self.note(execution_ns, mean_ns, here, displaced)
        return self.allowed


def switches():
    """How often the calling thread has lost the processor to others, and has given it up to wait. For tests."""
    now = ta_switches_of_thread()
    return now.forced, now.waited
