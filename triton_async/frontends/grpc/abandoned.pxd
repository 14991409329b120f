# Requests that a model still has although their call is gone. Loop thread.

from triton_async.infer.request cimport InferRequest

# Of one connection: they count as calls, so that a client that gives up its calls gets no more of the models than one
# that waits. Core says when each is over (ResponseSink.released).
cdef class Abandoned:
    cdef readonly Py_ssize_t count

    # The call of `request` is gone. To be asked before the request is cancelled.
    cdef int note(self, InferRequest request) except -1

# For the sinks: a request is over.
cdef int forget(InferRequest request) except -1
