# One loaded model version: its scheduler, instances, statistics.

from libc.stdint cimport int64_t

from triton_async.core.completion cimport BatchOwner, DeadlineTimer
from triton_async.core.inline cimport InlinePolicy
from triton_async.core.instances cimport Instance
from triton_async.core.scheduler cimport Scheduler
from triton_async.core.stats cimport ModelStatistics
from triton_async.infer.batch cimport Batch
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.slab cimport SlabPool

# Loop thread. A request belongs to the model from `submit` until its response is delivered.
#
# Invariants
#   - in_flight == requests in the queue + requests in batches + responses held back for their order
#   - an idle instance and a batch that may start never exist at the same time after a public method returns, unless
#     a turn is due
cdef class Model(BatchOwner):
    cdef readonly ModelSignature signature
    cdef readonly object config          # config.ModelConfig
    cdef readonly SlabPool input_pool    # for large request bodies; None: the host's
    cdef readonly ModelStatistics statistics
    cdef Scheduler scheduler
    cdef list instances                  # READY, in order
    cdef list idle                       # of instances, last used last
    cdef readonly int run_ahead          # batches that an instance may have waiting behind the one it runs
    cdef int least_ahead                 # of them however long an execution takes
    cdef int64_t mean_execution_ns       # moving average of how long an instance takes for a batch
    cdef readonly InlinePolicy inline
    cdef bint any_thread                 # every instance may run on the loop thread
    cdef bint turn_due                   # `_turn` is going to be called in this turn of the loop
    cdef DeadlineTimer timer             # None when nothing is ever delayed or times out, and after `drain`
    cdef object loop
    cdef readonly int64_t in_flight
    cdef object ordered                  # deque of requests when responses keep their order, else None
    cdef bint draining
    cdef object drained                  # future, while draining

    # Validates and queues. Takes ownership iff it returns; the sink then gets exactly one final response unless
    # the request is cancelled. Raises ServerError and leaves the request alone otherwise.
    cdef int submit(self, InferRequest request, ResponseSink sink, int64_t now_ns) except -1
    # The client is gone: a queued request is dropped, the response of a running one discarded. The sink is not
    # called any more. Does nothing for a request that is not this model's.
    cdef int cancel(self, InferRequest request) except -1

    # Starts what may start. `here`, or None: a list that takes the batches run on the loop thread, to be delivered.
    cdef int _dispatch(self, int64_t now_ns, list here=*) except -1
    cdef bint _runs_here(self, Batch batch) noexcept
    cdef int _run_here(self, Instance instance, Batch batch) except -1
    cdef int _due(self) except -1
    cdef int _deliver_batch(self, Batch batch, int64_t now_ns) except -1
    cdef int _account(self, Batch batch, InferRequest request, InferResponse response, int64_t now_ns) except -1
    cdef Batch _take(self, Instance instance, bint idle, int64_t now_ns)
    cdef int _expire(self, int64_t now_ns) except -1
    cdef int _fail_later(self, InferRequest request, object error) except -1
    cdef int _dispatch_ahead(self, int64_t now_ns) except -1
    cdef int _note_execution(self, Batch batch, bint here) except -1
    cdef int _finish(self, InferRequest request, InferResponse response) except -1
    cdef int _deliver(self, InferRequest request, InferResponse response) except -1
    cdef int _release(self) except -1
