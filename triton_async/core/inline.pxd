# Which executions are so short that the loop thread runs them itself. Pure: durations are arguments.

from libc.stdint cimport int64_t

# csrc/switches.h: how often the calling thread has lost the processor.
cdef extern from "switches.h" nogil:
    ctypedef struct ta_switches:
        int64_t forced                   # to others, whom the kernel preferred
        int64_t waited                   # because it had something to wait for
    ta_switches ta_switches_of_thread()

# Trust in a model's executions: earned by a streak of steady ones, lost by one that stalls the loop. On a busy machine
# it is mostly not the model: the thread loses the processor to others in the middle of an execution. To tell, they are
# watched for a while behind the start, and behind every stall.
cdef class InlinePolicy:
    cdef readonly bint allowed           # the next batch may run on the loop thread
    cdef readonly int64_t watched        # executions there that are still to be watched: `displaced` is known of them
    cdef int64_t steady                  # executions in a row without a long one
    cdef int64_t needed                  # of them, before `allowed`

    # One execution is over. `mean_ns`: the moving average with it; `here`: it ran on the loop thread; `displaced`: that
    # lost the processor to others meanwhile, and did not wait for anything.
    cdef void note(self, int64_t execution_ns, int64_t mean_ns, bint here, bint displaced) noexcept
