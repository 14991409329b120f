"""Instances of Python models in the server process: hands the requests of a batch to the model's runner."""

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident

from triton_async.backends.base cimport ModelInstance, RequestInstance
from triton_async.backends.python.local cimport IncomingRequest, LocalChannel, incoming
from triton_async.infer.batch cimport Batch, ta_batch
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.event cimport ta_message
from triton_async.infer.factory cimport ResponseFactory

import logging
from contextvars import Context

from triton_async.backends.python.local import ASKERS
from triton_async.backends.python.worker.runner import ModelFailure
from triton_async.errors import from_code

log = logging.getLogger("triton_async.python")


# Factories that the garbage collector takes away with it post through its fields.
@cython.final
@cython.no_gc_clear
cdef class PythonModelInstance(RequestInstance):
    """`runner`: of a model that is initialized; `channel`: its own. Closes both. `gpu_inputs`: takes what is in GPU
    memory as it is; `unbound`: its model may be run on any thread."""

    def __init__(self, str name, runner, LocalChannel channel, bint gpu_inputs=False, bint unbound=False):
        RequestInstance.__init__(self, name)
        self.unbound = unbound
        self.takes_device = gpu_inputs
        self.runner = runner
        self.channel = channel
        channel.instance = self
        self.asks_ready = runner.asks_ready

    def is_ready(self):
        try:
            return self.runner.is_ready()
        except ModelFailure as failure:
            raise from_code(failure.code, failure.message) from None

    cdef int submit(self, ta_batch *batch) noexcept nogil:
        batch.by_request = 1
        with gil:
            self._submit_python(batch)
            batch.told = self.first
            self.first = self.last = NULL
        return 1

    cdef int _submit_python(self, ta_batch *c) noexcept:
        cdef Batch batch = <Batch>c.owner
        cdef ResponseFactory factory
        cdef list factories
        cdef list sources = []
        cdef list askers = list(batch.requests)
        cdef bint decoupled = self.channel.signature.decoupled
        cdef IncomingRequest source
        # On a thread that is in the middle of another model's execution, whose context (NumPy's errstate, say) is none
        # of this one's.
        cdef bint apart = ASKERS.get() is not None
        cdef object token = None
        c.compute_input_end_ns = ta_now_ns()
        factories = self._factories(c)
        if factories is None:
            return 0
        if not apart:
            token = ASKERS.set(askers)
        self.channel.answered_ns = 0
        self.thread = PyThread_get_thread_ident()
        try:
            factories.reverse()
            while factories:
                factory = <ResponseFactory>factories.pop()
                factory.post = _post
                factory.context = <void *>self
                factory.keeper = self
                source = incoming(factory, self.name)
                if decoupled:
                    source.askers = askers
                sources.append(source)
            source = None
            factory = None
            if apart:
                Context().run(_execute_apart, self.runner, sources, askers)
            else:
                self.runner.execute(sources)
        except BaseException:  # no memory, say: what has no answer gets one from the end of its factory
            log.exception("instance '%s' could not run a batch", self.name)
        if not apart:
            ASKERS.reset(token)
        if not decoupled:
            # What is left of it, a task say, asks for nobody's sake.
            askers.clear()
        sources = None
        self.channel.holds = False
        # The model's part ends with its first answer, unless it goes on sending others.
        c.compute_end_ns = ta_now_ns()
        if self.channel.answered_ns and not decoupled:
            c.compute_output_start_ns = self.channel.answered_ns
        else:
            c.compute_output_start_ns = c.compute_end_ns
        return 0

    def close(self):
        self.runner.close()
        self.channel.close()


def _execute_apart(runner, list sources, list askers):
    ASKERS.set(askers)
    runner.execute(sources)


# The event of a response factory, any thread with the GIL.
cdef void _post(void *context, ta_message *message) noexcept nogil:
    with gil:
        _hold(<PythonModelInstance>context, message)


cdef void _hold(PythonModelInstance self, ta_message *message) noexcept:
    if not self.channel.holds or self.thread != PyThread_get_thread_ident():
        self.post((<ModelInstance>self).context, message)
        return
    message.next = NULL
    if self.first == NULL:
        self.first = message
    else:
        self.last.next = message
    self.last = message
