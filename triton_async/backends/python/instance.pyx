"""Instances of Python models in the server process: hands the requests of a batch to the model's runner."""

cimport cython

from triton_async.backends.base cimport RequestInstance, fail_batch
from triton_async.backends.python.local cimport IncomingRequest, LocalChannel, incoming
from triton_async.infer.batch cimport Batch, ta_batch
from triton_async.infer.clock cimport ta_now_ns

import logging

from triton_async.backends.python.local import ASKERS

log = logging.getLogger("triton_async.python")


@cython.final
cdef class PythonModelInstance(RequestInstance):
    """`runner`: of a model that is initialized; `channel`: its own. Closes both."""

    def __init__(self, str name, runner, LocalChannel channel):
        RequestInstance.__init__(self, name)
        self.runner = runner
        self.context = runner.context
        self.channel = channel
        channel.instance = self

    @property
    def asks_ready(self):
        return self.runner.asks_ready

    def is_ready(self):
        return self.runner.is_ready()

    cdef int _submit_python(self, ta_batch *c) noexcept:
        cdef Batch batch = <Batch>c.owner
        cdef list sources = []
        cdef list askers = list(batch.requests)
        cdef bint decoupled = self.channel.signature.decoupled
        cdef IncomingRequest source
        cdef int i
        cdef object token = ASKERS.set(askers)
        c.compute_input_end_ns = ta_now_ns()
        self.channel.answered_ns = 0
        try:
            for i in range(c.n_requests):
                source = incoming(self._factory(batch, i), self.context)
                if decoupled:
                    source.askers = askers
                sources.append(source)
            source = None
            self.runner.execute(sources)
        except BaseException as error:  # no memory, say: what has no answer gets one from the end of its factory
            log.exception("instance '%s' could not run a batch", self.name)
            if len(sources) < c.n_requests:
                fail_batch(c, error)
        ASKERS.reset(token)
        if not decoupled:
            # What is left of it, a task say, asks for nobody's sake.
            askers.clear()
        # The model's part ends with its first answer, unless it goes on sending others.
        c.compute_end_ns = ta_now_ns()
        if self.channel.answered_ns and not self.channel.signature.decoupled:
            c.compute_output_start_ns = self.channel.answered_ns
        else:
            c.compute_output_start_ns = c.compute_end_ns
        return 0

    def close(self):
        self.runner.close()
        self.channel.close()
