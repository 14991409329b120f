"""One loaded model version on an engine: keeps its instances busy with what its scheduler gives. Loop thread."""

import logging

from triton_async.core.cache cimport ResponseCache
from triton_async.core.changing cimport let_instances_go, take_back
from triton_async.core.inline cimport InlinePolicy, displaced_since, shape_of, ta_switches, ta_switches_of_thread
from triton_async.core.instances cimport DESK_BORROWED, DESK_KEPT, Instance, call_in, execute_batch, has_lent, offer
from triton_async.core.limiter cimport RateLimiter
from triton_async.core.reactor cimport Reactor
from triton_async.core.scheduler cimport Scheduler, refusal
from triton_async.core.servable cimport Servable
from triton_async.core.stats cimport FAIL_BACKEND, FAIL_CANCELED, FAIL_REJECTED
from triton_async.core.trace cimport trace_execution
from triton_async.core.waits cimport holders_among
from triton_async.infer.batch cimport TA_HANDED, TA_REVOKED, Batch, ta_batch_phase, ta_batch_revoke
from triton_async.infer.request cimport (
    AWAITS_EXECUTION, AWAITS_FINAL, AWAITS_RELEASE, REQUEST_DONE, REQUEST_NEW, REQUEST_QUEUED, InferRequest,
)
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.slab cimport SlabPool

from triton_async.defines import INLINE_NBYTES, INSTANCE_RUN_AHEAD, INSTANCE_RUN_AHEAD_MAX, INSTANCE_RUN_AHEAD_NS
from triton_async.errors import Cancelled, InternalError, ServerError, Unavailable, from_code

log = logging.getLogger("triton_async.core")

cdef int RUN_AHEAD = INSTANCE_RUN_AHEAD
cdef int RUN_AHEAD_MAX = INSTANCE_RUN_AHEAD_MAX
cdef int64_t RUN_AHEAD_NS = INSTANCE_RUN_AHEAD_NS
cdef int64_t HERE_NBYTES = INLINE_NBYTES
# Share of the newest execution in the mean, and how many times RUN_AHEAD_NS a single one can weigh in it.
cdef int64_t MEAN_WEIGHT = 8
cdef int64_t MEAN_CLAMP = 4


