"""Instances that the test moves step by step instead of a thread, and a clock that it sets. Loop thread."""

from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t

from triton_async.backends.base cimport ModelInstance, fail_batch
from triton_async.core.instances cimport Instance, post_for_instance
from triton_async.core.reactor cimport Clock
from triton_async.core.servable cimport Servable
from triton_async.core.server cimport InferenceServer
from triton_async.infer.batch cimport Batch, check_batch, ta_batch, ta_batch_begin, ta_tensor
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.event cimport TA_RESPONSE
from triton_async.infer.factory cimport ResponseFactory
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.tensor cimport Tensor

import numpy as np

from triton_async.errors import InternalError
from triton_async.infer.tensor import from_numpy

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int usec)


cdef class MadeUpClock(Clock):
    cdef public int64_t ns

    def __init__(self, int64_t ns):
        self.ns = ns

    cdef int64_t now_ns(self) noexcept:
        return self.ns


cdef class PuppetEngine(ModelInstance):
    """Notes what it is asked to give up."""

    cdef public list given_up

    def __init__(self, str name, bint by_request):
        ModelInstance.__init__(self, name)
        self.by_request = by_request
        self.given_up = []

    cdef void cancel(self, ta_batch *batch) noexcept nogil:
        with gil:
            self.given_up.append(<object>batch.owner)


cdef class NappingEngine(ModelInstance):
    """May run on the loop thread, and sleeps there for two milliseconds. Fails every batch."""

    def __init__(self, str name):
        ModelInstance.__init__(self, name)
        self.any_thread = True

    cdef void execute(self, ta_batch *batch) noexcept nogil:
        usleep(2000)
        with gil:
            fail_batch(batch, InternalError("slept"))
        batch.compute_end_ns = ta_now_ns()


cdef class Puppet(Instance):
    """`waiting`: the mailbox, oldest first."""

    cdef public list waiting
    cdef public MadeUpClock clock

    def __init__(self, name, reactor, pool, use, device_id=-1):
        self.waiting = []

    def made(self, PuppetEngine engine, MadeUpClock clock):
        self.engine = engine
        engine.keeper = self
        self.clock = clock
        self.depth = 1
        self.by_request = engine.by_request
        return self

    cdef int run(self, Batch batch) except -1:
        self.out.append(batch)
        self.in_flight += 1
        self.waiting.append(batch)
        return 0

    def engine_object(self):
        return self.engine

    def begin(self):
        """The next batch, begun; None when the loop has taken it back."""
        cdef Batch batch = self.waiting.pop(0)
        if ta_batch_begin(&batch.c):
            batch.c.compute_start_ns = self.clock.ns
            batch.c.by_request = self.by_request
            return batch
        self.post(batch)
        return None

    def post(self, Batch batch):
        """Tells of an execution that is done."""
        Py_INCREF(batch)
        self.reactor.post(&batch.c.message)

    def end(self, Batch batch, error=None):
        """Ends a batch that has begun: echoes its inputs, unless the engine answers by request."""
        cdef Tensor tensor
        batch.c.compute_input_end_ns = batch.c.compute_output_start_ns = self.clock.ns
        batch.c.compute_end_ns = self.clock.ns
        if error is not None:
            fail_batch(&batch.c, InternalError(error))
        elif not self.by_request:
            for index, tensor in enumerate(joined(batch)):
                batch.set_output(index, tensor)
        check_batch(&batch.c)
        self.post(batch)

    def factories(self, Batch batch):
        """One for each request of a batch."""
        cdef ResponseFactory factory
        cdef InferRequest request
        found = []
        for number, request in enumerate(batch.requests):
            factory = ResponseFactory.__new__(ResponseFactory)
            factory.request = request
            factory.signature = batch.signature
            factory.inputs = batch.request_inputs(number)
            factory.transfer = self.late
            factory.keeper = self
            factory.context = <void *>self
            factory.post = post_for_instance
            found.append(factory)
        return found


def joined(Batch batch):
    """The inputs of a whole batch (FP32[n, 1]) as an engine finds them: the bytes of their segments, joined."""
    cdef ta_tensor *tensor
    cdef int i, k
    found = []
    for i in range(batch.c.n_inputs):
        tensor = &batch.c.inputs[i]
        parts = [<bytes>tensor.segments[k].data[:tensor.segments[k].nbytes] for k in range(tensor.n_segments)]
        found.append(from_numpy("OUT", np.frombuffer(b"".join(parts), np.float32).reshape(-1, 1)))
    return found


def requests_of(Batch batch):
    return list(batch.requests)


def post_response(Puppet puppet, InferResponse response):
    """What no factory would send: a response of whatever kind, at whatever time."""
    response.message.owner = <void *>response
    response.message.event = TA_RESPONSE
    Py_INCREF(response)
    puppet.reactor.post(&response.message)


def post_release(Puppet puppet, InferRequest request):
    """A release beside those of the factories."""
    Py_INCREF(request)
    puppet.reactor.post(&request.message)


def submit(Servable model, InferRequest request, ResponseSink sink, int64_t now_ns):
    model.submit(request, sink, now_ns)


def cancel(Servable model, InferRequest request, int64_t now_ns):
    model.cancel(request, now_ns)


def serve(InferenceServer server, Servable model):
    """Has a server that loads nothing serve the model, as its latest version."""
    signature = model.signature
    server.state = 2  # SERVER_SERVING
    server.latest[signature.model_name] = server.versions[signature.model_name, signature.model_version] = model


def serving(InferenceServer server):
    """Who serves, by name, and by name and version."""
    return server.latest, server.versions


cdef class CongestedSink(ResponseSink):
    """Takes no more while `full`; `resume`: what it was told to call then."""

    cdef public bint full
    cdef public object resume
    cdef public list responses

    def __init__(self):
        self.responses = []

    cdef int deliver(self, InferResponse response) except -1:
        self.responses.append(response)
        return 0

    cdef bint congested(self) except -1:
        return self.full

    cdef int on_relief(self, object resume) except -1:
        self.resume = resume
        return 0
