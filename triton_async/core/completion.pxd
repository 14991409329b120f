# The completion ring: finished batches come up from the instance threads to the loop.

from triton_async.core.wakeup cimport ta_completions
from triton_async.infer.batch cimport Batch

# Who handed a batch to an instance and takes it back.
cdef class BatchOwner:
    # The batch came back. Loop thread; must not raise.
    cdef int complete(self, Batch batch) except -1

# One for the server. `attach` and everything after belong to the loop thread; instances only push.
cdef class CompletionRing:
    cdef ta_completions completions
    cdef object loop

    cdef int drain(self) except -1

# Deadlines of one model, in nanoseconds of CLOCK_MONOTONIC, on a timerfd. Loop thread.
cdef class DeadlineTimer:
    cdef int fd
    cdef long long armed_ns          # 0: not armed
    cdef object loop
    cdef object callback

    # Calls back once at `deadline_ns`; 0 disarms. Cheap when nothing changes.
    cdef int arm(self, long long deadline_ns) except -1
