"""One request to an ensemble: its steps are asked as their tensors come, and their responses joined. Loop thread."""

import logging
from collections import deque

cimport cython
from libc.stdint cimport int64_t

from triton_async.core.dataflow cimport Dataflow, Scope, Selection, Step, Wire, forget, in_region, inside, scope_in
from triton_async.core.servable cimport Servable
from triton_async.core.stats cimport FAIL_CANCELED, FAIL_OTHER
from triton_async.core.waits cimport Asking, depth_of, executions_behind, goes_on
from triton_async.infer.batch cimport Batch
from triton_async.infer.request cimport FLAG_SEQUENCE_END, FLAG_SEQUENCE_START, REQUEST_DONE, InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport Tensor

from triton_async.defines import ENSEMBLE_MAX_AHEAD
from triton_async.errors import InternalError, InvalidArg, ServerError, Unavailable, from_code

log = logging.getLogger("triton_async.core")

cdef int64_t MAX_AHEAD = ENSEMBLE_MAX_AHEAD

# In the place of an optional input that the request has not brought, and of an output that a step has not given.
cdef object ABSENT = object()

# Calls whose sender waits, of all ensembles.
cdef int64_t n_senders = 0


@cython.final
@cython.freelist(32)
cdef class Run:
    # -- steps -------------------------------------------------------------------------------------

    cdef int start(self, int64_t now_ns) except -1:
        cdef Dataflow flow = self.flow
        cdef ModelSignature signature = self.ensemble.signature
        cdef TensorSpec spec
        cdef Py_ssize_t i
        cdef Step step
        self.root = scope_in(None, flow.n_tensors, len(flow.steps))
        for i in range(len(flow.inputs)):
            tensor = self.request.slots[i]
            spec = <TensorSpec>signature.inputs[i]
            if tensor is not None and spec.reshape is not None:
                tensor = inside(<Tensor>tensor, spec, signature.max_batch_size > 0)
            self.root.tensors[flow.inputs[i]] = ABSENT if tensor is None else tensor
        self.busy = True
        for step in <list>self.selection.levels[0]:
            self._try(self.root, step, now_ns)
        self.begun_ns = self.ensemble.reactor.clock.now_ns()
        self.busy = False
        # Not yet: inside `submit` the front-end may not be ready for an answer.
        if self.doomed is not None or self.n_active == 0:
            self.ensemble.reactor.loop.call_soon(self.settle_later)
        return 0

    def settle_later(self):
        """`settle`, for the loop."""
        if self.request.cancelled:
            self.abandon()
        else:
            self.settle()

    # Asks the step, or those of the levels below, for which all inputs are there.
    cdef int _try(self, Scope scope, Step step, int64_t now_ns) except -1:
        cdef Scope child
        cdef Wire wire
        if self.over or self.doomed is not None:
            return 0
        if scope.level < step.level:
            if scope.children:
                for child in list(scope.children):
                    self._try(child, step, now_ns)
            return 0
        if scope.begun[step.number]:
            return 0
        for wire in step.inputs:
            if scope.find(wire.tensor) is None:
                return 0
        scope.begun[step.number] = 1
        try:
            self._ask(scope, step, now_ns)
        except Exception as error:
            self.doomed = _known(error)
        return 0

    cdef int _ask(self, Scope scope, Step step, int64_t now_ns) except -1:
        cdef InferRequest outer = self.request
        cdef StepCall call = StepCall.__new__(StepCall)
        cdef InferRequest request = InferRequest.__new__(InferRequest)
        cdef list inputs = []
        cdef Wire wire
        for wire in step.inputs:
            tensor = scope.find(wire.tensor)
            if tensor is not ABSENT:
                inputs.append(wire.fitted(<Tensor>tensor))
        request.model_name = step.model_name
        request.model_version = step.model_version
        request.id = outer.id
        request.inputs = inputs
        request.outputs = <list>self.selection.requested[step.number]
        request.parameters = outer.parameters
        request.priority = outer.priority
        request.timeout_us = outer.timeout_us
        request.sequence_id = outer.sequence_id
        request.flags = outer.flags
        request.received_ns = now_ns
        request.end_by_ns = outer.end_by_ns
        request.trace_parent = outer.trace
        call.run = self
        call.scope = scope
        call.step = step
        call.request = request
        call.target = <Servable>self.targets[step.number]
        call.unordered = True
        call.depth = depth_of(outer)
        call.downstream = scope.level > 0 or call.depth > 0 or (
            isinstance(outer.sink, StepCall) and (<StepCall>outer.sink).downstream)
        return call.begin(now_ns)

    # -- what comes back ---------------------------------------------------------------------------

    cdef int heard(self, StepCall call, InferResponse response, int64_t now_ns) except -1:
        if response.final:
            self._note_times(call.request, now_ns)
        if self.over or self.doomed is not None:
            return 0
        self.busy = True
        if response.error is not None:
            self.doomed = response.error
        else:
            try:
                self._take(call, response, now_ns)
            except Exception as error:
                self.doomed = _known(error)
        self.busy = False
        return 0

    cdef int _take(self, StepCall call, InferResponse response, int64_t now_ns) except -1:
        cdef Selection selection = self.selection
        cdef Step step = call.step
        cdef Scope scope = call.scope
        cdef Tensor tensor
        cdef Step taker
        cdef list numbers = []
        if step.decoupled:
            if response.final:
                scope.closed = True
            if not response.outputs:
                return 0
            if self.n_open >= MAX_AHEAD:
                raise Unavailable(f"too many responses of model '{step.model_name}' wait for the steps behind it")
            scope = scope_in(scope, self.flow.n_tensors, len(self.flow.steps))
        for tensor in response.outputs:
            number = step.outputs.get(tensor.name)
            if number is None:
                continue
            if selection.regions and number in selection.regions:
                tensor = in_region(tensor, selection.regions[number])
            scope.tensors[number] = tensor
            numbers.append(number)
        if len(numbers) < len(<list>selection.requested[step.number]):
            numbers += self._left_out(step, scope)
        if step.decoupled:
            if call.scope.children is None:
                call.scope.children = deque()
            call.scope.children.append(scope)
            self.n_open += 1
            for taker in <list>selection.levels[scope.level]:
                self._try(scope, taker, now_ns)
            return 0
        for number in numbers:
            for taker in <list>selection.takers[number]:
                self._try(scope, taker, now_ns)
        return 0

    def _left_out(self, Step step, Scope scope):
        """Numbers of the outputs that the step has not given: as in Triton it goes on without them, but not where a
        step behind it needs one. InvalidArg then, in the words that Triton has for steps that come to nothing.
        """
        cdef Step taker
        cdef Wire wire
        cdef list found = []
        for output in <list>self.selection.requested[step.number]:
            number = step.outputs[output.name]
            if scope.tensors[number] is not None:
                continue
            for taker in <list>self.selection.takers[number]:
                for wire in taker.inputs:
                    if wire.tensor == number and not wire.spec.optional:
                        raise self._deadlock(f": model '{step.model_name}' did not give its output '{output.name}'")
            scope.tensors[number] = ABSENT
            found.append(number)
        return found

    def _deadlock(self, str why):
        return InvalidArg(f"{self.request.log_prefix()}unexpected deadlock, at least one output is not set while no "
                          f"more ensemble steps can be made{why}")

    cdef int _note_times(self, InferRequest request, int64_t now_ns) except -1:
        cdef Batch batch
        if not isinstance(request.batch, Batch):
            # From the cache, or else of an ensemble that is a step of this one.
            if request.queue_start_ns:
                self.spent_ns[1] += now_ns - request.queue_start_ns
            return 0
        batch = <Batch>request.batch
        self.spent_ns[0] += max(batch.c.compute_input_end_ns - batch.c.compute_start_ns, 0)
        if batch.c.by_request:
            # Its execution may go on.
            self.spent_ns[1] += max(now_ns - max(batch.c.compute_input_end_ns, batch.c.compute_start_ns), 0)
            return 0
        self.spent_ns[1] += batch.c.compute_output_start_ns - batch.c.compute_input_end_ns
        self.spent_ns[2] += batch.c.compute_end_ns - batch.c.compute_output_start_ns
        return 0

    # -- responses ---------------------------------------------------------------------------------

    cdef int settle(self) except -1:
        if self.busy or self.ended:
            return 0
        if not self.over:
            if self.doomed is not None:
                return self.fail(self.doomed)
            if self._advance(self.root):
                if not self.over:
                    self._pass_on(None)
            elif self.n_active == 0 and not self.over:
                return self.fail(self._deadlock(""))
        return self._end_if_done()

    # Passes on what is complete, in order. Whether nothing more comes of this scope.
    cdef bint _advance(self, Scope scope) except -1:
        cdef Wire wire
        if scope.level == self.selection.level:
            for wire in <list>self.selection.outputs:
                if scope.find(wire.tensor) is None:
                    return False
            self._pass_on(scope)
            return True
        while scope.children:
            if not self._advance(<Scope>scope.children[0]):
                return False
            if self.over:
                return True
            scope.children.popleft()
            self.n_open -= 1
            self.relieve()
        return scope.closed

    # One response; None: the end alone.
    cdef int _pass_on(self, Scope scope) except -1:
        cdef InferRequest request = self.request
        cdef ModelSignature signature = self.ensemble.signature
        cdef InferResponse response = InferResponse.__new__(InferResponse)
        cdef Wire wire
        cdef int64_t now_ns = self.ensemble.reactor.clock.now_ns()
        response.request = request
        response.model_name = signature.model_name
        response.model_version = signature.model_version
        response.outputs = []
        response.final = scope is None or self._is_last(scope)
        if scope is not None:
            for wire in <list>self.selection.outputs:
                tensor = scope.find(wire.tensor)
                if tensor is not ABSENT:
                    response.outputs.append(wire.fitted(<Tensor>tensor))
            if self.selection.made and response.outputs:
                response.parameters = {
                    "sequence_id": request.sequence_id or 0,
                    "sequence_start": bool(request.flags & FLAG_SEQUENCE_START),
                    "sequence_end": bool(request.flags & FLAG_SEQUENCE_END),
                }
            if not self.answering:
                self.answering = True
                self.ensemble.statistics.record_first(request.received_ns or request.queue_start_ns, now_ns)
        if response.final:
            self.over = True
            request.state = REQUEST_DONE
            self.ensemble.statistics.record_ensemble(
                request.rows, request.received_ns or request.queue_start_ns, request.queue_start_ns, self.begun_ns,
                self.spent_ns, now_ns)
            if request.cache_key is not None:
                self.ensemble._keep(request, response)
        return self.ensemble._answer(request, response)

    cdef bint _is_last(self, Scope scope) noexcept:
        while scope.above is not None:
            if not scope.above.closed or len(scope.above.children) != 1:
                return False
            scope = scope.above
        return True

    # -- ends --------------------------------------------------------------------------------------

    cdef int fail(self, object error) except -1:
        cdef InferRequest request = self.request
        cdef ModelSignature signature = self.ensemble.signature
        cdef object told = from_code(error.code, f"in ensemble '{signature.model_name}', {error.message}")
        self._note_failure(FAIL_OTHER)
        self.ensemble._answer(request, InferResponse(request, signature.model_name, signature.model_version, [], None,
                                                     told))
        self._drop_calls()
        return self._end_if_done()

    cdef int abandon(self) except -1:
        if not self.over:
            self._note_failure(FAIL_CANCELED)
            self._drop_calls()
            self.ensemble._answer(self.request, None)
        return self._end_if_done()

    cdef int _note_failure(self, int reason) except -1:
        cdef InferRequest request = self.request
        self.over = True
        request.state = REQUEST_DONE
        return self.ensemble.statistics.record_failure(reason, request.received_ns or request.queue_start_ns,
                                                       self.ensemble.reactor.clock.now_ns())

    cdef int _drop_calls(self) except -1:
        cdef int64_t now_ns = self.ensemble.reactor.clock.now_ns()
        cdef StepCall call
        if self.request.inner is not None:
            for call in list(self.request.inner):
                call.drop(now_ns)
        return self.relieve()

    cdef int _end_if_done(self) except -1:
        if not self.over or self.ended or self.n_held or self.n_active:
            return 0
        self.ended = True
        self.release_targets()
        forget(self.root)
        self.root = None
        return self.ensemble._free(self.request)

    cdef int release_targets(self) except -1:
        cdef Servable target
        for target in self.targets:
            if target is not None:
                target.let_go()
        return 0

    # -- senders that are held back ----------------------------------------------------------------

    # Whether those who send responses to it had better wait.
    cdef bint crowded(self) except -1:
        return not self.over and not self.unbounded and (
            self.request.congested or self.n_open >= self.ahead)

    cdef int relieve(self) except -1:
        cdef StepCall call
        if n_senders == 0 or self.request.inner is None:
            return 0
        if self.over or self.unbounded or not (
                self.request.congested or self.n_open > self.ahead // 2):
            for call in list(self.request.inner):
                call._let_go()
            return 0
        return self.await_client()

    # Senders wait, among others for the client: to hear when that takes responses again.
    cdef int await_client(self) except -1:
        cdef InferRequest request = self.request
        if request.congested and not self.awaiting:
            self.awaiting = True
            if request.held_back is None:
                request.held_back = []
            request.held_back.append(self.relieved)
        return 0

    def relieved(self):
        """The client takes responses again."""
        self.awaiting = False
        self.relieve()


@cython.final
cdef class StepCall(Asking):
    """The request of a step."""

    cdef int begin(self, int64_t now_ns) except -1:
        cdef InferRequest outer = self.run.request
        if self.step.limit == 0 or len(self.step.open) < self.step.limit:
            return self.submit(now_ns)
        _link(outer, self)
        if self.depth and not goes_on(self.alternatives()):
            _unlink(outer, self)
            raise _never(self.step)
        if self.downstream and n_senders:
            let_senders_go(self.alternatives())
        self.step.waiting.append(self)
        self.run.n_active += 1
        return 0

    # To be called where it is not linked.
    cdef int submit(self, int64_t now_ns) except -1:
        cdef list holders
        _link(self.run.request, self)
        try:
            if self.request.trace_parent is not None:
                self.run.trace_step(self.request, self.target)
            if self.downstream:
                holders = self.target.holders_of(self.request)
                if holders is not None:
                    if self.depth and not goes_on(holders):
                        raise _never(self.step)
                    if n_senders:
                        let_senders_go(holders)
            self.target.submit(self.request, self, now_ns)
        except BaseException:
            _unlink(self.run.request, self)
            raise
        self.state = CALL_OPEN
        if self.step.limit:
            self.step.open.add(self)
        self.run.n_active += 1
        self.run.n_held += 1
        return 0

    cdef list alternatives(self):
        cdef StepCall other
        cdef list found = []
        cdef list others
        if self.state != CALL_WAITING or len(self.step.open) < self.step.limit or self.step.limit == 0:
            return Asking.alternatives(self)
        for other in self.step.open:
            others = other.alternatives()
            if others is None:
                return None
            found += others
        return found

    # -- what core tells ---------------------------------------------------------------------------

    cdef int deliver(self, InferResponse response) except -1:
        cdef Run run = self.run
        cdef Step step = self.step
        cdef int64_t now_ns
        if self.state != CALL_OPEN:
            return 0
        now_ns = run.ensemble.reactor.clock.now_ns()
        if response.final:
            self.state = CALL_ANSWERED
            self._leave()
        run.heard(self, response, now_ns)
        run.settle()
        if response.final and step.waiting:
            _start_waiting(step, now_ns)
        return 0

    cdef int released(self, object request) except -1:
        cdef Run run = self.run
        cdef Step step = self.step
        self.freed = True
        run.n_held -= 1
        if self.state == CALL_OPEN:
            if not (<InferRequest>request).cancelled:
                # Of an engine that answers by request: its final response is still to come.
                return 0
            self._give_up()
        self.state = CALL_OVER
        run._end_if_done()
        if step.waiting:
            _start_waiting(step, run.ensemble.reactor.clock.now_ns())
        return 0

    cdef int forsaken(self, object asker) except -1:
        if self.run.request.cancelled:
            return self.run.abandon()
        return 0

    cdef bint congested(self) except -1:
        cdef Run run = self.run
        cdef StepCall other
        if self.state != CALL_OPEN or not run.crowded():
            return False
        for other in run.request.inner:
            if other is not self and not other._passes():
                # It may come to need an execution that is held back, this one even.
                run.unbounded = True
                run.relieve()
                return False
        return True

    # Whether what it waits for comes to its end whatever sender is held back.
    def _passes(self):
        return not any([(<Batch>batch).signature.decoupled for batch in executions_behind(self.alternatives())])

    cdef int on_relief(self, object resume) except -1:
        global n_senders
        self.resume = resume
        n_senders += 1
        if self.request.model is not None:
            # The steps behind it may wait for what its execution holds.
            (<Servable>self.request.model).lend(self.request)
        self.run.await_client()
        return 0

    # -- its ends ----------------------------------------------------------------------------------

    # It is not wanted any more.
    cdef int drop(self, int64_t now_ns) except -1:
        if self.state == CALL_WAITING:
            self._leave()
            self.step.waiting.remove(self)
            self.state = CALL_OVER
        elif self.state == CALL_OPEN and self.request.model is not None:
            (<Servable>self.request.model).cancel(self.request, now_ns)
            if self.freed and self.state == CALL_OPEN:
                self._give_up()
        return 0

    # It is cancelled, and its inputs are free: nothing more is heard of it.
    cdef int _give_up(self) except -1:
        self.state = CALL_OVER
        return self._leave()

    # It is WAITING or OPEN no more.
    cdef int _leave(self) except -1:
        self.run.n_active -= 1
        if self.step.limit:
            self.step.open.discard(self)
        _unlink(self.run.request, self)
        return self._let_go()

    cdef int _let_go(self) except -1:
        global n_senders
        resume, self.resume = self.resume, None
        if resume is not None:
            n_senders -= 1
            resume()
        return 0


cdef int _link(InferRequest outer, StepCall call) except -1:
    if outer.inner is None:
        outer.inner = set()
    outer.inner.add(call)
    return 0


cdef int _unlink(InferRequest outer, StepCall call) except -1:
    if outer.inner is not None:
        outer.inner.discard(call)
        if not outer.inner:
            outer.inner = None
    return 0


# Those that `max_inflight_requests` has held back, as far as there are places.
cdef int _start_waiting(Step step, int64_t now_ns) except -1:
    cdef StepCall call
    while step.waiting and len(step.open) < step.limit:
        call = <StepCall>step.waiting.popleft()
        call.run.n_active -= 1
        _unlink(call.run.request, call)
        try:
            call.submit(now_ns)
        except Exception as error:
            call.state = CALL_OVER
            call.run.doomed = _known(error)
            call.run.settle()
    return 0


cdef int let_senders_go(list alternatives) except -1:
    cdef Batch batch
    cdef InferRequest request
    cdef StepCall call
    for batch in executions_behind(alternatives):
        for request in batch.requests:
            if isinstance(request.sink, StepCall):
                call = <StepCall>request.sink
                if call.resume is not None:
                    call.run.unbounded = True
                    call.run.relieve()
    return 0


# What a request fails with when something was raised.
def _known(error):
    if isinstance(error, ServerError):
        return error
    log.error("an ensemble could not go on", exc_info=error)
    return InternalError(type(error).__name__)


def _never(Step step):
    return Unavailable(
        f"the request to model '{step.model_name}' could never be answered: every instance of the model is held by a "
        "request that waits for this one"
    )
