# Forms batches for one model version.

from libc.stdint cimport int64_t

from triton_async.core.queue cimport RequestQueue
from triton_async.infer.batch cimport Batch
from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport ModelSignature

# Loop thread only. No clock: `now_ns` is an argument. No I/O.
#
# Invariants
#   - a batch that `take` returned is closed and never changes
#   - a request is in the queue or in exactly one batch, never in both
#   - wait_until_ns != 0 only when the last `take(idle=True)` held a batch back for more requests
cdef class DynamicBatcher:
    cdef ModelSignature signature
    cdef readonly RequestQueue queue
    cdef bint merging                    # several requests may share a batch
    cdef int64_t max_rows
    cdef int64_t max_preferred
    cdef frozenset preferred
    cdef int64_t delay_ns
    cdef readonly int64_t wait_until_ns
    cdef list lost                       # requests of the batch that the last `take` could not make

    # Takes ownership of `request` iff it returns. Raises Unavailable when the queue is full (retry later);
    # `request` is then untouched. It was validated: it fits.
    cpdef int enqueue(self, InferRequest request, int64_t now_ns) except -1
    # Next batch, closed, or None. With `idle` an instance could start at once; without, only a batch that cannot
    # grow is given, so that running ahead never costs batch size. When it raises, for want of memory, the requests
    # that it took stand in `lost`, RUNNING.
    cpdef Batch take(self, int64_t now_ns, bint idle)
    # Those requests, once: whoever asks answers them.
    cpdef list take_lost(self)

    cdef int64_t _choose(self, list waiting, int64_t now_ns, bint idle) except -1
