# One loaded model version on an engine: its scheduler and its instances.

from libc.stdint cimport int64_t

from triton_async.core.inline cimport InlinePolicy
from triton_async.core.instances cimport Instance
from triton_async.core.limiter cimport RateLimiter
from triton_async.core.scheduler cimport Scheduler
from triton_async.core.servable cimport Servable
from triton_async.infer.batch cimport Batch
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink

# Loop thread.
#
# Invariants
#   - an idle instance and a batch that may start never exist at the same time after a public method returns, unless
#     a turn is due
#   - a request is with the scheduler, or in a batch of an instance, or, behind the execution, with an engine that
#     answers by request, or waits for its place in the order of responses
#   - what an instance has not begun can be taken back, so that the scheduler's rules hold for it
cdef class Model(Servable):
    cdef Scheduler scheduler
    cdef bint bound                      # what the scheduler has for one instance may be nothing for another
    cdef list instances                  # READY, in order
    cdef list idle                       # of instances, last used last
    cdef readonly int run_ahead          # batches that an instance may have waiting behind the one it runs
    cdef int least_ahead                 # of them however long an execution takes
    cdef int most_ahead
    cdef RateLimiter limiter             # what instances with a claim ask before they begin; None: no one has any
    cdef int64_t mean_execution_ns       # moving average of how long an instance takes for a batch
    cdef readonly InlinePolicy inline
    cdef bint batching                   # the first dimension of its tensors is rows
    cdef bint lends                      # what comes while an instance is idle and nobody waits begins at once
    cdef bint offers                     # and other models have asked it: its idle instances are OFFERED
    cdef bint any_thread                 # every instance may run on the loop thread
    # Request -> the instance that still answers it, or holds its inputs, behind its execution.
    cdef dict late
    # Instance that is to go once it has nothing -> what to call then (core.changing).
    cdef dict leaving

    # Starts what may start. `here`, or None: a list that takes the batches run on the loop thread, to be delivered;
    # none is run there behind `until_ns`. Returns the time behind the last one, `now_ns` for none.
    cdef int64_t _dispatch(self, int64_t now_ns, list here=*, int64_t until_ns=*) except -1
    cdef bint _prepare_idle(self) except -1
    # Whether the loop may give an idle instance its next batch.
    cdef bint _is_there(self, Instance instance) noexcept
    # The same behind an event that has to be dealt with all the same: what goes wrong is tried again later.
    cdef int _go_on(self, int64_t now_ns) except -1
    cdef bint _runs_here(self, Batch batch) noexcept
    cdef int _run_here(self, Instance instance, Batch batch) except -1
    cdef Batch _take(self, Instance instance, bint idle, int64_t now_ns)
    cdef Batch _take_any(self, Instance instance, bint idle, int64_t now_ns)
    cdef int _hand_over(self, Instance instance, Batch batch) except -1
    cdef int _bind(self, Instance instance, Batch batch) except -1
    cdef int _dispatch_ahead(self, int64_t now_ns) except -1
    cdef int _arm(self) except -1
    cdef int _expire(self, int64_t now_ns) except -1
    cdef int _forsake_loan(self, Batch batch) except -1
    # A running request was cancelled: takes its batch back if that has not begun, or has the engine give it up when
    # nobody waits for it.
    cdef int _recall(self, InferRequest request, Batch batch, int64_t now_ns) except -1
    # The requests of a batch that was taken back go to the scheduler again, but for the cancelled one, which ends.
    cdef int _put_back(self, InferRequest request, list requests, int64_t now_ns) except -1

    # An instance has nothing to do with the batch any more. Whether it was taken back before it began.
    cdef bint _come_back(self, Batch batch) except -1
    # The same for one that ran on the loop thread and answers by request. What the instance still has of it.
    cdef int _leave_late(self, Instance instance, Batch batch) except -1
    cdef int _note_late(self, Instance instance, Batch batch) except -1
    # The responses of a whole batch, of its requests alone.
    cdef list _finish(self, Batch batch, int64_t now_ns)
    # Answers and accounts for a whole batch; of an engine that answers by request, closes the books on the execution.
    cdef int _close(self, Batch batch, int64_t now_ns) except -1
    cdef int _deliver_batch(self, Batch batch, int64_t now_ns) except -1
    cdef int _end_execution(self, Batch batch, int64_t now_ns) except -1
    cdef int _account(self, InferRequest request, Batch batch, int64_t now_ns) except -1
    cdef int _drop(self, InferRequest request, int64_t now_ns) except -1
    # An instance that is to go does so behind the last of its requests.
    cdef int _over(self, InferRequest request) except -1
    cdef int _note_execution(self, Batch batch, bint here, bint displaced=*) except -1

# Whether its engine says that it is away and will be back. One that is being made anew counts as there.
cdef bint is_away(Instance instance) noexcept
