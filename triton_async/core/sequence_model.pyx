"""A model whose requests belong to sequences: hands states on from step to step. Loop thread."""

import logging

from libc.stdint cimport int64_t

from triton_async.core.changing cimport let_instances_go
from triton_async.core.instances cimport DESK_KEPT, Instance
from triton_async.core.model cimport Model, is_away
from triton_async.core.sequences cimport SequenceBatcher
from triton_async.core.servable cimport Servable
from triton_async.infer.batch cimport TA_BEGUN, Batch, ta_batch_phase
from triton_async.infer.request cimport (
    AWAITS_EXECUTION,
    AWAITS_FINAL,
    AWAITS_RELEASE,
    FLAG_SEQUENCE_START,
    REQUEST_QUEUED,
    InferRequest,
)
from triton_async.infer.response cimport InferResponse, ResponseSink

from triton_async.defines import SEQUENCE_LINGER_S

log = logging.getLogger("triton_async.core")

cdef double LINGER_S = SEQUENCE_LINGER_S


cdef class SequenceModel(Model):
    """See Model. `scheduler`: a SequenceBatcher."""

    def __init__(self, reactor, signature, config, instances, SequenceBatcher scheduler, input_pool=None,
                 bint runs_here=True, bytes identity=b""):
        Model.__init__(self, reactor, signature, config, instances, scheduler, input_pool, None, runs_here, identity)
        self.bound = True
        self.sequences = scheduler
        scheduler.wake = self._wake
        self.retiring = {}

    def _wake(self):
        self.reactor.call_turn(self)

    # -- an earlier load, and a later one ----------------------------------------------------------

    def goes_on_with(self, InferRequest request):
        cdef SequenceModel model = self
        if request.flags & FLAG_SEQUENCE_START:
            return False
        while model is not None:
            if model.sequences.is_open(request.sequence_id):
                return True
            model = model.before
        return False

    def sequences_left(self):
        return 0 if self.sequences.iterative else self.sequences.live

    def follow(self, Servable old):
        cdef SequenceModel earlier
        if not isinstance(old, SequenceModel):
            return
        earlier = <SequenceModel>old
        earlier.followed = True
        if earlier.sequences.iterative or earlier.sequences.live == 0:
            self.before = earlier.before
            return
        self.before = earlier
        earlier.lingers = True
        earlier.hold()
        earlier.end_timer = self.reactor.loop.call_later(LINGER_S, earlier._end_lingering)

    def _end_lingering(self):
        log.warning("%d sequences of model '%s' that began before it was loaded anew are ended after %g s",
                    self.sequences.live, self.signature.model_name, LINGER_S)
        self._depart()

    cdef int _depart(self) except -1:
        if not self.lingers:
            return 0
        self.lingers = False
        self.end_timer.cancel()
        self.end_timer = None
        return self.let_go()

    cdef SequenceModel _earlier(self, InferRequest request):
        cdef SequenceModel model
        while self.before is not None and not self.before.lingers:
            self.before = self.before.before
        model = self.before
        while model is not None:
            if model.lingers and model.sequences.is_open(request.sequence_id):
                if not request.flags & FLAG_SEQUENCE_START:
                    return model
                model.sequences.close_one(request.sequence_id)
                model._wake()
                return None
            model = model.before
        return None

    async def drain(self):
        cdef SequenceModel model = self.before
        if not self.followed:  # unloaded: earlier loads go, too
            while model is not None:
                model._depart()
                model = model.before
        await Model.drain(self)
        self._let_go_of(list(self.retiring))

    # -- in-place updates --------------------------------------------------------------------------

    def change_instances(self, config, list instances, list gone, on_gone):
        """As core.changing's of other models. Those of `gone` keep the sequences that they have, and get no others,
        until these are over: then they go.
        """
        cdef Instance instance
        cdef list new = [instance for instance in instances if instance not in self.instances]
        self.instances = [*instances, *self.retiring, *gone]
        self.idle[:0] = new[::-1]
        self.config = config
        for instance in gone:
            self.retiring[instance] = on_gone
        self.sequences.change_instances(instances)
        self._wake()

    cdef int _let_go_of(self, list instances) except -1:
        cdef Instance instance
        for instance in instances:
            on_gone = self.retiring.pop(instance, None)
            if on_gone is not None:
                self.leaving[instance] = on_gone
                self.instances.remove(instance)
                if instance in self.idle:
                    instance.desk = DESK_KEPT
                    self.idle.remove(instance)
        let_instances_go(self)
        return 0

    cdef int _arm(self) except -1:
        cdef list emptied = self.sequences.emptied
        if emptied:
            self.sequences.emptied = []
            for instance in emptied:
                self.sequences.forget_instance(instance)
            self._let_go_of(emptied)
        elif self.leaving:
            let_instances_go(self)
        Model._arm(self)
        return self._depart() if self.lingers and self.sequences.live == 0 else 0

    # -- requests in -------------------------------------------------------------------------------

    cdef int submit(self, InferRequest request, ResponseSink sink, int64_t now_ns) except -1:
        cdef SequenceModel earlier
        if self.before is not None:
            earlier = self._earlier(request)
            if earlier is not None:
                return Model.submit(earlier, request, sink, now_ns)
        return Model.submit(self, request, sink, now_ns)

    cdef int cancel(self, InferRequest request, int64_t now_ns) except -1:
        cdef bint waits = request.state == REQUEST_QUEUED
        Model.cancel(self, request, now_ns)
        # With it others may go, and a slot become free.
        return self._go_on(now_ns) if waits else 0

    cdef int _put_back(self, InferRequest request, list requests, int64_t now_ns) except -1:
        self.sequences.requeue(requests)
        if request.state != REQUEST_QUEUED:  # given up with its sequence
            return 0
        self.sequences.remove(request)
        return self._drop(request, now_ns)

    # -- executions --------------------------------------------------------------------------------

    cdef int64_t turn(self, int64_t now_ns, int64_t until_ns) except -1:
        self.ran_here = False
        now_ns = Model.turn(self, now_ns, until_ns)
        if self.ran_here and self.sequences.pending:
            self.reactor.call_turn(self)  # the next steps of what was answered
        return now_ns

    cdef int64_t _dispatch(self, int64_t now_ns, list here=None, int64_t until_ns=0) except -1:
        cdef Instance instance
        cdef Batch batch
        cdef bint available
        self._expire(now_ns)
        if self.sequences.pending:
            available = self.available
            for instance in self.idle[::-1]:
                # One that comes back has its sequences still.
                if available and is_away(instance):
                    continue
                batch = self._take(instance, True, now_ns)
                if batch is None:
                    continue
                if here is not None and self._runs_here(batch):
                    here.append(batch)
                    self.ran_here = True
                    self._run_here(instance, batch)
                    now_ns = batch.c.compute_end_ns
                    if now_ns > until_ns:
                        break
                    continue
                self.idle.remove(instance)
                self._hand_over(instance, batch)
            if not self.idle and self.sequences.pending and self.run_ahead:
                self._dispatch_ahead(now_ns)
            self._expire(now_ns)
        self._arm()
        return now_ns

    cdef list holders_of(self, InferRequest request):
        cdef Instance instance
        cdef Batch batch
        cdef InferRequest running
        if request.model is not None and request.model is not self:
            return (<Servable>request.model).holders_of(request)
        running = self.sequences.running_of(request.sequence_id)
        if self.sequences.iterative:
            return self.holders()
        if running is not None:
            return None if running.batch is None else [running.batch]
        instance = <Instance>self.sequences.instance_of(request.sequence_id)
        if instance is None:
            return self.holders()
        batch = <Batch>instance.out[0] if instance.out else None
        return None if batch is None or ta_batch_phase(&batch.c) != TA_BEGUN else [batch]

    # -- the three events --------------------------------------------------------------------------

    cdef int executed(self, Batch batch, int64_t now_ns) except -1:
        cdef Instance instance = <Instance>batch.instance
        cdef bint revoked = self._come_back(batch)
        try:
            if revoked:
                return 0
            if batch.c.by_request:
                self._note_late(instance, batch)
            if batch.c.by_request:
                return self._end_execution(batch, now_ns)
            return self._deliver_batch(batch, now_ns)
        finally:
            self._go_on(now_ns)

    cdef list _finish(self, Batch batch, int64_t now_ns):
        cdef InferResponse response
        cdef InferRequest request
        cdef list responses = []
        for response in batch.finish():
            request = <InferRequest>response.request
            if request.padding:
                continue
            responses.append(self._without_states(response))
            self.sequences.done(request, now_ns)
        return responses

    cdef int _end_execution(self, Batch batch, int64_t now_ns) except -1:
        cdef InferRequest request
        for request in batch.requests:
            if request.rescheduled and request.awaits & AWAITS_EXECUTION:
                request.awaits &= ~AWAITS_EXECUTION
                self._tell_inner(request)
                self._resume(request, now_ns)
        Model._end_execution(self, batch, now_ns)
        for request in batch.requests:
            self._step_over(request, now_ns)
        return 0

    cdef int responded(self, InferResponse response, int64_t now_ns) except -1:
        cdef InferRequest request = <InferRequest>response.request
        Model.responded(self, self._without_states(response), now_ns)
        return self._go_on(now_ns) if self._step_over(request, now_ns) else 0

    cdef int released(self, InferRequest request, int64_t now_ns) except -1:
        if request.rescheduled and request.awaits & AWAITS_RELEASE:
            if request.awaits & AWAITS_EXECUTION:
                return 0
            self._resume(request, now_ns)
            return self._go_on(now_ns)
        Model.released(self, request, now_ns)
        return self._go_on(now_ns) if self._step_over(request, now_ns) else 0

    cdef bint _step_over(self, InferRequest request, int64_t now_ns) except -1:
        cdef int awaited = AWAITS_FINAL | AWAITS_RELEASE | AWAITS_EXECUTION
        if self.signature.decoupled and not self.sequences.iterative:
            awaited = AWAITS_EXECUTION
        if request.sequence is None or request.state == REQUEST_QUEUED or request.awaits & awaited:
            return False
        self.sequences.done(request, now_ns)
        return True

    cdef int _resume(self, InferRequest request, int64_t now_ns) except -1:
        request.rescheduled = False
        request.batch = None
        self.late.pop(request, None)
        self.statistics.record_pass(request.rows)
        if not request.cancelled:
            return self.sequences.reschedule(request, now_ns)
        self.sequences.done(request, now_ns)
        return self._drop(request, now_ns)

    cdef InferResponse _without_states(self, InferResponse response):
        error = self.sequences.take_states(response)
        if error is None:
            return response
        return InferResponse(response.request, self.signature.model_name, self.signature.model_version, [], None,
                             error, response.final)

    # -- end ---------------------------------------------------------------------------------------

    def take_instances(self):
        self.before = None
        self.sequences.close()
        return Model.take_instances(self)
