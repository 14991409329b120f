"""Runs requests on the threads that make them, on instances that are idle: those of models that wait for the response,
and of programs where they are short."""

import logging
from _thread import get_ident

cimport cython
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t

from triton_async.backends.base cimport ModelInstance
from triton_async.core.instances cimport (
    DESK_BORROWED, DESK_KEPT, DESK_OFFERED, Borrower, Instance, execute_batch,
)
from triton_async.core.model cimport Model
from triton_async.core.waits cimport Asking
from triton_async.infer.batch cimport TA_BEGUN, Batch, closed_batch, ta_batch_phase
from triton_async.infer.event cimport TA_RESPONSE, ta_message
from triton_async.infer.request cimport AWAITS_EXECUTION, REQUEST_RUNNING, InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink

log = logging.getLogger("triton_async.core")


# What it keeps would not be told any more.
@cython.final
@cython.no_gc_clear
cdef class Loan(Borrower):
    """See lending.pxd."""

    # -- the thread that runs it -------------------------------------------------------------------

    cdef object run(self):
        cdef Borrower before = None
        cdef object response
        cdef bint wanted
        if self.host is not None:
            before = self.host.runs
            self.host.runs = self
        try:
            self._execute()
        finally:
            if self.host is not None:
                self.host.runs = before
            wanted = self._give_back()
            # Else whoever waits for it is the loop's.
            response = None if self.told else self._answer()
            self._report(response, wanted)
        return response

    cdef int _execute(self) except -1:
        cdef Batch batch = self.batch
        cdef ModelInstance engine = self.instance.engine
        if batch is None:
            try:
                batch = closed_batch(self.model.signature, [self.request])
            except BaseException:
                self.void = True
                raise
            self.batch = batch
        self.request.state = REQUEST_RUNNING
        self.request.queue_start_ns = self.request.received_ns
        self.request.sink = self.sink
        self.request.batch = batch
        Py_INCREF(self)
        self._keep(&self.message)
        if engine.by_request and not engine.any_thread:
            execute_batch(self.instance, batch)  # an engine of Python
        else:
            with nogil:
                execute_batch(self.instance, batch)
        self._keep_all(batch.c.told)
        batch.c.told = NULL
        if not batch.c.by_request:
            self._split()
        Py_INCREF(batch)
        return self._keep(&batch.c.message)

    # Of an engine that answers a batch as a whole: the same events. Without memory for a response the release alone,
    # which is answered with an error.
    cdef int _split(self) except -1:
        cdef InferResponse response
        self.batch.c.by_request = 1
        try:
            response = <InferResponse>self.batch.finish()[0]
            response.message.owner = <void *>response
            response.message.event = TA_RESPONSE
            Py_INCREF(response)
            self._keep(&response.message)
        except MemoryError:
            log.exception("a request to model '%s' could not be answered", self.model.signature.model_name)
        Py_INCREF(self.request)
        return self._keep(&self.request.message)

    cdef bint _give_back(self) noexcept:
        cdef Instance instance = self.instance
        cdef bint wanted = instance.wanted
        instance.borrower = None
        instance.wanted = False
        instance.desk = DESK_KEPT if wanted else DESK_OFFERED
        return wanted

    # The final response among what is kept.
    cdef object _answer(self):
        cdef ta_message *message = self.first
        while message != NULL:
            if message.event == TA_RESPONSE and (<InferResponse>message.owner).final:
                return <InferResponse>message.owner
            message = message.next
        return None

    cdef int _report(self, object response, bint wanted) except -1:
        cdef ta_message *first = self.first
        self.first = self.last = NULL
        if self.void and wanted:
            Py_INCREF(self)
            self.model.reactor.post(&self.message)
        if first == NULL:
            return 0
        if response is not None and not wanted:
            self.told = True
            return self.model.reactor.leave(first, self.batch.c.compute_end_ns)
        self.told = True
        self.model.reactor.post_all(first)
        return 0

    cdef bint keeps(self, ta_message *message) noexcept:
        cdef object owner = <object>message.owner
        if self.told or (owner.request if message.event == TA_RESPONSE else owner) is not self.request:
            return False
        self._keep(message)
        return True

    cdef int _keep_all(self, ta_message *oldest) noexcept:
        cdef ta_message *next
        while oldest != NULL:
            next = oldest.next
            self._keep(oldest)
            oldest = next
        return 0

    cdef int _keep(self, ta_message *message) noexcept:
        message.next = NULL
        if self.first == NULL:
            self.first = message
        else:
            self.last.next = message
        self.last = message
        return 0

    cdef int tell(self) noexcept:
        cdef ta_message *first = self.first
        if self.told:
            return 0
        if self.host is not None and self.host.borrower is not None:
            self.host.borrower.tell()
        self.told = True
        self.first = self.last = NULL
        if first != NULL:
            self.model.reactor.post_all(first)
        return 0

    # -- loop --------------------------------------------------------------------------------------

    cdef int arrive(self, int64_t now_ns) except -1:
        cdef Model model = self.model
        if self.void:
            model._go_on(now_ns)
            return model._note_drained()
        model._accept(self.request, self.sink)
        self.request.awaits |= AWAITS_EXECUTION
        self.batch.runner = model
        self.batch.instance = self.instance
        self.instance.out.append(self.batch)
        self.instance.in_flight += 1
        return self.asking.begun() if self.asking is not None else 0

    cdef int forsaken(self) except -1:
        if self.told or self.asking is None or not self.asking.unwanted():
            return 0
        self.request.cancelled = True
        self.give_up()
        return 0 if self.instance.runs is None else self.instance.runs.forsaken()

    cdef int give_up(self) except -1:
        cdef ModelInstance engine = self.instance.engine
        if self.batch is not None and engine is not None and ta_batch_phase(&self.batch.c) == TA_BEGUN:
            engine.cancel(&self.batch.c)
        return 0

    cdef str asked(self):
        return self.model.signature.model_name


cdef Loan borrow_briefly(Model model, InferRequest request, ResponseSink sink):
    cdef Batch batch
    cdef Loan loan
    if not model.offers or not model.any_thread or not model.inline.allowed or model.scheduler.pending:
        return None
    batch = closed_batch(model.signature, [request])
    if not model._runs_here(batch):
        return None
    loan = borrow(model, None, request, sink, False)
    if loan is not None:
        loan.batch = batch
    return loan


cdef Loan borrow(Model model, Instance host, InferRequest request, ResponseSink sink, bint bound):
    cdef Loan loan = Loan.__new__(Loan)
    cdef Instance instance
    cdef Py_ssize_t i
    loan.model = model
    loan.host = host
    loan.request = request
    loan.sink = sink
    loan.asking = <Asking>sink if isinstance(sink, Asking) else None
    loan.thread = get_ident()
    # From here on nothing lets go of the GIL until the instance is taken.
    if not model.offers or model.draining:
        return None
    for i in range(len(model.idle)):
        instance = <Instance>model.idle[i]
        if instance.desk == DESK_OFFERED and _runs_anywhere(instance, bound):
            instance.desk = DESK_BORROWED
            instance.borrower = loan
            loan.instance = instance
            return loan
    return None


cdef bint _runs_anywhere(Instance instance, bint bound) noexcept:
    cdef ModelInstance engine = instance.engine
    if engine is None or engine.broken or engine.unavailable:
        return False
    return engine.any_thread or (engine.unbound and not bound)
