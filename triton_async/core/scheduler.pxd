# What a model holds in front of its instances: the requests that have not begun, and the rules of which goes next.

from libc.stdint cimport int64_t

from triton_async.infer.batch cimport Batch
from triton_async.infer.request cimport InferRequest

# Loop thread only. No clock: `now_ns` is an argument. No I/O.
#
# Invariants
#   - a request is the scheduler's from `enqueue` until `take`, `remove` or `expire` gives it away; it is waiting here
#     or in exactly one batch, never in both
#   - a batch that `take` returned is closed and never changes; none of its requests had passed its queue timeout
#   - wait_until_ns != 0 only when the last `take` with `idle` held a batch back for more requests
cdef class Scheduler:
    cdef readonly int64_t pending            # requests that wait
    # Whether an instance may be given a batch before it is idle. Not where timeouts, sizes or priorities are
    # configured: they hold for every request that has not begun.
    cdef readonly bint may_run_ahead
    # Whether a request that comes while none waits and an instance is idle begins at once, alone.
    cdef readonly bint starts_at_once
    # Whether time alone may ever give it something to do, requests with deadlines of their clients aside.
    cdef readonly bint timed
    cdef readonly int64_t next_deadline_ns   # when `expire` has something to return, or may have; 0: never
    cdef readonly int64_t wait_until_ns      # when `take` has something for an instance that stays idle; 0: not by time
    # Instances that could begin at once, as of the `take` with `idle` that follows: whoever calls it says so.
    cdef public int64_t idle_instances
    cdef readonly int64_t longest_execution_ns   # 0: none has ended yet
    cdef readonly int64_t mean_execution_ns  # moving average; 0: none has ended yet

    # Takes ownership of `request` iff it returns. Raises Unavailable when the queue is full (retry later);
    # `request` is then untouched. It was validated: it fits.
    cpdef int enqueue(self, InferRequest request, int64_t now_ns) except -1
    # Next batch for `instance`, closed, or None. With `idle` it could start at once; without, only a batch that cannot
    # grow is given, so that running ahead never costs batch size. When it raises, for want of memory, the requests
    # that it took stand in `take_lost`, RUNNING.
    cpdef Batch take(self, object instance, bint idle, int64_t now_ns)
    # Those requests, once: whoever asks answers them.
    cpdef list take_lost(self)
    # A request that waits was cancelled: it is DONE, and the caller's.
    cpdef int remove(self, InferRequest request) except -1
    # Requests of a batch that was taken and has not begun, in their order: they are first again, as old as they were.
    # Those that were cancelled meanwhile are left out. Of several batches the one taken last comes first. Those that
    # it could not take for want of memory are still RUNNING when it raises.
    cpdef int requeue(self, list requests) except -1
    # Requests to be refused with `refusal`: their queue timeout or their client's deadline has passed, or `take` found
    # that they cannot end before the latter. They are DONE, and the caller's. Ask before the first `take` of a turn
    # and after the last.
    cpdef list expire(self, int64_t now_ns)
    # An execution ended, and took so long.
    cpdef int note_execution(self, int64_t execution_ns) except -1
    # An instance has no more to do with a batch that `take` returned: its execution ended, and took so long, or it was
    # taken back before it began (-1).
    cpdef int note_batch(self, int64_t requests, int64_t rows, int64_t execution_ns, int64_t now_ns) except -1

# What a request that `expire` returned is answered: what its scheduler says, else DeadlineExceeded when it is late for
# its client, else Unavailable.
cpdef object refusal(InferRequest request)
