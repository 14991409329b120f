"""One loaded model version: queues requests, keeps its instances busy, delivers responses. Loop thread."""

import logging
from collections import deque

from triton_async.core.batcher cimport DynamicBatcher
from triton_async.core.completion cimport BatchOwner, DeadlineTimer
from triton_async.core.inline cimport InlinePolicy
from triton_async.core.instances cimport Instance
from triton_async.core.queue cimport RequestQueue
from triton_async.core.stats cimport (
    FAIL_BACKEND,
    FAIL_CANCELED,
    FAIL_REJECTED,
    ModelStatistics,
)
from triton_async.core.wakeup cimport ta_now_ns
from triton_async.infer.batch cimport Batch, check_batch
from triton_async.infer.request cimport (
    REQUEST_DONE,
    REQUEST_NEW,
    REQUEST_QUEUED,
    InferRequest,
)
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.slab cimport SlabPool

from triton_async.defines import (
    INLINE_NBYTES,
    INLINE_STALL_NS,
    INSTANCE_RUN_AHEAD,
    INSTANCE_RUN_AHEAD_MAX,
    INSTANCE_RUN_AHEAD_NS,
)
from triton_async.errors import InternalError, Unavailable

log = logging.getLogger("triton_async.core")

cdef int RUN_AHEAD = INSTANCE_RUN_AHEAD
cdef int RUN_AHEAD_MAX = INSTANCE_RUN_AHEAD_MAX
cdef int64_t RUN_AHEAD_NS = INSTANCE_RUN_AHEAD_NS
cdef int64_t HERE_NBYTES = INLINE_NBYTES
# How long one turn of the loop may execute before the sockets are looked at again.
cdef int64_t TURN_NS = INLINE_STALL_NS
# Share of the newest execution in the mean, and how many times RUN_AHEAD_NS a single one can weigh in it.
cdef int64_t MEAN_WEIGHT = 8
cdef int64_t MEAN_CLAMP = 4


