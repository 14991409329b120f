# The inside of libtritonserver.so as the engine sees it (csrc/tritonserver/backend_side.h, where its rules are).

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from triton_async.infer.batch cimport ta_batch

cdef extern from "tritonserver/backend_side.h":
    ctypedef struct TRITONSERVER_Error:
        int code
        char *message
    ctypedef struct TRITONSERVER_Message:
        pass
    ctypedef struct TRITONSERVER_InferenceTrace:
        pass
    ctypedef struct TRITONSERVER_BufferAttributes:
        int memory_type
        int64_t memory_type_id
        size_t nbytes
    ctypedef union ta_value:
        char *string
        int64_t integer
        double real
        bint boolean
    ctypedef struct TRITONSERVER_Parameter:
        char *name
        int type
        uint64_t nbytes
        ta_value value
    ctypedef struct ta_spec:
        char *name
        int32_t datatype
        int32_t reshaped
        int32_t state
    ctypedef struct ta_preferred_group:
        int32_t kind
        uint64_t count
        uint64_t *devices
        uint64_t n_devices
    ctypedef struct TRITONBACKEND_BackendAttribute:
        int32_t parallel_loading
        uint32_t n_groups
        ta_preferred_group *groups
    ctypedef struct TRITONBACKEND_Backend:
        int32_t initialising
        int policy
        TRITONBACKEND_BackendAttribute attributes
        void *owner
    ctypedef struct TRITONBACKEND_Model:
        int32_t initialising
        int32_t auto_complete
        TRITONBACKEND_Backend *backend
        void *server
        void *owner
        ta_spec *inputs
        ta_spec *outputs
        int32_t n_inputs
        int32_t n_outputs
        int32_t batching
        int32_t decoupled
        int32_t iterative
        int32_t has_states
    ctypedef struct TRITONBACKEND_ModelInstance:
        int32_t passive
        TRITONBACKEND_Model *model
        void *pool
        void *owner
        int32_t executing
        int64_t waited_ns
    ctypedef struct TRITONBACKEND_Input:
        uint32_t magic
        int32_t datatype
        const char *name
        const char *data
        int64_t nbytes
        int32_t memory_type
        int32_t device_id
        uint32_t rank
        int64_t dims[16]
    ctypedef struct TRITONBACKEND_Output:
        int32_t index
        int32_t datatype
        uint32_t rank
        int64_t dims[16]
        char *data
        int64_t nbytes
        void *memory
    ctypedef struct TRITONBACKEND_State:
        int32_t updated
        TRITONBACKEND_Output output
        TRITONBACKEND_State *next
    ctypedef struct TRITONBACKEND_Response:
        uint32_t flags
        TRITONSERVER_Error *error
        TRITONSERVER_Parameter **parameters
        uint32_t n_parameters
        uint32_t n_outputs
        TRITONBACKEND_Output *outputs
    ctypedef struct ta_details:
        char *id
        char *correlation_string
        uint64_t correlation
        uint64_t timeout_us
        uint32_t flags
        uint32_t n_parameters
        TRITONSERVER_Parameter **parameters
    ctypedef struct TRITONBACKEND_Request:
        ta_execution *execution
        void *inferred
        void *factory
        int64_t row
        int64_t rows
        uint64_t wanted
        int32_t number
        uint32_t n_inputs
        int32_t released
        uint32_t release_flags
        TRITONBACKEND_Input *inputs
        TRITONBACKEND_State *states
        ta_details *details
        TRITONSERVER_InferenceTrace *trace
    ctypedef struct ta_execution:
        TRITONBACKEND_ModelInstance *instance
        ta_batch *batch
        int32_t n_requests
        TRITONBACKEND_Request **handles
        TRITONBACKEND_Request *requests
    ctypedef struct ta_backend_calls:
        void *(*lease)(void *pool, int64_t nbytes, char **data) noexcept nogil
        void (*give_back)(void *slab) noexcept nogil
        int (*describe)(TRITONBACKEND_Request *request) noexcept nogil
        int (*is_cancelled)(TRITONBACKEND_Request *request) noexcept nogil
        int (*asks_for)(TRITONBACKEND_Request *request, int32_t output) noexcept nogil
        TRITONSERVER_Error *(*send)(TRITONBACKEND_Request *request, TRITONBACKEND_Response *response) noexcept nogil
        TRITONSERVER_Error *(*send_flags)(TRITONBACKEND_Request *request) noexcept nogil
        void (*released)(TRITONBACKEND_Request *request) noexcept nogil
        void (*drop)(void *object) noexcept nogil
        void (*keep)(void *object) noexcept nogil
        int (*trace)(TRITONBACKEND_Request *request) noexcept nogil
        void (*note_trace)(void *trace, const char *name, uint64_t ns) noexcept nogil
        void (*go_live)(ta_execution *execution) noexcept nogil
        TRITONSERVER_Error *(*set_config)(TRITONBACKEND_Model *model, const char *json, size_t nbytes) noexcept nogil
        TRITONSERVER_Error *(*allocate)(TRITONBACKEND_Backend *backend, void **buffer, int32_t memory_type,
                                        int64_t device_id, uint64_t nbytes) noexcept nogil
        TRITONSERVER_Error *(*free)(TRITONBACKEND_Backend *backend, void *buffer, int32_t memory_type) noexcept nogil
        void (*memory_usage)(TRITONBACKEND_Model *model, TRITONBACKEND_ModelInstance *instance,
                             TRITONSERVER_BufferAttributes **usage, uint32_t count) noexcept nogil
    ctypedef struct ta_backend_side:
        void (*register_calls)(const ta_backend_calls *calls) noexcept nogil
        TRITONBACKEND_Backend *(*backend_new)(const char *name, const char *location, const char *config) noexcept nogil
        void (*backend_free)(TRITONBACKEND_Backend *backend) noexcept nogil
        TRITONBACKEND_Model *(*model_new)(TRITONBACKEND_Backend *backend, const char *name, uint64_t version,
                                          const char *location, const char *config, int auto_complete) noexcept nogil
        int (*model_set_config)(TRITONBACKEND_Model *model, const char *config) noexcept nogil
        int (*model_set_specs)(TRITONBACKEND_Model *model, int32_t n_inputs, int32_t n_outputs) noexcept nogil
        void (*model_free)(TRITONBACKEND_Model *model) noexcept nogil
        TRITONBACKEND_ModelInstance *(*instance_new)(TRITONBACKEND_Model *model, const char *name, int32_t kind,
                                                     int32_t device_id, const char *host_policy) noexcept nogil
        int (*instance_set_lists)(TRITONBACKEND_ModelInstance *instance, const char **profiles, uint32_t n_profiles,
                                  const char **kinds, const int64_t *ids, uint32_t n_secondary) noexcept nogil
        void (*instance_free)(TRITONBACKEND_ModelInstance *instance) noexcept nogil
        ta_execution *(*begin)(TRITONBACKEND_ModelInstance *instance, ta_batch *batch, uint32_t n_inputs) noexcept nogil
        void (*end)(ta_execution *execution, TRITONSERVER_Error *error) noexcept nogil
        void (*flush)(ta_execution *execution) noexcept nogil
        void (*response_free)(TRITONBACKEND_Response *response) noexcept nogil
        void (*lease_drop)(void *lease) noexcept nogil
        TRITONSERVER_Error *(*error_new)(int code, const char *text) noexcept nogil
        void (*error_delete)(TRITONSERVER_Error *error) noexcept nogil
        TRITONSERVER_Parameter *(*parameter_new)(const char *name, int type, const void *value) noexcept nogil
        TRITONSERVER_InferenceTrace *(*trace_of)(void *owner, uint64_t id, uint64_t parent_id, int32_t level,
                                                 const char *model, int64_t version, const char *request_id,
                                                 const char *context) noexcept nogil
        TRITONBACKEND_Request *(*peek_new)(TRITONBACKEND_ModelInstance *instance, uint32_t n_inputs) noexcept nogil
        void (*peek_clear)(TRITONBACKEND_Request *request) noexcept nogil
        void (*peek_free)(TRITONBACKEND_Request *request) noexcept nogil
    enum: TA_MAGIC_INPUT
    enum: TRITONSERVER_PARAMETER_STRING
    enum: TRITONSERVER_PARAMETER_INT
    enum: TRITONSERVER_PARAMETER_BOOL
    enum: TRITONSERVER_PARAMETER_DOUBLE
    enum: TRITONSERVER_RESPONSE_COMPLETE_FINAL
    enum: TRITONSERVER_REQUEST_RELEASE_RESCHEDULE
    enum: TRITONBACKEND_EXECUTION_DEVICE_BLOCKING
