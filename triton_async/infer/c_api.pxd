# Requests and responses of the C API (csrc/tritonserver/server.h) as the server's own, and back. With the GIL.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.buffer cimport Buffer

cdef extern from "tritonserver/server.h":
    ctypedef struct TRITONSERVER_Error:
        pass
    ctypedef struct TRITONSERVER_Message:
        pass
    ctypedef struct TRITONSERVER_Server:
        uint32_t on_way
    ctypedef struct ta_answer:
        pass
    ctypedef struct ta_text:
        const char *data
        uint64_t nbytes
    ctypedef struct TRITONSERVER_InferenceTrace:
        ta_answer answer
        uint64_t id
        uint64_t parent_id
        int level
        void *owner
        void *keeper
    ctypedef struct ta_traced_tensor:
        int activity
        int datatype
        uint64_t dim_count
        const void *base
        size_t nbytes
        int memory_type
        int64_t memory_type_id
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
    ctypedef struct ta_control_calls:
        TRITONSERVER_Error *(*call)(uint64_t server, const char *what, const ta_text *texts, uint64_t count,
                                    TRITONSERVER_Message **answer) noexcept nogil
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
        void (*drop_response)(TRITONSERVER_InferenceResponse *response) noexcept nogil
        void (*put)(TRITONSERVER_Server *server, ta_answer *answer) noexcept nogil
        void (*note)(TRITONSERVER_InferenceTrace *trace, int32_t activity, uint64_t ns) noexcept nogil
        void (*name_trace)(TRITONSERVER_InferenceTrace *trace, const char *model, int64_t version,
                           const char *request_id) noexcept nogil
        void (*note_tensor)(TRITONSERVER_InferenceTrace *trace, const ta_traced_tensor *tensor, const char *name,
                            const int64_t *shape) noexcept nogil
    ctypedef struct ta_inner_side:
        TRITONSERVER_Server *(*make)(const ta_control_calls *control, const ta_infer_calls *infer, uint64_t number,
                                     void *desk) noexcept nogil
        int (*settle)(TRITONSERVER_Server *server, uint32_t ms) noexcept nogil
        void (*close)(TRITONSERVER_Server *server) noexcept nogil
        void (*free)(TRITONSERVER_Server *server) noexcept nogil

# Takes the one input of a request that came without a description, as InvalidArg or the input of the request.
ctypedef int (*take_raw_t)(InferRequest request, ModelSignature signature, Buffer body, int64_t max_nbytes) except -1

# The library's table. Loads it; InternalError when it cannot be loaded.
cdef const ta_library *c_library() except NULL

# A request with all that the C one says, but for its inputs and its trace. UnicodeDecodeError.
cdef InferRequest request_of(TRITONSERVER_InferenceRequest *c)

# Whether a trace is told the tensors too: inputs are to be copied then, as it is told when the request was given back.
cdef bint wants_tensors(TRITONSERVER_InferenceTrace *trace) noexcept

# Its inputs: where they lie, with `copies` or in several pieces copied. `raw`: NULL, and a raw input is refused.
cdef int take_inputs(InferRequest request, TRITONSERVER_InferenceRequest *c, ModelSignature signature, take_raw_t raw,
                     bint copies) except -1

# Has a program's trace told of the request when that ends: it is put on its server's list then. One that stands for a
# trace of the server (`owner`) makes the request's a child of that one; it stays the caller's. `over()`: called behind
# the first, on any thread with the GIL; None: nobody wants to know.
cdef int take_trace(InferRequest request, TRITONSERVER_InferenceRequest *c, TRITONSERVER_InferenceTrace *trace,
                    ModelSignature signature, object over) except -1

# The request was not taken: its trace is the caller's, and not told of it.
cdef int leave_trace(InferRequest request) except -1

# A response to the C request, to be put on the list: with `error`, or with what `response` has. It keeps `keeper`, of
# which a reference is given back once it was handed out; the response itself only where it needs its bytes. An error
# where there is no memory for what it has.
cdef TRITONSERVER_InferenceResponse *response_to(TRITONSERVER_InferenceRequest *c, InferRequest request,
                                                 InferResponse response, object error, bint final, bint decoupled,
                                                 object keeper) except NULL

# An exception, as an error of the library. What is no ServerError is logged.
cdef TRITONSERVER_Error *error_of(object error)

# The label of a class, a new string; NULL where there is none.
cdef char *label_of(ModelSignature signature, const char *output, uint64_t index)
