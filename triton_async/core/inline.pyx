"""Decides when a model's executions are short enough for the loop thread."""

cimport cython

from triton_async.defines import (
    INLINE_AFTER,
    INLINE_MEAN_NS,
    INLINE_STALL_NS,
    INLINE_STEADY_NS,
    INLINE_SURELY_NS,
    INLINE_WATCHED,
)

cdef int64_t AFTER = INLINE_AFTER
cdef int64_t MEAN_NS = INLINE_MEAN_NS
cdef int64_t STEADY_NS = INLINE_STEADY_NS
cdef int64_t STALL_NS = INLINE_STALL_NS
cdef int64_t SURELY_NS = INLINE_SURELY_NS
cdef int64_t WATCHED = INLINE_WATCHED


@cython.final
cdef class InlinePolicy:
    """See inline.pxd."""

    def __init__(self):
        self.watched = WATCHED

    cdef int _find(self, uint64_t shape) noexcept:
        cdef int i
        if self.n_seen and self.seen[self.last].shape == shape:
            return self.last
        for i in range(self.n_seen):
            if self.seen[i].shape == shape:
                self.last = i
                return i
        return -1

    cdef bint allows(self, uint64_t shape, int64_t rows) noexcept:
        cdef int found
        if self.ended or self.mean_ns > MEAN_NS:
            return False
        found = self._find(shape)
        return found >= 0 and self.seen[found].steady >= AFTER and rows <= self.seen[found].rows

    cdef void note(self, uint64_t shape, int64_t rows, int64_t execution_ns, int64_t mean_ns, bint here,
                   bint displaced) noexcept:
        cdef int found = self._find(shape)
        cdef Seen *seen
        self.mean_ns = mean_ns
        if here and execution_ns > STALL_NS and not displaced:
            # The first one that nobody watched may have been anybody's fault, unless it was very long.
            if self.watched or execution_ns > SURELY_NS:
                self.ended = True
            self.watched = WATCHED
        elif here and self.watched:
            self.watched -= 1
        if found < 0:
            found = self.last = self.victim
            self.victim = (self.victim + 1) % SHAPES
            self.n_seen = max(self.n_seen, found + 1)
            self.seen[found].shape = shape
            self.seen[found].rows = self.seen[found].steady = 0
        seen = &self.seen[found]
        if not displaced:
            if execution_ns <= STEADY_NS:
                seen.steady += 1
                seen.rows = max(seen.rows, rows)
            else:
                seen.steady = seen.rows = 0
        self.allowed = not self.ended and seen.steady >= AFTER and mean_ns <= MEAN_NS

    def noted(self, int64_t execution_ns, int64_t mean_ns, bint here, bint displaced=False, dims=(1,), int64_t rows=8):
        """`note`, for tests, of a batch with one input: whether the next such batch may run on the loop thread."""
        cdef uint64_t shape = START
        for dim in dims:
            shape = _mix(shape, dim)
        self.note(_mix(shape, -1), rows, execution_ns, mean_ns, here, displaced)
        return self.allows(_mix(shape, -1), rows)


# FNV-1a over whole numbers. Who makes two shapes meet has one of them run on the loop, once.
cdef uint64_t START = 0xCBF29CE484222325


cdef inline uint64_t _mix(uint64_t shape, int64_t number) noexcept:
    return (shape ^ <uint64_t>number) * <uint64_t>0x100000001B3


cdef uint64_t shape_of(const ta_batch *batch, bint batching) noexcept:
    cdef uint64_t shape = START
    cdef int i, d
    for i in range(batch.n_inputs):
        for d in range(batching, batch.inputs[i].rank):
            shape = _mix(shape, batch.inputs[i].dims[d])
        shape = _mix(shape, -1)
    return shape


cdef bint displaced_since(const ta_batch *batch, ta_switches before) noexcept nogil:
    cdef ta_switches now
    if batch.compute_end_ns - batch.compute_start_ns <= STEADY_NS:
        return False
    now = ta_switches_of_thread()
    return now.forced > before.forced and now.waited == before.waited


def switches():
    """How often the calling thread has lost the processor to others, and has given it up to wait. For tests."""
    now = ta_switches_of_thread()
    return now.forced, now.waited
