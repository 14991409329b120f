# Which executions are so short that the loop thread runs them itself. Pure: durations are arguments.

from libc.stdint cimport int64_t, uint64_t

from triton_async.infer.batch cimport ta_batch

# csrc/switches.h: how often the calling thread has lost the processor.
cdef extern from "switches.h" nogil:
    ctypedef struct ta_switches:
        int64_t forced                   # to others, whom the kernel preferred
        int64_t waited                   # because it had something to wait for
    ta_switches ta_switches_of_thread()

# What is known of executions of one shape.
cdef struct Seen:
    uint64_t shape                       # of all inputs, but for the rows
    int64_t rows                         # the most that an execution of the streak had
    int64_t steady                       # executions in a row without a long one

cdef enum:
    SHAPES = 16

# Trust in a model's executions: earned for one exact shape by a streak of steady ones, and lost for good by one that
# stalls the loop. On a busy machine it is mostly not the model: the thread loses the processor to others in the middle
# of an execution. To tell, they are watched for a while behind the start, and behind every stall that was not.
cdef class InlinePolicy:
    cdef readonly bint allowed           # the last execution's shape may run on the loop thread
    cdef readonly bint ended             # one stalled the loop: none runs there any more
    cdef readonly int64_t watched        # executions there that are still to be watched: `displaced` is known of them
    cdef int64_t mean_ns
    cdef Seen[SHAPES] seen
    cdef int n_seen
    cdef int last                        # of `seen`: where the last look-up ended
    cdef int victim                      # the entry that the next new shape takes

    # Whether a batch of this shape, and of so many rows, may run there.
    cdef bint allows(self, uint64_t shape, int64_t rows) noexcept
    # One execution is over. `mean_ns`: the moving average with it; `here`: it ran on the loop thread; `displaced`: that
    # lost the processor to others meanwhile, and did not wait for anything.
    cdef void note(self, uint64_t shape, int64_t rows, int64_t execution_ns, int64_t mean_ns, bint here,
                   bint displaced) noexcept
    cdef int _find(self, uint64_t shape) noexcept

# The shape of a batch, its rows left out.
cdef uint64_t shape_of(const ta_batch *batch, bint batching) noexcept

# Whether others had the processor during an execution that took long. Before the GIL is asked for, which may be waited
# for.
cdef bint displaced_since(const ta_batch *batch, ta_switches before) noexcept nogil
