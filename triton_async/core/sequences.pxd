# The sequence batcher: requests that belong together run one by one, in order, on one instance.

from libc.stdint cimport int64_t

from triton_async.core.sequence_table cimport Lane, Sequence, SequenceTable
from triton_async.infer.batch cimport Batch
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse

# Loop thread. Direct and oldest strategies. `requeue` and `remove` take requests as `DynamicBatcher`'s do.
#
# Invariants, beside those of SequenceTable
#   - direct: a request has the row of its slot in every batch; without `pads` rows of nobody are left out
#   - all requests of a batch have equal shapes, states included
cdef class SequenceBatcher(SequenceTable):
    cdef bint oldest
    cdef bint pads                     # rows of slots without a request are sent
    cdef int64_t max_rows
    cdef int64_t delay_ns
    cdef double min_utilization
    cdef list best                     # oldest: for n requests, the largest preferred size up to n; 0: none
    cdef list lost
    # Held until so many requests wait with slots, and in the backlog, once (TRITONSERVER_*_DELAY_SCHEDULER).
    cdef int64_t hold_queued
    cdef int64_t hold_backlog

    # No engine has the request any more. `request.states` are those of its sequence from here on.
    cpdef int done(self, InferRequest request, int64_t now_ns) except -1
    # It is to be run once more, before all others of its sequence. Takes it over.
    cpdef int reschedule(self, InferRequest request, int64_t now_ns) except -1
    # Moves the states out of a response; None, or what is wrong with them.
    cdef object take_states(self, InferResponse response)

    cdef int _back(self, Sequence sequence, InferRequest request, int64_t now_ns, bint first) except -1
    cdef int _expire(self, int64_t now_ns) except -1
    cdef int _note_wait(self) noexcept
    cdef bint _holds(self) noexcept
    cdef list _choose_oldest(self, Lane lane, bint idle, int64_t now_ns)
    cdef list _choose_direct(self, Lane lane, int64_t now_ns)
    cdef Batch _make_batch(self, Lane lane, list chosen, int64_t now_ns)
