# Inference through the C API: the program's requests to the server, and its answers back (csrc/tritonserver/server.h).

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from triton_async.embedding.desk cimport Call, Desk
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature

cdef extern from "tritonserver/server.h":
    ctypedef struct TRITONSERVER_Error:
        pass
    ctypedef struct TRITONSERVER_Server:
        pass
    ctypedef struct ta_answer:
        pass
    ctypedef struct TRITONSERVER_InferenceTrace:
        ta_answer answer
        uint64_t id
        uint64_t parent_id
        int level
    ctypedef struct ta_piece:
        const void *base
        size_t nbytes
        int memory_type
        int64_t memory_type_id
    ctypedef struct ta_input:
        char *name
        int datatype
        bint raw
        uint64_t dim_count
        int64_t *shape
        size_t n_parts
        ta_piece *parts
    ctypedef union ta_value "__typeof__(((TRITONSERVER_Parameter *)0)->value)":
        char *string
        int64_t integer
        double real
        bint boolean
    ctypedef struct TRITONSERVER_Parameter:
        char *name
        int type
        ta_value value
    ctypedef struct TRITONSERVER_InferenceRequest:
        ta_answer released
        TRITONSERVER_Server *server
        char *model_name
        char *id
        char *correlation
        int64_t model_version
        uint32_t flags
        uint64_t correlation_number
        uint64_t priority
        uint64_t timeout_us
        size_t n_inputs
        size_t n_outputs
        size_t n_parameters
        ta_input *inputs
        char **outputs
        TRITONSERVER_Parameter **parameters
        uint64_t serial
    ctypedef struct TRITONSERVER_InferenceResponse:
        ta_answer answer
        void *owner
        bint empty
    ctypedef struct ta_infer_calls:
        TRITONSERVER_Error *(*infer)(void *desk, TRITONSERVER_InferenceRequest *request,
                                     TRITONSERVER_InferenceTrace *trace) noexcept nogil
        void (*cancel)(void *desk, uint64_t serial) noexcept nogil
        TRITONSERVER_Error *(*find)(void *desk, const char *model, int64_t version) noexcept nogil
        char *(*label)(void *desk, const char *model, int64_t version, const char *output,
                       uint64_t index) noexcept nogil
        void (*drop)(void **owners, uint64_t count) noexcept nogil
    ctypedef struct ta_library:
        TRITONSERVER_Error *(*error)(int code, const char *text) noexcept nogil
        TRITONSERVER_InferenceResponse *(*response)(TRITONSERVER_InferenceRequest *request, const char *model,
                                                    int64_t version, const char *id, uint32_t flags,
                                                    TRITONSERVER_Error *error) noexcept nogil
        int (*add_output)(TRITONSERVER_InferenceResponse *response, const char *name, int32_t datatype,
                          const int64_t *shape, uint64_t dim_count, const void *source, uint64_t nbytes) noexcept nogil
        int (*add_parameter)(TRITONSERVER_InferenceResponse *response, const char *name, int32_t type,
                             const void *value) noexcept nogil
        void (*put)(TRITONSERVER_Server *server, ta_answer *answer) noexcept nogil
        void (*note)(TRITONSERVER_InferenceTrace *trace, int32_t activity, uint64_t ns) noexcept nogil
        void (*name_trace)(TRITONSERVER_InferenceTrace *trace, const char *model, int64_t version,
                           const char *request_id) noexcept nogil

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
    cdef int _fill(self, TRITONSERVER_InferenceResponse *made, InferResponse response) except -1
    cdef int _give_back(self) except -1

# Of a server that a C program has. Made on its loop's thread.
cdef class NativeDesk(Desk):
    cdef dict calls                          # serial -> NativeCall, of those that are not over
    cdef uint64_t last                       # serial

    cdef int take(self, TRITONSERVER_InferenceRequest *c, TRITONSERVER_InferenceTrace *trace) except -1
