# Forms batches for one model version.

from libc.stdint cimport int64_t

from triton_async.backends.base cimport BatchRule
from triton_async.core.auto_delay cimport AutoDelay
from triton_async.core.queue cimport RequestQueue
from triton_async.core.scheduler cimport Scheduler
from triton_async.infer.batch cimport Batch
from triton_async.infer.plan cimport Room
from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport ModelSignature

# The pending batch is what the next batch may be made of: the requests from the front of the queue to its cursor, all
# of which fit into one batch. It is kept from one `take` to the next, which looks only at what came behind it.
#
# Invariants, while the queue has a cursor
#   - the pending batch is the first `count` requests of the queue: `rows`, `oldest_ns`, `ends_ns`, `best` are of these
#   - it has at most max_rows rows and requests, all of them compatible with the first, and `room` has had room for all
cdef class DynamicBatcher(Scheduler):
    cdef ModelSignature signature
    cdef readonly RequestQueue queue
    cdef Room room                       # what padding leaves; None: the model does not pad
    cdef bint merging                    # several requests may share a batch
    cdef int64_t max_rows
    cdef int64_t max_preferred
    cdef frozenset preferred             # without max_rows alone, which is as good as none
    cdef bint strict                     # preferred sizes are waited for as long as the delay
    cdef int64_t delay_ns                # 0 with `auto`
    cdef readonly AutoDelay auto         # finds the delay; None: it is fixed
    cdef BatchRule rule                  # of the model's own, or None; begun while there is a pending batch
    cdef InferRequest barred             # which did not join the pending batch by it, or None
    cdef int64_t hold_queued             # TRITONSERVER_DELAY_SCHEDULER; 0 once so many have waited
    cdef list lost                       # requests of the batch that the last `take` could not make
    cdef list refused                    # found by `take`, not yet returned by `expire`; or None

    # The pending batch
    cdef int64_t count
    cdef int64_t rows
    cdef int64_t best                    # its requests up to the one that reached the last preferred size; 0: none
    cdef int64_t oldest_ns               # earliest queue_start_ns
    cdef int64_t ends_ns                 # earliest end_by_ns; 0: none
    # As of the last `_scan`
    cdef int64_t marked                  # like `best`, also when the next one would go beyond all preferred sizes
    cdef bint closed                     # the next one does not fit

    # Brings the pending batch up to date. Requests that cannot end in time are refused, unless an instance has been
    # idle since they came.
    cdef int _scan(self, bint idled, int64_t now_ns) except -1
    # How many requests of the pending batch make the next batch; 0 when it is better to wait.
    cdef int64_t _choose(self, bint idle, int64_t now_ns) noexcept
    cdef int64_t _choose_strict(self, bint idle, int64_t now_ns) noexcept
    # 0, with the pending batch held back until then; all of it when that is over.
    cdef int64_t _wait(self, int64_t until_ns, int64_t now_ns) noexcept
    cdef int64_t _choose_alone(self, int64_t now_ns) except -1
    cdef bint _is_late(self, InferRequest request, int64_t now_ns) noexcept
    cdef int _drop(self, InferRequest request, int64_t now_ns) except -1
    # Whether the rule has the request join the pending batch.
    cdef bint _joins(self, InferRequest request) noexcept
    cdef int _end_rule(self) noexcept
    cdef int _refuse(self, list requests, int64_t now_ns) except -1
    cdef int _note_queue(self) noexcept
