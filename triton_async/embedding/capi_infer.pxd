# Inference through the C API: the program's requests to the server, and its answers back (csrc/tritonserver/server.h).

from libc.stdint cimport uint64_t

from triton_async.core.servable cimport Servable
from triton_async.embedding.desk cimport Call, Desk
from triton_async.infer.c_api cimport TRITONSERVER_InferenceRequest, TRITONSERVER_InferenceTrace
from triton_async.infer.response cimport InferResponse

# One inference of a C request.
#
# Invariants
#   - `c` is the server's until its release was put on the callback thread's list, behind its last response
cdef class NativeCall(Call):
    cdef TRITONSERVER_InferenceRequest *c    # NULL once it was given back
    cdef NativeDesk desk
    cdef uint64_t serial
    cdef bint decoupled
    cdef bint final                          # its last response was put on the list
    cdef bint free                           # no engine has it any more

    cdef int _answer(self, InferResponse response, object error, bint final) except -1
    cdef int _give_back(self) except -1

# Of a server that a C program has. Made on its loop's thread.
cdef class NativeDesk(Desk):
    cdef dict calls                          # serial -> NativeCall, of those that are not over
    cdef uint64_t last                       # serial
    cdef int alone                           # requests in a row that were the only one, at most ALONE

    # Whether the program waits for each of its requests.
    cdef bint _is_alone(self, TRITONSERVER_InferenceRequest *c) noexcept
    # Where the model answers as fast as the loop's thread would be woken: whether the caller's thread has run the
    # request itself.
    cdef bint _runs_now(self, NativeCall call, Servable model) except -1
    cdef int take(self, TRITONSERVER_InferenceRequest *c, TRITONSERVER_InferenceTrace *trace) except -1
