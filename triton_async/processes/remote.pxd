# The server as a front-end process has it: models are elsewhere, and so are the answers to control calls. Loop thread.

from libc.stdint cimport int64_t, uint64_t

from triton_async.backends.python.isolated.wire cimport Cursor
from triton_async.core.servable cimport Servable
from triton_async.core.server cimport InferenceServer
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.processes.lane cimport Lane

# The front-end's end of its lane to the models' process.
#
# Invariants
#   - a request is in `requests` from `submit` until the models' process says that it is over
cdef class ModelsLane(Lane):
    cdef RemoteServer server
    cdef dict requests               # number -> InferRequest
    cdef dict taken                  # number -> responses that were passed on since the last message
    cdef uint64_t last_request
    cdef uint64_t last_origin
    cdef list origins_over           # numbers of origins whose end is to be told
    cdef dict calls                  # number -> future
    cdef uint64_t last_call
    cdef object on_told              # gets what the models' process tells: a dict
    cdef object on_over              # called at its end, with what is wrong, or None

    cdef int submit(self, InferRequest request, RemoteServable model) except -1
    cdef int _on_response(self, Cursor cursor) except -1
    cdef InferRequest _answered(self, number, int flags)
    cdef int _passed_on(self, InferRequest request, RemoteServable model, InferResponse response, uint64_t number,
                        int flags) except -1
    cdef int _hold_window(self, InferRequest request, uint64_t number) except -1
    cdef uint64_t _origin(self, InferRequest request) except? 0

# A model version of the models' process. What `Servable` says of order, cache and statistics is done there.
cdef class RemoteServable(Servable):
    cdef ModelsLane link
    cdef uint64_t remote_number      # Servable.number of the models' process

    # The models' process has it no more.
    cdef int over(self, InferRequest request) except -1

cdef class RemoteServer(InferenceServer):
    cdef ModelsLane link
    cdef bint models_asked           # models say themselves whether they are ready
