"""Warm-up on one instance: the requests of a sample as one batch, through all that ordinary ones go through."""

from triton_async.core.injection cimport Injection
from triton_async.core.instances cimport Instance
from triton_async.core.model cimport Model
from triton_async.core.reactor cimport Reactor
from triton_async.core.scheduler cimport Scheduler
from triton_async.infer.batch cimport Batch, closed_batch
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.request cimport REQUEST_DONE, REQUEST_QUEUED, REQUEST_RUNNING, InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport Tensor


cdef class WholeBatch(Scheduler):
    """See warmup_runs.pxd."""

    def __init__(self, ModelSignature signature):
        self.signature = signature
        self.waiting = []
        self.size = 1

    cpdef int enqueue(self, InferRequest request, int64_t now_ns) except -1:
        cdef Tensor tensor
        assert self.pending < self.size
        if self.injection is not None:
            self.injection.inject(request, self.injection.no_id(), None)
            for tensor in request.context:
                request.slots[(<TensorSpec>self.signature.input_by_name[tensor.name]).index] = tensor
        self.waiting.append(request)
        self.pending += 1
        request.queue_start_ns = now_ns
        request.state = REQUEST_QUEUED
        return 0

    cpdef Batch take(self, object instance, bint idle, int64_t now_ns):
        cdef InferRequest request
        cdef list taken = self.waiting
        if not idle or self.pending < self.size:
            return None
        self.waiting = []
        self.pending = 0
        for request in taken:
            request.state = REQUEST_RUNNING
        try:
            return closed_batch(self.signature, taken)
        except BaseException:
            self.lost = taken
            raise

    cpdef list take_lost(self):
        cdef list lost = self.lost
        self.lost = None
        return lost or []

    cpdef int remove(self, InferRequest request) except -1:
        self.waiting.remove(request)
        self.pending -= 1
        request.state = REQUEST_DONE
        return 0

    cpdef int requeue(self, list requests) except -1:
        cdef InferRequest request
        for request in requests:
            request.state = REQUEST_QUEUED
        self.waiting[:0] = requests
        self.pending += len(requests)
        return 0

    cpdef list expire(self, int64_t now_ns):
        return []


cdef class WarmUpSink(ResponseSink):
    def __init__(self, future, int requests):
        self.future = future
        self.awaited = 2 * requests

    cdef int deliver(self, InferResponse response) except -1:
        if response.error is not None and self.error is None:
            self.error = response.error
        return self._one_less() if response.final else 0

    cdef int released(self, object request) except -1:
        return self._one_less()

    cdef int _one_less(self) except -1:
        self.awaited -= 1
        if self.awaited == 0 and not self.future.done():
            self.future.set_result(self.error)
        return 0


cdef class WarmUpModel(Model):
    """One instance of a model version that is not ready. It is given up by `take_instances`, after `drain`."""

    def __init__(self, Reactor reactor, ModelSignature signature, config, Instance instance, Injection injection=None):
        self.whole = WholeBatch(signature)
        self.whole.injection = injection
        Model.__init__(self, reactor, signature, config, [instance], self.whole)
        # What the first executions take is not known: they are the instance's thread's, never the loop's.
        self.any_thread = False

    def run(self, list requests):
        """Runs new requests as one batch. A future: None, or the ServerError of the first that failed. One batch at a
        time. ServerError when one is not taken; none is run then.
        """
        cdef InferRequest request
        cdef int64_t now_ns = ta_now_ns()
        future = self.reactor.loop.create_future()
        sink = WarmUpSink(future, len(requests))
        self.whole.size = len(requests)
        try:
            for request in requests:
                self.submit(request, sink, now_ns)
        except BaseException:
            for request in requests:
                self.cancel(request, now_ns)
            raise
        return future
