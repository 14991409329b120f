"""Requests of models to other models of the server: taken from any thread, answered on the loop, never in a circle."""

import asyncio
import logging
from _thread import get_ident
from concurrent.futures import CancelledError
from contextlib import ExitStack

cimport cython
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t

from triton_async.backends.base cimport ModelInstance
from triton_async.core.instances cimport Instance
from triton_async.core.lending cimport Loan, borrow
from triton_async.core.model cimport Model
from triton_async.core.reactor cimport Errand
from triton_async.core.servable cimport Servable
from triton_async.core.server cimport InferenceServer
from triton_async.core.waits cimport Asking, depth_of, goes_on
from triton_async.infer.batch cimport TA_BEGUN, Batch, ta_batch_phase
from triton_async.infer.request cimport AWAITS_EXECUTION, InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.tensor cimport Tensor
from triton_async.infer.trace cimport Trace
from triton_async.memory.buffer cimport MEMORY_GPU

from triton_async.core.model_lock import current
from triton_async.core.threads import waiting
from triton_async.defines import INNER_MAX_DEPTH, INNER_MAX_OPEN, INNER_MAX_UNREAD, INNER_UNREAD
from triton_async.errors import (
    Cancelled,
    DecoupledModel,
    InternalError,
    ServerError,
    Unavailable,
    Unsupported,
    from_code,
)

log = logging.getLogger("triton_async.core")

cdef int MAX_DEPTH = INNER_MAX_DEPTH
cdef Py_ssize_t MAX_OPEN = INNER_MAX_OPEN
cdef int64_t UNREAD = INNER_UNREAD
cdef int64_t MAX_UNREAD = INNER_MAX_UNREAD


@cython.final
cdef class InnerRequest(Asking):
    """What `submit` returns. Called, it cancels the request: any thread, any time."""

    def __call__(self):
        self.service.want(self, ERRAND_CANCEL)

    def taken(self, int64_t count=1):
        """Who asked has taken so many more of the responses, where `call.counts_reads`. Any thread."""
        self.n_taken += count
        if self.resume is not None and self.n_told - self.n_taken <= UNREAD // 2:
            self.service.want(self, ERRAND_RELIEF)

    # -- on a borrowed instance --------------------------------------------------------------------

    # Its final response, on the thread that waits for it: the loop has not heard of it.
    cdef int answer(self, InferResponse response) except -1:
        call, self.call = self.call, None
        self.state = INNER_OVER
        self.askers = ()
        call.responded(response)
        return 0

    cdef int begun(self) except -1:
        if self.state == INNER_OVER:
            return 0
        self._link()
        self.state = INNER_ASKED
        self.service.open.add(self)
        return self.service._cancel(self) if self.request.cancelled or self.unwanted() else 0

    cdef bint unwanted(self) noexcept:
        return self.theirs and _all_cancelled(self.askers)

    # -- what core tells ---------------------------------------------------------------------------

    cdef int deliver(self, InferResponse response) except -1:
        call = self.call
        if self.state == INNER_OVER:
            return 0
        self.n_told += 1
        if response.final:
            self._end()
            if self.free:
                self.call = None
        elif self.unread() > MAX_UNREAD:
            request = self.request
            self.refuse(Unavailable(f"too many responses of model '{request.model_name}' wait for the model that "
                                    "asked"))
            return self.service.server.cancel_request(request)
        wake = call.responded(response)
        return 0 if wake is None else self.service.server.reactor.wake(wake)

    # Before the final response, for a model that lets go of its inputs while it answers, or behind it.
    cdef int released(self, object request) except -1:
        call = self.call
        self.free = True
        if self.state == INNER_OVER:
            self.call = None
        if call is not None:
            call.released()
        return 0

    cdef int64_t unread(self) noexcept:
        return self.n_told - self.n_taken if self.counts else 0

    # A sender waits for an asker that waits for nothing else: that one comes to take what is there.
    cdef bint congested(self) except -1:
        cdef InferRequest asker
        cdef bint there = False
        if self.state == INNER_OVER or self.unread() < UNREAD:
            return False
        for asker in self.askers:
            if len(asker.inner) > 1:
                return False
            there = there or _takes(self, asker)
        return there

    cdef int on_relief(self, object resume) except -1:
        self.resume = resume
        return 0

    cdef int forsaken(self, object asker) except -1:
        cdef InferRequest other
        cdef bint there = False
        if self.theirs and _all_cancelled(self.askers):
            return self.service._cancel(self)
        for other in self.askers:
            there = there or _takes(self, other)
        return 0 if there else self._let_go()

    # -- its ends ----------------------------------------------------------------------------------

    cdef int refuse(self, object error) except -1:
        call = self.call
        if self.state == INNER_OVER:
            return 0
        taken = self.state != INNER_NEW
        if not taken or self.free:
            self.call = None
        self._end()
        call.refused(error)
        if not taken:
            call.released()
        return 0

    cdef int _link(self) except -1:
        cdef InferRequest asker
        for asker in self.askers:
            if asker.inner is None:
                asker.inner = set()
            asker.inner.add(self)
        return 0

    cdef int _unlink(self) except -1:
        cdef InferRequest asker
        for asker in self.askers:
            if asker.inner is not None:
                asker.inner.discard(self)
                if not asker.inner:
                    asker.inner = None
        return 0

    cdef int _end(self) except -1:
        self._unlink()
        self.state = INNER_OVER
        self.service.open.discard(self)
        self.request = None
        self.target = None
        self.askers = ()
        return self._let_go()

    cdef int _let_go(self) except -1:
        resume, self.resume = self.resume, None
        if resume is not None:
            resume()
        return 0


