"""Response factories: how engines that answer by request, Python models above all, do it."""

cimport cython
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t

from triton_async.infer.batch cimport asks_for
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.event cimport TA_RESPONSE
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport TensorSpec
from triton_async.infer.tensor cimport Tensor

from _thread import allocate_lock

from triton_async.datatypes import to_name
from triton_async.errors import InternalError


# __dealloc__ uses the fields.
@cython.final
@cython.no_gc_clear
cdef class ResponseFactory:
    """Answers one request: any number of responses, the last one final, and the release of its inputs."""

    def __dealloc__(self):
        if self.post == NULL:
            return
        try:
            if not self.finished:
                _give_up(self)
        finally:
            self.release()

    @property
    def is_cancelled(self):
        """Nobody waits for the responses any more."""
        return self.request.cancelled

    @property
    def congested(self):
        """A further response had better wait: its receiver has not taken earlier ones. Cheap: ask before each."""
        return not self.finished and self.request.crowded()

    cpdef int on_relief(self, object resume) except -1:
        if self.finished or not self.request.crowded():
            resume()
            return 0
        if self.request.held_back is None:
            self.request.held_back = []
        self.request.held_back.append(resume)
        return 0

    def wait(self, double timeout_s=-1):
        """Waits while `congested`. False when that lasts for longer than `timeout_s` seconds, -1: for ever. Not for the
        loop's thread."""
        if self.finished or not self.request.crowded():
            return True
        lock = allocate_lock()
        lock.acquire()
        self.on_relief(lock.release)
        return lock.acquire(timeout=timeout_s)

    cpdef int send(self, list outputs, dict parameters=None, object error=None, bint final=True) except -1:
        cdef InferResponse response
        cdef int64_t begun_ns = ta_now_ns() if self.signature.decoupled else 0
        self._check_open()
        if error is None:
            return self._send(self._taken(outputs), parameters, final, begun_ns)
        response = _failure(self, error)
        response.final = final
        self._note_times(response, begun_ns)
        return self._post_response(response)

    cpdef int send_taken(self, list outputs, dict parameters, bint final) except -1:
        self._check_open()
        return self._send(outputs, parameters, final, ta_now_ns() if self.signature.decoupled else 0)

    cdef int _send(self, list outputs, dict parameters, bint final, int64_t begun_ns) except -1:
        cdef InferResponse response
        response = InferResponse(self.request, self.signature.model_name, self.signature.model_version, outputs,
                                 parameters, None, final)
        if self.request.n_placements and not self.request.cancelled:
            problem = self.transfer.place_response(response)
            if problem is not None:
                response = _failure(self, problem)
                response.final = final
        self._note_times(response, begun_ns)
        return self._post_response(response)

    # Of a decoupled model, for the statistics of its responses.
    cdef int _note_times(self, InferResponse response, int64_t begun_ns) except -1:
        if begun_ns:
            response.compute_ns = begun_ns - self.last_ns if self.last_ns else 0
            self.last_ns = ta_now_ns()
            response.output_ns = self.last_ns - begun_ns
        return 0

    cdef int _check_open(self) except -1:
        if self.finished:
            raise InternalError(f"model '{self.signature.model_name}' sent a response behind the final one")
        return 0

    # What the request asks for of `outputs`, on the host unless it takes it anywhere.
    cdef list _taken(self, list outputs):
        cdef list taken = []
        cdef TensorSpec spec
        cdef Tensor tensor
        for tensor in outputs:
            spec = self.signature.output_by_name.get(tensor.name)
            if spec is None:
                raise InternalError(f"model '{self.signature.model_name}' produced output '{tensor.name}', which is "
                                    "not in its configuration")
            if tensor.datatype != spec.datatype:
                raise InternalError(f"output '{spec.name}' of model '{self.signature.model_name}' has data-type "
                                    f"'{to_name(tensor.datatype)}', but its configuration says "
                                    f"'{to_name(spec.datatype)}'")
            if asks_for(self.request, spec):
                taken.append(self.transfer.brought(self.request, tensor))
        return taken

    cdef int _post_response(self, InferResponse response) except -1:
        self.finished = response.final
        response.number = self.request.sent
        self.request.sent += 1
        response.message.owner = <void *>response
        response.message.event = TA_RESPONSE
        Py_INCREF(response)  # goes up with it
        self.post(self.context, &response.message)
        return 0

    cpdef int release(self) except -1:
        if self.released:
            return 0
        self.released = True
        self.inputs = None
        Py_INCREF(self.request)  # goes up with it
        self.post(self.context, &self.request.message)
        return 0

    cpdef int reschedule(self) except -1:
        if self.released or self.finished:
            return 0
        self.finished = True
        self.request.rescheduled = True
        return self.release()


# In the place of one that there is no memory for.
cdef object GIVEN_UP = InternalError("a request was given up without a final response")


# Whoever waits for the request hears of its end, memory or not.
cdef int _give_up(ResponseFactory factory) except -1:
    cdef InferResponse response
    try:
        response = _failure(factory, InternalError(
            f"model '{factory.signature.model_name}' gave up a request without a final response"
        ))
    except MemoryError:
        response = _failure(factory, GIVEN_UP)
    return factory._post_response(response)


cdef InferResponse _failure(ResponseFactory factory, object error):
    return InferResponse(factory.request, factory.signature.model_name, factory.signature.model_version, [], None,
                         error)
