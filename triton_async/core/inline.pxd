# Which executions are so short that the loop thread runs them itself. Pure: durations are arguments.

from libc.stdint cimport int64_t

# Trust in a model's executions: earned by a streak of steady ones, lost by one that stalls the loop.
cdef class InlinePolicy:
    cdef readonly bint allowed           # the next batch may run on the loop thread
    cdef int64_t steady                  # executions in a row without a long one
    cdef int64_t needed                  # of them, before `allowed`

    # One execution is over. `mean_ns`: the moving average with it; `here`: it ran on the loop thread.
    cdef void note(self, int64_t execution_ns, int64_t mean_ns, bint here) noexcept
