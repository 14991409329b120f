"""Response factories: how engines that answer by request, Python models above all, do it."""

cimport cython
from cpython.ref cimport Py_INCREF

from triton_async.infer.batch cimport asks_for
from triton_async.infer.event cimport TA_RESPONSE
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport TensorSpec
from triton_async.infer.tensor cimport Tensor

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
        if not self.finished:
            self._post_response(_failure(self, InternalError(
                f"model '{self.signature.model_name}' gave up a request without a final response"
            )))
        self.release()

    @property
    def is_cancelled(self):
        """Nobody waits for the responses any more."""
        return self.request.cancelled

    cpdef int send(self, list outputs, dict parameters=None, object error=None, bint final=True) except -1:
        cdef InferResponse response
        self._check_open()
        if error is None:
            return self.send_taken(self._taken(outputs), parameters, final)
        response = _failure(self, error)
        response.final = final
        return self._post_response(response)

    cpdef int send_taken(self, list outputs, dict parameters, bint final) except -1:
        cdef InferResponse response
        self._check_open()
        response = InferResponse(self.request, self.signature.model_name, self.signature.model_version, outputs,
                                 parameters, None, final)
        if self.request.n_placements and not self.request.cancelled:
            problem = self.transfer.place_response(response)
            if problem is not None:
                response = _failure(self, problem)
                response.final = final
        return self._post_response(response)

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


cdef InferResponse _failure(ResponseFactory factory, object error):
    return InferResponse(factory.request, factory.signature.model_name, factory.signature.model_version, [], None,
                         error)
