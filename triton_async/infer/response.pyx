"""Responses, and the sink through which core hands them to a front-end."""

cimport cython

cdef int64_t _live = 0


@cython.freelist(64)
cdef class InferResponse:
    """One response. Holds the leases of its outputs; dropping it gives them back."""

    def __cinit__(self):
        global _live
        _live += 1

    def __dealloc__(self):
        global _live
        _live -= 1

    def __init__(self, request, str model_name, int64_t model_version, list outputs, dict parameters=None,
                 error=None, bint final=True, bint refused=False):
        self.request = request
        self.model_name = model_name
        self.model_version = model_version
        self.outputs = outputs
        self.parameters = parameters
        self.error = error
        self.final = final
        self.refused = refused


cdef class ResponseSink:
    cdef int deliver(self, InferResponse response) except -1:
        self.on_response(response)
        return 0

    cdef int released(self, object request) except -1:
        self.on_released(request)
        return 0

    cdef bint congested(self) except -1:
        return False

    cdef int on_relief(self, object resume) except -1:
        raise AssertionError("not congested")

    cdef int forsaken(self, object asker) except -1:
        return 0

    def on_response(self, InferResponse response):
        """For receivers written in Python: called with every response, on the loop thread."""

    def on_released(self, request):
        """The same for the end of a request: no engine has it any more."""


cpdef int64_t live_responses():
    return _live
