"""Decides when a model's executions are short enough for the loop thread."""

cimport cython

from triton_async.defines import INLINE_AFTER, INLINE_MEAN_NS, INLINE_STALL_NS, INLINE_STEADY_NS

cdef int64_t MEAN_NS = INLINE_MEAN_NS
cdef int64_t STEADY_NS = INLINE_STEADY_NS
cdef int64_t STALL_NS = INLINE_STALL_NS
cdef int64_t MORE_AFTER_STALL = 16
cdef int64_t NEEDED_MAX = 1 << 40


@cython.final
cdef class InlinePolicy:
    """See inline.pxd."""

    def __init__(self):
        self.needed = INLINE_AFTER

    cdef void note(self, int64_t execution_ns, int64_t mean_ns, bint here) noexcept:
        if here and execution_ns > STALL_NS:
            self.needed = min(self.needed * MORE_AFTER_STALL, NEEDED_MAX)
        self.steady = self.steady + 1 if execution_ns <= STEADY_NS else 0
        self.allowed = self.steady >= self.needed and mean_ns <= MEAN_NS

    def noted(self, int64_t execution_ns, int64_t mean_ns, bint here):
        """`note`, for tests: whether the next batch may run on the loop thread."""
        self.note(execution_ns, mean_ns, here)
        return self.allowed
