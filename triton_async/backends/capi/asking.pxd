# Requests and questions of a backend's models to the server that they live in (TRITONBACKEND_ModelServer).

from libc.stdint cimport int64_t, uint64_t

from triton_async.infer.c_api cimport (
    TRITONSERVER_InferenceRequest,
    TRITONSERVER_InferenceTrace,
    TRITONSERVER_Server,
    ta_inner_side,
)
from triton_async.infer.response cimport InferResponse

# The instance whose Execute runs on the calling thread, borrowed; NULL: none does.
cdef void note_running(void *instance) noexcept nogil

# One request of a model, core's InferenceCall. Its fields belong to whoever holds the GIL.
#
# Invariants
#   - `c` is the server's until its release was put on the callback thread's list, behind its last response
cdef class NativeInnerCall:
    cdef TRITONSERVER_InferenceRequest *c    # NULL once it was given back
    cdef TRITONSERVER_InferenceTrace *trace  # of the server's own, to be released with it; NULL: none
    cdef Asker asker
    cdef uint64_t serial
    cdef object request                      # InferRequest
    cdef object inner                        # what `submit` has returned: cancels, and counts what was taken
    cdef bint target_decoupled
    cdef bint cancelled                      # before there was `inner`
    cdef int64_t early                       # responses that were taken before there was
    cdef bint final                          # its last response was put on the list
    cdef bint free                           # no engine has it any more
    cdef readonly object held                # see InferenceCall

    cdef int _answer(self, InferResponse response, object error, bint final) except -1
    cdef int _give_back(self) except -1

# One for a model version. Any thread with the GIL.
cdef class Asker:
    cdef TRITONSERVER_Server *c              # what the backend has of it
    cdef const ta_inner_side *side
    cdef object inference                    # backends.base.InferenceService
    cdef object context                      # contextvars, of the load that the model is made in
    cdef uint64_t number
    cdef dict calls                          # serial -> NativeInnerCall, of those that are not over
    cdef uint64_t last                       # serial
    cdef int traces                          # of the library's own that have not ended
    cdef object quiet                        # lock of who waits for the end of all calls and traces, or None
    cdef bint closed
    cdef readonly list instances             # NativeInstances of the model
    cdef bint decoupled                      # the model is

    cdef int take(self, TRITONSERVER_InferenceRequest *c, TRITONSERVER_InferenceTrace *trace) except -1
    cdef int ended(self, uint64_t serial) except -1
    cdef int _look_if_quiet(self) except -1
    cdef bint _wait_until_quiet(self) except -1