cdef class Model(Servable):
    """A READY model version. `scheduler`: a new one, for it alone. `runs_here`: its shortest executions may run on the
    loop thread."""

    def __init__(self, Reactor reactor, ModelSignature signature, config, instances, Scheduler scheduler,
                 SlabPool input_pool=None, ResponseCache cache=None, bint runs_here=True, bytes identity=b""):
        batching = config.dynamic_batching or config.sequences
        Servable.__init__(self, reactor, signature, config, input_pool,
                          batching is not None and batching.preserve_ordering, cache, identity)
        self.scheduler = scheduler
        self.late, self.leaving = {}, {}
        self.instances = list(instances)
        self.idle = self.instances[::-1]
        # What an engine works on at once has begun; what waits behind that may be taken ahead only where no rule of the
        # scheduler would have to hold for it.
        depth = max([1] + [(<Instance>instance).depth for instance in instances])
        self.most_ahead = RUN_AHEAD_MAX if scheduler.may_run_ahead else depth - 1
        self.least_ahead = min(max(RUN_AHEAD, depth), self.most_ahead)
        self.run_ahead = self.least_ahead
        self.mean_execution_ns = MEAN_CLAMP * RUN_AHEAD_NS
        self.inline = InlinePolicy()
        # What elements a ragged batch has, and how long it takes, no shape of it bounds.
        self.any_thread = runs_here and (signature.plan is None or not signature.plan.ragged) and all(
            [(<Instance>instance).any_thread for instance in instances])
        self.batching = signature.max_batch_size > 0
        self.lends = scheduler.starts_at_once and cache is None and not signature.decoupled

    def limit(self, RateLimiter limiter, claims):
        """Has its instances wait for what they need, None for nothing (RateLimiter.add). Before the first request."""
        cdef Instance instance
        self.limiter = limiter
        for instance, claim in zip(self.instances, claims, strict=True):
            instance.claim = claim
        # What is taken ahead, or runs on the loop thread, would not wait for its turn.
        self.most_ahead = self.least_ahead = self.run_ahead = 0
        self.any_thread = False
        self.lends = False

    @property
    def pending(self):
        """Requests that were taken and have not begun: with the scheduler, or handed to an instance ahead of time."""
        cdef Instance instance
        cdef Batch batch
        count = self.scheduler.pending
        for instance in self.instances:
            for batch in instance.out:
                if ta_batch_phase(&batch.c) == TA_HANDED:
                    count += sum([not (<InferRequest>request).padding for request in batch.requests])
        return count

    @property
    def available(self):
        cdef Instance instance
        for instance in self.instances:
            if not is_away(instance):
                return True
        return not self.instances

    # -- requests in -------------------------------------------------------------------------------

    cdef int submit(self, InferRequest request, ResponseSink sink, int64_t now_ns) except -1:
        assert request.state == REQUEST_NEW
        self._check_open()
        self.signature.validate(request)
        if self.cache is not None and self._is_cached(request, sink, now_ns):
            return 0
        try:
            self.scheduler.enqueue(request, now_ns)
        except Unavailable:
            self.statistics.record_failure(FAIL_REJECTED, request.received_ns or now_ns, now_ns)
            raise
        self._accept(request, sink)
        try:
            if self.any_thread and self.inline.allowed:
                self.reactor.call_turn(self)
            else:
                self._dispatch(now_ns)
        except Exception:
            # What is queued has to stay the caller's when the caller hears of an error; what is not will be answered.
            if request.state != REQUEST_QUEUED:
                log.exception("model '%s' could not go on", self.signature.model_name)
                self.reactor.call_turn_later(self)
                return 0
            self.scheduler.remove(request)
            self._disown(request)
            raise
        return 0

    cdef int _begin(self, InferRequest request, object prepared, int64_t now_ns) except -1:
        try:
            self.scheduler.enqueue(request, now_ns)
        except Exception as error:
            self.statistics.record_failure(FAIL_REJECTED, request.received_ns or now_ns, now_ns)
            if not isinstance(error, ServerError):
                log.exception("model '%s' could not queue a request", self.signature.model_name)
                error = InternalError("no memory for a request")
            return self._end(request, error)
        return self.reactor.call_turn(self)

    cdef int cancel(self, InferRequest request, int64_t now_ns) except -1:
        if request.model is not self or request.cancelled:
            return 0
        # A response may be there already, held back for its order or for the next turn of the loop.
        self._forsake(request)
        if request.state == REQUEST_NEW:
            return self._cancel_asked(request, now_ns)
        if request.state == REQUEST_QUEUED:
            self.scheduler.remove(request)
            return self._drop(request, now_ns)
        if request.batch is not None:
            self._forsake_loan(<Batch>request.batch)
            return self._recall(request, <Batch>request.batch, now_ns)
        return 0

    # What its execution runs itself, the loop need not know of.
    cdef int _forsake_loan(self, Batch batch) except -1:
        cdef Instance instance = <Instance>batch.instance
        return 0 if instance is None or instance.runs is None else instance.runs.forsaken()

    cdef int _recall(self, InferRequest request, Batch batch, int64_t now_ns) except -1:
        cdef Instance instance = <Instance>batch.instance
        cdef InferRequest other
        cdef list kept = []
        if instance is not None and ta_batch_revoke(&batch.c):
            # The empty batch comes back through the instance, and with it the next turn of those that were kept.
            for other in batch.requests:
                if not other.padding:
                    other.batch = None
                    other.awaits &= ~AWAITS_EXECUTION
                    kept.append(other)
            return self._put_back(request, kept, now_ns)
        for other in batch.requests:
            if not other.cancelled:
                return 0
        if instance is not None:
            instance.cancel(batch)
        return 0

    cdef int _put_back(self, InferRequest request, list requests, int64_t now_ns) except -1:
        requests.remove(request)
        self.scheduler.requeue(requests)
        return self._drop(request, now_ns)

    def interrupt(self):
        cdef Instance instance
        for instance in [*self.instances, *self.leaving]:
            for batch in instance.out:
                instance.cancel(batch)
            if instance.borrower is not None:
                instance.borrower.give_up()

    # -- executions --------------------------------------------------------------------------------

    cdef int64_t turn(self, int64_t now_ns, int64_t until_ns) except -1:
        cdef list here = []
        cdef Batch batch
        try:
            now_ns = self._dispatch(now_ns, here, until_ns)
        except Exception:
            log.exception("model '%s' could not go on", self.signature.model_name)
            self.reactor.call_turn_later(self)
        for batch in here:
            now_ns = max(now_ns, batch.c.compute_end_ns)
            try:
                self._close(batch, now_ns)
            except Exception:  # the others have to be answered all the same
                log.exception("model '%s' could not answer a batch", self.signature.model_name)
        return now_ns

    cdef int64_t _dispatch(self, int64_t now_ns, list here=None, int64_t until_ns=0) except -1:
        cdef Instance instance
        cdef Batch batch
        if self.leaving:
            let_instances_go(self)
        self._expire(now_ns)
        while self.idle and self._prepare_idle():
            instance = <Instance>self.idle[len(self.idle) - 1]
            instance.desk = DESK_KEPT
            batch = self._take(instance, True, now_ns)
            if batch is None:
                break
            if here is not None and self._runs_here(batch):
                here.append(batch)
                self._run_here(instance, batch)
                if batch.c.by_request:
                    self._leave_late(instance, batch)
                now_ns = batch.c.compute_end_ns
                if now_ns > until_ns and self.scheduler.pending:
                    self.reactor.call_turn(self)
                    return now_ns
                continue
            self.idle.pop()
            self._hand_over(instance, batch)
        if not self.idle and self.scheduler.pending and self.run_ahead:
            self._dispatch_ahead(now_ns)
        self._expire(now_ns)
        self._arm()
        if self.offers and not self.scheduler.pending and not self.draining:
            offer(self.idle)
        return now_ns

    # Has an idle instance last that can run a batch. Whether to give it one: where all that can are busy it is better
    # to wait for these; where none can, one says why.
    cdef bint _prepare_idle(self) except -1:
        cdef Py_ssize_t last = len(self.idle) - 1
        cdef Py_ssize_t i
        if self._is_there(<Instance>self.idle[last]):
            return True
        for i in range(last - 1, -1, -1):
            if self._is_there(<Instance>self.idle[i]):
                self.idle.append(self.idle.pop(i))
                return True
        return not self.available

    # One that is borrowed comes back, and is not lent once more if it is needed.
    cdef bint _is_there(self, Instance instance) noexcept:
        if instance.desk == DESK_BORROWED:
            instance.wanted = instance.wanted or self.scheduler.pending > 0
            return False
        return not is_away(instance)

    cdef int _call_in(self) except -1:
        self.reactor.drain(False)
        call_in(self.instances)
        return 0

    cdef bint _has_lent(self) noexcept:
        return has_lent(self.instances) or has_lent(list(self.leaving))

    cdef int _go_on(self, int64_t now_ns) except -1:
        try:
            self._dispatch(now_ns)
        except Exception:
            log.exception("model '%s' could not start its next batch", self.signature.model_name)
            self.reactor.call_turn_later(self)
        return 0

    cdef bint _runs_here(self, Batch batch) noexcept:
        cdef int64_t nbytes = 0
        cdef int i
        # Copies to and from GPUs wait.
        if not self.any_thread or batch.c.device_inputs or batch.c.n_placements:
            return False
        for i in range(batch.c.n_inputs):
            nbytes += batch.c.inputs[i].nbytes
        return nbytes <= HERE_NBYTES and self.inline.allows(shape_of(&batch.c, self.batching), batch.c.rows)

    # Of a model that is trusted for long, without giving the GIL away: that and getting it back, maybe behind a thread
    # of Python, take longer than the execution.
    cdef int _run_here(self, Instance instance, Batch batch) except -1:
        cdef ta_switches before
        cdef bint displaced = False
        if not self.inline.watched:
            execute_batch(instance, batch)
        else:
            with nogil:
                before = ta_switches_of_thread()
                execute_batch(instance, batch)
                displaced = displaced_since(&batch.c, before)
        self.reactor.note_here(batch.c.compute_end_ns - batch.c.compute_start_ns)
        self._note_execution(batch, True, displaced)
        if self.inline.ended:
            log.warning("model '%s' held up the event loop for %d us: it runs on its instances' threads from now on",
                        self.signature.model_name, (batch.c.compute_end_ns - batch.c.compute_start_ns) // 1000)
        return 0

    # All instances are busy: what is not to grow any more may already wait in their mailboxes, evenly.
    cdef int _dispatch_ahead(self, int64_t now_ns) except -1:
        cdef Instance instance
        cdef Batch batch
        cdef int ahead
        cdef int least = RUN_AHEAD_MAX
        for instance in self.instances:
            least = min(least, instance.in_flight)
        for ahead in range(max(least, 1), self.run_ahead + 1):
            for instance in self.instances:
                if instance.in_flight > ahead or is_away(instance):
                    continue
                batch = self._take(instance, False, now_ns)
                if batch is None:
                    if self.bound:
                        continue
                    return 0
                self._hand_over(instance, batch)
        return 0

    # The next batch. Requests whose batch could not be made are answered, and those behind them get their chance.
    cdef Batch _take(self, Instance instance, bint idle, int64_t now_ns):
        cdef Batch batch = None
        if instance.claim is None:
            return self._take_any(instance, idle, now_ns)
        if not self.scheduler.pending or not self.limiter.acquire(instance.claim, self):
            return None
        try:
            batch = self._take_any(instance, idle, now_ns)
        finally:
            self.limiter.settle(instance.claim, self, batch is not None)
        return batch

    cdef Batch _take_any(self, Instance instance, bint idle, int64_t now_ns):
        cdef InferRequest request
        cdef list lost
        if idle:
            self.scheduler.idle_instances = len(self.idle)
        while True:
            try:
                return self.scheduler.take(instance, idle, now_ns)
            except Exception:
                lost = self.scheduler.take_lost()
                if not lost:
                    raise
                log.exception("model '%s' could not make a batch of %d requests", self.signature.model_name, len(lost))
            for request in lost:
                self.statistics.record_failure(FAIL_BACKEND, request.received_ns or request.queue_start_ns, now_ns)
                self._end_later(request, InternalError("no memory for a batch"))

    cdef int _hand_over(self, Instance instance, Batch batch) except -1:
        self._bind(instance, batch)
        return instance.run(batch)

    cdef int _bind(self, Instance instance, Batch batch) except -1:
        cdef InferRequest request
        batch.runner = self
        batch.instance = instance
        for request in batch.requests:
            if request.padding:
                continue
            request.batch = batch
            if instance.by_request:
                request.awaits |= AWAITS_EXECUTION
        return 0

    # Sets how far instances run ahead, from how long their executions take.
    cdef int _note_execution(self, Batch batch, bint here, bint displaced=False) except -1:
        cdef int64_t execution_ns = batch.c.compute_end_ns - batch.c.compute_start_ns
        cdef int64_t clamped_ns = min(execution_ns, MEAN_CLAMP * RUN_AHEAD_NS)
        cdef int ahead
        self.mean_execution_ns += (clamped_ns - self.mean_execution_ns) // MEAN_WEIGHT
        if self.any_thread:
            self.inline.note(shape_of(&batch.c, self.batching), batch.c.rows, execution_ns, self.mean_execution_ns,
                             here, displaced)
        ahead = <int>min(RUN_AHEAD_NS // max(self.mean_execution_ns, 1), RUN_AHEAD_MAX)
        self.run_ahead = min(max(self.least_ahead, ahead), self.most_ahead)
        return self.scheduler.note_batch(batch.c.n_requests, batch.c.rows, execution_ns, batch.c.compute_end_ns)

    cdef int _arm(self) except -1:
        cdef int64_t deadline_ns = self.scheduler.wait_until_ns if self.idle else 0
        cdef int64_t timeout_ns = self.scheduler.next_deadline_ns
        if timeout_ns and (deadline_ns == 0 or timeout_ns < deadline_ns):
            deadline_ns = timeout_ns
        if self.limiter is not None and not self.scheduler.pending:
            self.limiter.leave(self)
        return self.reactor.arm(self, deadline_ns)

    cdef int _expire(self, int64_t now_ns) except -1:
        cdef InferRequest request
        if self.scheduler.next_deadline_ns == 0 or now_ns < self.scheduler.next_deadline_ns:
            return 0
        for request in self.scheduler.expire(now_ns):
            error = refusal(request)
            reason = FAIL_CANCELED if request.cancelled or isinstance(error, Cancelled) else FAIL_REJECTED
            self.statistics.record_failure(reason, request.received_ns or request.queue_start_ns, now_ns)
            self._end_later(request, error)
        return 0

    # -- executions that wait for other requests ---------------------------------------------------

    cdef list holders(self):
        return holders_among(self.instances)

    cdef int asks_others(self, int64_t now_ns) except -1:
        cdef Instance instance
        cdef list ahead = []
        if self.most_ahead == 0:
            return 0
        self.most_ahead = self.least_ahead = self.run_ahead = 0
        for instance in self.instances:
            ahead += instance.out[1:]
        return take_back(self, sorted(ahead, key=_first_arrival))

    cdef int lend(self, InferRequest request) except -1:
        cdef Batch batch = <Batch>request.batch
        cdef Instance instance = None if batch is None else <Instance>batch.instance
        if instance is not None and instance.claim is not None:
            self.limiter.release(instance.claim)
        return 0

    # -- the three events --------------------------------------------------------------------------

    cdef int executed(self, Batch batch, int64_t now_ns) except -1:
        cdef Instance instance = <Instance>batch.instance
        cdef bint revoked = self._come_back(batch)
        if batch.c.by_request:
            self._note_late(instance, batch)
        # The instance gets its next batch before anything is delivered: it works while the loop writes.
        self._go_on(now_ns)
        return 0 if revoked else self._close(batch, now_ns)

    cdef int _note_late(self, Instance instance, Batch batch) except -1:
        cdef InferRequest request
        if not batch.c.failed:
            for request in batch.requests:
                if request.awaits & (AWAITS_FINAL | AWAITS_RELEASE):
                    self.late[request] = instance
        return 0

    # What it has said of its requests is on the ring.
    cdef int _leave_late(self, Instance instance, Batch batch) except -1:
        self._bind(instance, batch)
        batch.runner = batch.instance = None
        return self._note_late(instance, batch)

    cdef int _close(self, Batch batch, int64_t now_ns) except -1:
        return self._end_execution(batch, now_ns) if batch.c.by_request else self._deliver_batch(batch, now_ns)

    cdef bint _come_back(self, Batch batch) except -1:
        cdef Instance instance = <Instance>batch.instance
        cdef bint revoked = ta_batch_phase(&batch.c) == TA_REVOKED
        instance.take_back(batch)
        if instance.claim is not None:
            self.limiter.release(instance.claim)
        # One that was borrowed has stayed there.
        if instance.in_flight == 0 and instance not in self.leaving and not (self.offers and instance in self.idle):
            # One without an engine or a thread answers at once and would draw all batches to itself: it comes last.
            able = instance.engine is not None and instance.thread is not None
            self.idle.insert(len(self.idle) if able else 0, instance)
        batch.runner = batch.instance = None
        if revoked:
            self.scheduler.note_batch(batch.c.n_requests, batch.c.rows, -1, batch.c.compute_end_ns)
        else:
            self._note_execution(batch, False)
        return revoked

    cdef list _finish(self, Batch batch, int64_t now_ns):
        return batch.finish()

    cdef int _deliver_batch(self, Batch batch, int64_t now_ns) except -1:
        cdef InferResponse response
        cdef InferRequest request
        if not batch.c.failed:
            self.statistics.record_execution(&batch.c)
        for response in self._finish(batch, now_ns):
            request = <InferRequest>response.request
            request.state = REQUEST_DONE
            request.awaits &= ~AWAITS_EXECUTION
            request.failed = response.error is not None
            self._account(request, batch, now_ns)
            if request.cache_key is not None:
                self._keep(request, response)
            self._answer(request, response)
            self._free(request)
        return 0

    # The engine has answered some of the requests, and still has the others. With an error of the whole batch nothing
    # more comes from it.
    cdef int _end_execution(self, Batch batch, int64_t now_ns) except -1:
        cdef InferRequest request
        cdef object error = None
        if batch.c.failed:
            error = batch.c.error.decode("utf-8", "ignore")
        else:
            self.statistics.record_execution(&batch.c)
        for request in batch.requests:
            if not request.awaits & AWAITS_EXECUTION:
                continue
            request.awaits &= ~AWAITS_EXECUTION
            self._tell_inner(request)
            if not request.awaits & AWAITS_FINAL:
                self._account(request, batch, now_ns)
                self._leave_if_done(request)
            elif error is not None:
                request.failed = True
                self._account(request, batch, now_ns)
                self._answer(request, self._response(request, from_code(batch.c.error_code, error)))
        return 0

    cdef int responded(self, InferResponse response, int64_t now_ns) except -1:
        cdef InferRequest request = <InferRequest>response.request
        if not request.awaits & AWAITS_FINAL:
            log.error("model '%s' answered a request behind its final response", self.signature.model_name)
            return 0
        if self.signature.decoupled:
            self.statistics.record_response(response, request.cancelled)
            if not (response.number or response.error is not None or request.cancelled or
                    response.final and not response.outputs):
                self.statistics.record_first(request.received_ns or request.queue_start_ns, now_ns)
        if response.final:
            request.failed = response.error is not None
            if request.cache_key is not None:
                self._keep(request, response)
            if not request.awaits & AWAITS_EXECUTION:
                self._account(request, <Batch>request.batch, now_ns)
        self._answer(request, response)
        return self._over(request) if self.late else 0

    cdef int released(self, InferRequest request, int64_t now_ns) except -1:
        if not request.awaits & AWAITS_RELEASE:
            log.error("model '%s' released a request twice", self.signature.model_name)
            return 0
        if request.awaits & AWAITS_FINAL and not self.signature.decoupled:
            log.error("model '%s' released a request that it had not answered", self.signature.model_name)
            self.responded(self._response(request, InternalError(
                f"model '{self.signature.model_name}' released the request without a response"
            )), now_ns)
        self._free(request)
        return self._over(request) if self.late else 0

    cdef int _over(self, InferRequest request) except -1:
        if not request.awaits & (AWAITS_FINAL | AWAITS_RELEASE) and self.late.pop(request, None) and self.leaving:
            let_instances_go(self)
        return 0

    def _response(self, InferRequest request, error):
        return InferResponse(request, self.signature.model_name, self.signature.model_version, [], None, error)

    # -- accounts ----------------------------------------------------------------------------------

    # Of a request that was answered and whose execution is over.
    cdef int _account(self, InferRequest request, Batch batch, int64_t now_ns) except -1:
        cdef int64_t start_ns = request.received_ns or request.queue_start_ns
        if request.trace is not None:
            trace_execution(request, &batch.c)
        if request.cancelled:
            self.statistics.record_failure(FAIL_CANCELED, start_ns, now_ns)
        elif request.failed:
            self.statistics.record_failure(FAIL_BACKEND, start_ns, now_ns)
        else:
            self.statistics.record_success(&batch.c, request.rows, start_ns, request.queue_start_ns, now_ns)
        return 0

    # Ends a request that no instance has begun because its client has gone.
    cdef int _drop(self, InferRequest request, int64_t now_ns) except -1:
        self.statistics.record_failure(FAIL_CANCELED, request.received_ns or request.queue_start_ns, now_ns)
        if self.limiter is not None and not self.scheduler.pending:
            self.limiter.leave(self)
        return self._end(request, None)

    def asked_for_readiness(self):
        """The instances whose model says itself if it is ready."""
        cdef Instance instance
        return [instance for instance in self.instances if instance.asks_ready]

    # -- end ---------------------------------------------------------------------------------------

    def take_instances(self):
        instances = self.instances
        Servable.take_instances(self)
        if self.limiter is not None:
            self.limiter.leave(self)
            self.limiter.remove([(<Instance>instance).claim for instance in instances])
        self.instances = []
        self.idle = []
        return instances


# Whether its engine says that it is away and will be back. One that is being made anew counts as there.
cdef bint is_away(Instance instance) noexcept:
    return instance.engine is not None and instance.engine.unavailable


def _first_arrival(Batch batch):
    return (<InferRequest>batch.requests[0]).arrival