@cython.final
cdef class InnerRequests(Errand):
    """The server's InferenceService (backends.base). Made on the loop's thread; to be closed behind its `stop`.
    `control(server, run, what, texts)`: answers what `ask` is asked; `run(coroutine)` waits for one on the loop."""

    def __init__(self, InferenceServer server, control=None):
        self.server = server
        self.control = control
        self.incoming = []
        self.open = set()
        self.futures = set()
        self.thread = get_ident()

    # -- any thread --------------------------------------------------------------------------------

    def submit(self, InferRequest request, call, ModelInstance caller=None):
        """See InferenceService. `caller`: None for whoever runs nothing meanwhile."""
        cdef InnerRequest inner = InnerRequest.__new__(InnerRequest)
        inner.service = self
        inner.request = request
        inner.call = call
        inner.caller = caller
        inner.askers = ()
        inner.unordered = True
        inner.counts = call.counts_reads
        inner.theirs = caller is not None and _runs_on(caller, get_ident())
        if inner.theirs and call.waits and call.askers is not None and self._runs_at_once(inner):
            return inner
        if caller is not None and isinstance(caller.keeper, Instance):
            _tell_loan(<Instance>caller.keeper)
        self.want(inner, ERRAND_SUBMIT)
        return inner

    # On the thread that asks, if an instance is there for it. Whatever is out of the ordinary is for the loop.
    cdef bint _runs_at_once(self, InnerRequest inner) except -1:
        cdef InferRequest request = inner.request
        cdef InferRequest asker
        cdef Servable target = None
        cdef InferResponse response
        cdef Tensor tensor
        cdef Loan loan
        cdef int depth = 0
        if not self.closed:
            target = self.server.at_once(request.model_name, request.model_version)
        if not isinstance(target, Model) or not (<Model>target).offers:
            return False
        for tensor in request.inputs:
            if tensor.buffer is not None and tensor.buffer.memory_type == MEMORY_GPU:
                return False
        inner.askers = tuple(inner.call.askers)
        for asker in inner.askers:
            depth = max(depth, depth_of(asker))
        if depth >= MAX_DEPTH or inner.unwanted():
            return False
        try:
            target.signature.validate(request)
        except ServerError:
            return False
        loan = borrow(<Model>target, <Instance>(<ModelInstance>inner.caller).keeper, request, inner, inner.call.bound)
        if loan is None:
            return False
        inner.caller = None
        inner.target = target
        inner.depth = depth + 1
        inner.held = True
        response = loan.run()
        if response is not None:
            inner.answer(response)
        return True

    cdef int want(self, InnerRequest inner, int errand) except -1:
        cdef bint first
        if self.closed:
            return inner.refuse(Unavailable("Server exiting")) if errand == ERRAND_SUBMIT else 0
        if inner.errands == 0:
            first = not self.incoming
            self.incoming.append(inner)
            if first:
                Py_INCREF(self)  # goes up with it
                self.server.reactor.post(&self.message)
        inner.errands |= errand
        return 0

    def signature(self, str name, int64_t version=-1):
        """See InferenceService."""
        if self.closed:
            raise Unavailable("Server exiting")
        return self.server.find(name, version).signature

    @property
    def keeps_inputs(self):
        """See InferenceService."""
        return self.server.tracing is not None

    @property
    def over(self):
        """See InferenceService."""
        return self.closed

    def ask(self, str what, texts, context=None):
        """See InferenceService."""
        if self.control is None:
            raise Unsupported(f"'{what}' can not be asked of this server")
        if context is None or current() is not None:
            return self.control(self.server, self._outcome, what, texts)
        return context.copy().run(self.control, self.server, self._outcome, what, texts)

    def load_model(self, str name, parameters=None):
        """Loads or reloads a model and waits for it: blocks. ServerError. Not for the loop's thread. What a load asks
        for needs none of its threads, and is refused where it would wait for that load itself."""
        self._await(self.server.load_model(name, dict(parameters) if parameters else None))

    def unload_model(self, str name, bint unload_dependents=False):
        """Takes a model out of service: blocks until it takes no more requests. ServerError."""
        self._await(self.server.unload_model(name, unload_dependents))

    def model_ready(self, str name, int64_t version=-1):
        """Whether a version (-1: any) takes requests. False for one that nobody knows."""
        return not self.closed and self.server.serves(name, version)

    def _await(self, coroutine):
        # What is loaded at the start may ask for more.
        if not self.closed and (self.server.stopping or not (self.server.serving or current() is not None)):
            coroutine.close()
            raise Unavailable("Server exiting" if self.server.stopping else "Server not ready")
        return self._outcome(coroutine)

    def _outcome(self, coroutine):
        if self.closed or get_ident() == self.thread:
            coroutine.close()
            raise Unavailable("Server exiting" if self.closed else "the server's own thread would wait for itself")
        with ExitStack() as stack:
            try:
                # In an isolated model's name another thread asks, while one that loads it waits for its worker.
                loads = None if current() is None else self.server.host.workers.loads
                stack.enter_context(waiting(loads))
            except ServerError:
                coroutine.close()
                raise
            # Its context goes along: whatever it waits for there is waited for by the load that asks.
            future = asyncio.run_coroutine_threadsafe(coroutine, self.server.loop)
            self.futures.add(future)
            try:
                return future.result()
            except CancelledError:
                raise Unavailable("Server exiting") from None
            finally:
                self.futures.discard(future)

    # -- loop --------------------------------------------------------------------------------------

    cdef int arrive(self, int64_t now_ns) except -1:
        cdef list incoming = self.incoming
        cdef InnerRequest inner
        self.incoming = []
        for inner in incoming:
            try:
                self._run(inner, now_ns)
            except Exception as error:
                log.exception("an inner request failed")
                inner.refuse(InternalError(type(error).__name__))
        return 0

    cdef int _run(self, InnerRequest inner, int64_t now_ns) except -1:
        cdef int errands = inner.errands
        inner.errands = 0
        if errands & ERRAND_SUBMIT:
            if errands & ERRAND_CANCEL:
                return inner.refuse(_cancelled())
            try:
                return self._ask(inner, now_ns)
            except ServerError as error:
                return inner.refuse(error)
        if errands & ERRAND_CANCEL:
            return self._cancel(inner)
        if errands & ERRAND_RELIEF and inner.unread() <= UNREAD // 2:
            inner._let_go()
        return 0

    cdef int _ask(self, InnerRequest inner, int64_t now_ns) except -1:
        cdef InferRequest request = inner.request
        self._find_askers(inner)
        if inner.theirs and _all_cancelled(inner.askers):
            raise _cancelled()
        if inner.depth > MAX_DEPTH:
            raise Unavailable(f"requests of models to models are nested more than {MAX_DEPTH} deep")
        if len(self.open) >= MAX_OPEN:
            raise Unavailable(f"more than {MAX_OPEN} requests of models to models are open")
        try:
            inner.target = self.server.find(request.model_name, request.model_version)
        except ServerError as error:
            raise from_code(error.code, "Failed for execute the inference request. Model "
                                        f"'{request.model_name}' is not ready.") from None
        if inner.target.signature.decoupled and not inner.call.decoupled:
            raise DecoupledModel(f"model '{request.model_name}' is decoupled, and one response is expected of it")
        for asker in inner.askers:
            if (<InferRequest>asker).model is not None:
                (<Servable>(<InferRequest>asker).model).asks_others(now_ns)
                if inner.held or inner.call.held is None:
                    (<Servable>(<InferRequest>asker).model).lend(<InferRequest>asker)
        if self.server.tracing is not None and request.trace_parent is None:
            request.trace_parent = _first_trace(inner.askers)
        inner._link()
        self._let_senders_go(inner)
        self._check(inner)
        if isinstance(inner.target, Model):
            (<Model>inner.target).offers = (<Model>inner.target).lends
        self.server.submit_request(request, inner)
        inner.state = INNER_ASKED
        self.open.add(inner)
        return 0

    # Those whose responses the askers do not take just now, because they wait for this one.
    cdef int _let_senders_go(self, InnerRequest inner) except -1:
        cdef InferRequest asker
        cdef InnerRequest other
        for asker in inner.askers:
            for other in list(asker.inner):
                if other is not inner:
                    other._let_go()
        return 0

    # Who waits for it, as far as that is known.
    cdef int _find_askers(self, InnerRequest inner) except -1:
        cdef InferRequest asker
        cdef Instance instance
        cdef Batch batch
        cdef bint on_thread = inner.theirs
        caller, inner.caller = inner.caller, None
        inner.held = True
        if inner.call.askers is not None:
            inner.askers = tuple(inner.call.askers)
            inner.theirs = True
            # A decoupled model may be answering in a thread or task of its own.
            inner.held = on_thread or not _all_decoupled(inner.askers)
        elif caller is not None and isinstance((<ModelInstance>caller).keeper, Instance):
            instance = <Instance>(<ModelInstance>caller).keeper
            if instance.out:
                batch = <Batch>instance.out[0]
                if ta_batch_phase(&batch.c) == TA_BEGUN:
                    inner.askers = tuple(batch.requests)
        if inner.call.held is not None:
            inner.held = inner.call.held
        for asker in inner.askers:
            inner.depth = max(inner.depth, depth_of(asker))
        inner.depth += 1
        return 0

    # Refuses what could never be answered.
    cdef int _check(self, InnerRequest inner) except -1:
        if goes_on(inner.target.holders_of(inner.request)):
            return 0
        raise Unavailable(
            f"the request to model '{inner.request.model_name}' could never be answered: every instance of the model "
            "is held by a request that waits for this one"
        )

    cdef int _cancel(self, InnerRequest inner) except -1:
        cdef InferRequest request = inner.request
        if inner.state != INNER_ASKED:
            return 0
        inner.refuse(_cancelled())
        return self.server.cancel_request(request)

    def close(self):
        """Refuses all that is open and all that comes. Loop thread, behind `InferenceServer.stop`."""
        cdef InnerRequest inner
        self.closed = True
        for inner in self.incoming + list(self.open):
            inner.refuse(Unavailable("Server exiting"))
        self.incoming = []
        for future in list(self.futures):
            future.cancel()


