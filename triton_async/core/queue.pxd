# The waiting requests of one model, by priority level.

from libc.stdint cimport int64_t

from triton_async.infer.request cimport InferRequest

# Invariants
#   - every queued request has state QUEUED and no other owner; `size` counts them, `rows` sums their rows
#   - a request that was cancelled or has timed out leaves `size` and `rows` at once; its place in the line is
#     skipped later
# Loop thread. No clock: `now_ns` is an argument.
cdef class RequestQueue:
    # In serving order: for each level, most urgent first, the line of its requests, then the line of those that
    # timed out under the DELAY action.
    cdef list lines
    cdef list level_sizes            # queued requests per level, delayed ones included
    cdef tuple policies              # QueuePolicy per level
    cdef int default_level           # 1-based; 0 without priorities
    cdef readonly int64_t size
    cdef readonly int64_t rows
    cdef readonly int64_t next_deadline_ns    # earliest queue timeout that may be due; 0: none
    cdef int64_t dead                # places to skip

    # Takes the request iff it returns. Raises Unavailable when its level is full.
    cpdef int push(self, InferRequest request, int64_t now_ns) except -1
    # Requests in serving order, up to `limit`, left in the queue.
    cpdef list peek(self, int64_t limit)
    # Removes the first `count` requests of the serving order.
    cpdef list pop(self, int64_t count)
    # Removes a queued request, wherever it stands (cancelled or timed out); it is DONE then.
    cpdef int remove(self, InferRequest request) except -1
    # Requests whose queue timeout has passed: those to refuse are returned, already removed; those with the DELAY
    # action go behind the others of their level.
    cpdef list expire(self, int64_t now_ns)

    cdef int _leave(self, InferRequest request) except -1
    cdef int _note_deadline(self, InferRequest request) except -1