cdef class Model(BatchOwner):
    """A READY model version. `policies`, `default_level`: of its queue, from the model config. `input_pool`: for large
    request bodies, None for the host's."""

    def __init__(self, loop, ModelSignature signature, config, list instances, policies, int default_level,
                 SlabPool input_pool=None):
        self.loop = loop
        self.signature = signature
        self.config = config
        self.input_pool = input_pool
        self.statistics = ModelStatistics()
        self.least_ahead = max([RUN_AHEAD] + [(<Instance>instance).engine.depth for instance in instances])
        self.run_ahead = self.least_ahead
        self.mean_execution_ns = MEAN_CLAMP * RUN_AHEAD_NS
        self.inline = InlinePolicy()
        self.any_thread = all([(<Instance>instance).engine.any_thread for instance in instances])
        batching = config.dynamic_batching
        self.batcher = DynamicBatcher(signature, RequestQueue(policies, default_level), batching)
        self.instances = list(instances)
        self.idle = list(reversed(instances))
        if batching is not None and batching.preserve_ordering:
            self.ordered = deque()
        # Made now: a request that is queued already could not be refused for want of a descriptor.
        if self.batcher.delay_ns or any([p.default_timeout_us or p.allow_timeout_override for p in policies]):
            self.timer = DeadlineTimer(loop, self._on_deadline)

    @property
    def pending(self):
        """Requests accepted and not started."""
        return self.batcher.queue.size

    cdef int submit(self, InferRequest request, ResponseSink sink, int64_t now_ns) except -1:
        assert request.state == REQUEST_NEW
        if self.draining:
            raise Unavailable(f"model '{self.signature.model_name}' is being unloaded")
        self.signature.validate(request)
        try:
            self.batcher.enqueue(request, now_ns)
        except Unavailable:
            self.statistics.record_failure(FAIL_REJECTED, request.received_ns or now_ns, now_ns)
            raise
        request.sink = sink
        request.model = self
        self.in_flight += 1
        if self.ordered is not None:
            request.place = []
            self.ordered.append(request)
        if self.any_thread and self.inline.allowed:
            return self._due()
        return self._dispatch(now_ns)

    cdef int cancel(self, InferRequest request) except -1:
        cdef int64_t now_ns = ta_now_ns()
        if request.model is not self or request.cancelled:
            return 0
        # A response may be there already, held back for its order or for the next turn of the loop.
        request.cancelled = True
        request.sink = None
        if request.state == REQUEST_QUEUED:
            self.batcher.queue.remove(request)
            self.statistics.record_failure(FAIL_CANCELED, request.received_ns or request.queue_start_ns, now_ns)
            self._finish(request, None)
        return 0

    cdef int complete(self, Batch batch) except -1:
        cdef Instance instance = <Instance>batch.instance
        cdef int64_t now_ns
        instance.in_flight -= 1
        if instance.in_flight == 0:
            # One without an engine or a thread answers at once and would draw all batches to itself: it comes last.
            able = instance.engine is not None and instance.thread is not None
            self.idle.insert(len(self.idle) if able else 0, instance)
        self._note_execution(batch, False)
        # The instance gets its next batch before anything is delivered: it works while the loop writes.
        now_ns = ta_now_ns()
        try:
            self._dispatch(now_ns)
        except Exception:  # this batch must be answered all the same
            log.exception("model '%s' could not start its next batch", self.signature.model_name)
        return self._deliver_batch(batch, now_ns)

    cdef int _deliver_batch(self, Batch batch, int64_t now_ns) except -1:
        cdef InferResponse response
        cdef InferRequest request
        if not batch.c.failed:
            self.statistics.record_execution(&batch.c)
        for response in batch.finish():
            request = <InferRequest>response.request
            request.state = REQUEST_DONE
            self._account(batch, request, response, now_ns)
            self._finish(request, response)
        batch.runner = None
        batch.instance = None
        return 0

    cdef int _account(self, Batch batch, InferRequest request, InferResponse response, int64_t now_ns) except -1:
        cdef int64_t start_ns = request.received_ns or request.queue_start_ns
        if request.cancelled:
            self.statistics.record_failure(FAIL_CANCELED, start_ns, now_ns)
        elif response.error is not None:
            self.statistics.record_failure(FAIL_BACKEND, start_ns, now_ns)
        else:
            self.statistics.record_success(&batch.c, request.rows, start_ns, request.queue_start_ns, now_ns)
        return 0

    cdef int _dispatch(self, int64_t now_ns, list here=None) except -1:
        cdef Instance instance
        cdef Batch batch
        cdef int64_t until_ns = now_ns + TURN_NS
        if self.batcher.queue.next_deadline_ns:
            self._expire(now_ns)
        while self.idle:
            batch = self._take(now_ns, True)
            if batch is None:
                break
            if here is not None and self._runs_here(batch):
                here.append(batch)
                self._run_here(<Instance>self.idle[-1], batch)
                if batch.c.compute_end_ns > until_ns:
                    self._due()
                    return 0
                continue
            instance = <Instance>self.idle.pop()
            _hand_over(self, instance, batch)
        if not self.idle and self.batcher.queue.size:
            self._dispatch_ahead(now_ns)
        if self.timer is not None:
            self._arm()
        return 0

    # The requests of all sockets that were readable come first, then one turn runs them.
    cdef int _due(self) except -1:
        if not self.turn_due:
            self.turn_due = True
            self.loop.call_soon(self._turn)
        return 0

    def _turn(self):
        cdef list here = []
        cdef Batch batch
        self.turn_due = False
        try:
            self._dispatch(ta_now_ns(), here)
        finally:
            for batch in here:
                self._deliver_batch(batch, ta_now_ns())

    cdef bint _runs_here(self, Batch batch) noexcept:
        cdef int64_t nbytes = 0
        cdef int i
        # Copies to and from GPUs wait.
        if not self.inline.allowed or batch.c.device_inputs or batch.c.n_placements:
            return False
        for i in range(batch.c.n_inputs):
            nbytes += batch.c.inputs[i].nbytes
        return nbytes <= HERE_NBYTES

    cdef int _run_here(self, Instance instance, Batch batch) except -1:
        with nogil:
            batch.c.compute_start_ns = ta_now_ns()
            instance.engine.execute(&batch.c)
            check_batch(&batch.c)
        return self._note_execution(batch, True)

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
                if instance.in_flight > ahead:
                    continue
                batch = self._take(now_ns, False)
                if batch is None:
                    return 0
                _hand_over(self, instance, batch)
        return 0

    # The next batch. Requests whose batch could not be made are answered, and those behind them get their chance.
    cdef Batch _take(self, int64_t now_ns, bint idle):
        cdef InferRequest request
        cdef list lost
        while True:
            try:
                return self.batcher.take(now_ns, idle)
            except Exception:
                lost = self.batcher.take_lost()
                if not lost:
                    raise
                log.exception("model '%s' could not make a batch of %d requests", self.signature.model_name, len(lost))
            for request in lost:
                request.state = REQUEST_DONE
                self.statistics.record_failure(FAIL_BACKEND, request.received_ns or request.queue_start_ns, now_ns)
                self._fail_later(request, InternalError("no memory for a batch"))

    # Not from inside `submit`: the front-end may not be ready for an answer yet.
    cdef int _fail_later(self, InferRequest request, object error) except -1:
        response = InferResponse(request, self.signature.model_name, self.signature.model_version, [], None, error)
        self.loop.call_soon(self._finish_later, request, response)
        return 0

    # Sets how far instances run ahead, from how long their executions take.
    cdef int _note_execution(self, Batch batch, bint here) except -1:
        cdef int64_t execution_ns = batch.c.compute_end_ns - batch.c.compute_start_ns
        cdef int64_t clamped_ns = min(execution_ns, MEAN_CLAMP * RUN_AHEAD_NS)
        self.mean_execution_ns += (clamped_ns - self.mean_execution_ns) // MEAN_WEIGHT
        self.inline.note(execution_ns, self.mean_execution_ns, here)
        self.run_ahead = max(self.least_ahead, min(RUN_AHEAD_NS // max(self.mean_execution_ns, 1), RUN_AHEAD_MAX))
        return 0

    def _arm(self):
        cdef int64_t deadline_ns = self.batcher.wait_until_ns if self.idle else 0
        cdef int64_t timeout_ns = self.batcher.queue.next_deadline_ns
        if timeout_ns and (deadline_ns == 0 or timeout_ns < deadline_ns):
            deadline_ns = timeout_ns
        self.timer.arm(deadline_ns)

    def _on_deadline(self):
        self._turn()

    def _expire(self, int64_t now_ns):
        cdef InferRequest request
        for request in self.batcher.queue.expire(now_ns):
            self.statistics.record_failure(FAIL_REJECTED, request.received_ns or request.queue_start_ns, now_ns)
            self._fail_later(request, Unavailable("Request timeout expired"))

    def _finish_later(self, InferRequest request, InferResponse response):
        self._finish(request, response)

    # Delivers now, or keeps the place in line when responses keep the order of their requests.
    cdef int _finish(self, InferRequest request, InferResponse response) except -1:
        if self.ordered is None:
            return self._deliver(request, response)
        request.place.append(response)
        while self.ordered:
            request = <InferRequest>self.ordered[0]
            if not request.place:
                break
            self.ordered.popleft()
            response = <InferResponse>request.place[0]
            request.place = None
            self._deliver(request, response)
        return 0

    cdef int _deliver(self, InferRequest request, InferResponse response) except -1:
        cdef ResponseSink sink = request.sink
        assert request.model is self and request.state == REQUEST_DONE
        request.sink = None
        request.model = None
        self.in_flight -= 1
        if sink is not None and response is not None:
            try:
                sink.deliver(response)
            except Exception:
                log.exception("a front-end failed to take a response")
        if self.draining and self.in_flight == 0:
            self._release()
        return 0

    cdef int _release(self) except -1:
        if not self.drained.done():
            self.drained.set_result(None)
        return 0

    async def drain(self):
        """Refuses new requests and waits until none is in flight. Call once."""
        self.draining = True
        self.drained = self.loop.create_future()
        if self.in_flight == 0:
            self._release()
        await self.drained
        if self.timer is not None:
            self.timer.close()
            self.timer = None

    def take_instances(self):
        """Gives up the instances, for their shutdown, after `drain`."""
        instances = self.instances
        self.instances = []
        self.idle = []
        return instances


cdef int _hand_over(Model model, Instance instance, Batch batch) except -1:
    batch.runner = model
    batch.instance = instance
    return instance.run(batch)
