# The waiting requests of one model, by priority level.

from libc.stdint cimport int64_t, uint64_t

from triton_async.core.sorted_chunks cimport SortedChunks
from triton_async.infer.request cimport InferRequest

# Requests linked through themselves, so that any of them leaves at the same cost. A request is in one line at most.
cdef class Line:
    cdef InferRequest first
    cdef InferRequest last

    cdef int append(self, InferRequest request) noexcept
    cdef int prepend(self, InferRequest request) noexcept
    # Behind `before`, which stands in it; None: first of all.
    cdef int insert(self, InferRequest request, InferRequest before) noexcept
    cdef int unlink(self, InferRequest request) noexcept

cdef class Level:
    cdef uint64_t number
    cdef void *before                # Levels, borrowed: the next more and less urgent ones
    cdef void *behind
    cdef int64_t size                # requests of both lines
    cdef Line line                   # in order of arrival, or of deadlines
    cdef SortedChunks by_deadline    # of `line`, by when they are to be served; None: in order of arrival
    cdef Line delayed                # those that timed out under the DELAY action, as they did; served after `line`
    # Its QueuePolicy
    cdef int64_t max_size            # 0: no bound
    cdef int64_t timeout_us          # 0: none
    cdef bint may_override
    cdef bint delays

    cdef Line line_of(self, InferRequest request)

cdef struct Due:
    int64_t at_ns
    uint64_t arrival                 # the order of those due at the same time
    void *request                    # borrowed: it stands in a line

# A heap of requests by time. Each knows its place in it (`due_place`), so that any of them leaves in O(log n).
cdef class Deadlines:
    cdef Due *heap                   # 1-based
    cdef int64_t size
    cdef int64_t room

    # Raises MemoryError, and has not taken it then.
    cdef int add(self, InferRequest request, int64_t at_ns) except -1
    # Does nothing for a request that is not in it.
    cdef int discard(self, InferRequest request) noexcept
    # Time of the earliest; 0: empty.
    cdef int64_t earliest_ns(self) noexcept
    cdef InferRequest earliest(self)

    cdef int _put(self, int64_t place, Due due) noexcept
    cdef int _rise(self, int64_t place, Due due) noexcept
    cdef int _sink(self, int64_t place, Due due) noexcept
    cdef bint _resize(self, int64_t room) noexcept

# Serving order: level after level, most urgent first; of each its line, then its delayed ones.
#
# Invariants
#   - every queued request has state QUEUED, no other owner and one place in one line; `size` counts them, `rows` sums
#     their rows
#   - a request that leaves leaves nothing behind: no place in a line or among the deadlines, no reference
#   - a level other than the default one exists only while it has requests
#   - nothing has come or gone up to and including `cursor` in the serving order since it was set
# Loop thread. No clock: `now_ns` is an argument.
cdef class RequestQueue:
    cdef object policy               # QueuePolicy of all levels that are not in `level_policies`
    cdef dict level_policies         # number -> QueuePolicy
    cdef uint64_t levels             # 0: one level, number 0
    cdef Level default               # where requests without a priority of their own go; always there
    cdef dict made                   # number -> Level: those that exist
    cdef SortedChunks order          # of them, by their numbers
    cdef Level most_urgent           # the first of them; the others follow as they are linked
    cdef list spare                  # Levels of `policy` that are not used
    cdef Deadlines deadlines
    cdef uint64_t arrivals
    cdef readonly int64_t size
    cdef readonly int64_t rows
    cdef readonly int64_t next_deadline_ns    # earliest time at which `expire` has something to do; 0: never
    cdef readonly bint has_timeouts  # a request may get a queue timeout
    cdef readonly bint has_rules     # timeouts, sizes, priorities or an order by deadline are configured
    cdef bint by_deadline            # each level serves those first that are due first (serve_by_ns)
    cdef InferRequest cursor         # set by whoever reads the queue; None once it is not valid any more

    # Takes the request iff it returns. Raises Unavailable when its level is full, MemoryError.
    cpdef int push(self, InferRequest request, int64_t now_ns) except -1
    # The serving order, request by request; None at its end.
    cpdef InferRequest first(self)
    cpdef InferRequest after(self, InferRequest request)
    # Removes the first `count` requests of the serving order; they are RUNNING then.
    cpdef list pop(self, int64_t count)
    # The inverse of `pop`: its requests, or some of them in their order, go before all others of their levels again, or
    # to their place among these by deadline, whatever the bounds say, with the age and the deadlines that they have. Of
    # several pops the last comes first. Those that it could not take for want of memory are still RUNNING when it
    # raises.
    cpdef int requeue(self, list requests) except -1
    # Removes a queued request, wherever it stands (cancelled or refused); it is DONE then.
    cpdef int remove(self, InferRequest request) except -1
    # Requests that are to be refused because their queue timeout or their client's deadline (`late`) has passed, in
    # the order of these times, already removed. Those with the DELAY action go behind the others of their level.
    cpdef list expire(self, int64_t now_ns)

    cdef uint64_t _number_of(self, InferRequest request) noexcept
    # The level, made if there is none. Raises MemoryError.
    cdef Level _level(self, uint64_t number)
    cdef Level _new_level(self, uint64_t number)
    # The first request of the first of these levels that has any.
    cdef InferRequest _first_from(self, void *level)
    # Into its line, with all that it brings besides. Raises MemoryError, and nothing has changed then.
    cdef int _stand(self, Level level, InferRequest request, bint first) except -1
    cdef int _enter(self, Level level, InferRequest request) except -1
    cdef int _leave(self, InferRequest request) except -1
    cdef int _drop_if_empty(self, Level level) except -1
    cdef int _delay(self, InferRequest request) except -1