# Whether whoever asked for this request's sake may still take responses: the execution that waits, or what runs beside.
cdef bint _takes(InnerRequest inner, InferRequest asker) noexcept:
    return asker.awaits & AWAITS_EXECUTION != 0 if inner.held else asker.model is not None


# Of those for whose sake a request is made.
cdef Trace _first_trace(tuple askers):
    cdef InferRequest asker
    for asker in askers:
        if asker.trace is not None:
            return asker.trace
    return None


def _cancelled():
    return Cancelled("the request was cancelled")


cdef bint _all_cancelled(tuple askers) noexcept:
    cdef InferRequest asker
    for asker in askers:
        if not asker.cancelled:
            return False
    return len(askers) > 0


cdef bint _all_decoupled(tuple askers) except -1:
    cdef InferRequest asker
    for asker in askers:
        if asker.model is not None and not (<Servable>asker.model).signature.decoupled:
            return False
    return True


# Whether the thread is the one that runs the batches of `caller`.
cdef bint _runs_on(ModelInstance caller, object thread) except -1:
    cdef Instance instance
    if not isinstance(caller.keeper, Instance):
        return False
    instance = <Instance>caller.keeper
    if instance.borrower is not None:
        return instance.borrower.thread == thread
    return instance.thread is not None and instance.thread.ident == thread


# The loop has to know of the execution that asks.
cdef int _tell_loan(Instance instance) except -1:
    return 0 if instance.borrower is None else instance.borrower.tell()
