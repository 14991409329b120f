# Whether a batch is worth holding back for more requests (`max_queue_delay: auto`).

from libc.stdint cimport int64_t

# Requests that are waiting or running, from which on all numbers count as one.
cdef enum:
    MOST_OUTSTANDING = 128

# What was seen to follow while so many requests were outstanding: the next one, or the end of an execution first.
cdef struct Outlook:
    float soon                       # share of the times that the next one came before an execution would have ended
    float gap_ns                     # mean of how long it took to come then
    int seen

# Greedy batching, which starts what waits as soon as an instance is idle, is best where arrivals have nothing to do
# with each other: while an instance works, the next batch gathers by itself. It wastes executions where requests come
# together: clients that ask again as soon as they are answered, and bursts. So a batch is held only for those that are
# about to come, as far as what was seen shows that, and only where that pays:
#
#   - how many more come, and how soon, is known for each number of outstanding requests, from what followed it before.
#     n clients that ask again at once leave a gap behind the n-th of them that ends only with an execution; the gaps
#     before are short. Arrivals without such gaps, at random, are not waited for: the sums below do not allow it
#   - an execution of r rows takes overhead + r * row, both fitted to those that have ended. Holding k requests for j
#     more saves one overhead; it costs the k their wait, and the longer execution. Where instances are always busy,
#     only the former counts: what is saved is saved for all that come after
#   - nothing is held for longer than an execution of it takes, or than the bound of the config
#
# Loop thread. No clock: `now_ns` is an argument.
cdef class AutoDelay:
    cdef int64_t max_rows
    cdef int64_t bound_ns            # of the config; 0: none
    cdef int64_t instances
    cdef Outlook outlooks[MOST_OUTSTANDING + 1]
    cdef int64_t running             # requests with instances
    cdef int64_t last_ns             # of the last arrival, or end of an execution
    cdef int64_t held_ns             # since when what waits is held; 0: it is not
    # Sums over past executions, of decaying weight: how many, rows, their squares, nanoseconds, rows * nanoseconds
    cdef double n
    cdef double rows
    cdef double rows_squared
    cdef double took
    cdef double rows_took
    cdef readonly double overhead_ns  # of an execution, whatever its rows
    cdef readonly double row_ns
    # Share of the time that instances work or hold something
    cdef readonly double load
    cdef int64_t window_ns           # when the current window began
    cdef int64_t busy_ns             # in it

    # A request has come; `waiting` others wait.
    cdef int arrived(self, int64_t waiting, int64_t now_ns) noexcept
    # A batch of so many requests was given to an instance.
    cdef int taken(self, int64_t requests, int64_t now_ns) noexcept
    # An instance has it no more: it took so long, or was taken back (-1).
    cdef int ended(self, int64_t waiting, int64_t requests, int64_t rows, int64_t execution_ns,
                   int64_t now_ns) noexcept
    # Until when `requests`, all that waits, had better be held; 0: not. `idle`: instances that could begin, 1 or more.
    cdef int64_t hold_until(self, int64_t requests, int64_t rows, int64_t idle, int64_t now_ns) noexcept

    cdef int _see(self, int64_t outstanding, int64_t gap_ns) noexcept
    cdef int _fit(self, int64_t rows, int64_t execution_ns) noexcept
    cdef int _roll(self, int64_t now_ns) noexcept
