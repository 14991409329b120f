"""How many requests run for calls that are gone. Loop thread."""

cimport cython

from triton_async.infer.request cimport InferRequest


@cython.final
cdef class Abandoned:
    cdef int note(self, InferRequest request) except -1:
        if request.model is not None:  # else it is over
            self.count += 1
            request.context = self
        return 0


cdef int forget(InferRequest request) except -1:
    if type(request.context) is Abandoned:
        (<Abandoned>request.context).count -= 1
        request.context = None
    return 0
