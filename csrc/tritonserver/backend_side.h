/* Inside libtritonserver.so: what TRITONBACKEND_* objects are made of, and the two tables between them and the engine
 * `capi` (triton_async.backends.capi), which makes them, runs executions and hears of what backends say.
 *
 * A request is one thing with the answer to it: requests, responses and factories are handles that count its `refs`.
 *
 *   HELD --all answered in Execute--> (the batch's own outputs)      the cheap way: no GIL, nothing posted
 *     |----- go_live ---------------> LIVE                           each response and release is posted by itself
 *
 * While its execution is HELD, what a backend sends is kept in the request, under the execution's lock. LIVE is for ever.
 */
#ifndef TRITON_ASYNC_BACKEND_SIDE_H
#define TRITON_ASYNC_BACKEND_SIDE_H

#include "internal.h"
#include "triton/core/tritonbackend.h"

#include "batch.h"

#include <pthread.h>
#include <stdint.h>

/* First word of each object: what it is. A deleted one has GONE, as long as its memory is not used again. */
enum ta_magic {
    TA_MAGIC_GONE = 0x676f6e65,
    TA_MAGIC_BACKEND = 0x62636b64,
    TA_MAGIC_MODEL = 0x6d6f646c,
    TA_MAGIC_INSTANCE = 0x696e7374,
    TA_MAGIC_REQUEST = 0x72657175,
    TA_MAGIC_INPUT = 0x696e7075,
    TA_MAGIC_OUTPUT = 0x6f757470,
    TA_MAGIC_RESPONSE = 0x72657370,
    TA_MAGIC_FACTORY = 0x66616374,
    TA_MAGIC_STATE = 0x73746174,
    TA_MAGIC_ATTRIBUTES = 0x61747472
};

/* Executions and responses that are over and kept a little. */
#define TA_DEAD 64

typedef struct ta_execution ta_execution;

/* One input or output of a model, as its config names it. Strings are the model's. */
typedef struct ta_spec {
    char *name;
    int32_t datatype; /* TRITONSERVER_DataType */
    int32_t reshaped; /* 1: a backend sees other dims than clients do */
    int32_t state;    /* of an output: it is a state of sequences */
} ta_spec;

typedef struct ta_preferred_group {
    int32_t kind;
    uint64_t count;
    uint64_t *devices; /* NULL: not said */
    uint64_t n_devices;
} ta_preferred_group;

struct TRITONBACKEND_BackendAttribute {
    uint32_t magic;
    int32_t parallel_loading;
    uint32_t n_groups;
    ta_preferred_group *groups;
};

struct TRITONBACKEND_MemoryManager {
    TRITONBACKEND_Backend *backend;
};

struct TRITONBACKEND_Backend {
    uint32_t magic;
    int32_t initialising; /* Initialize is running: the policy may be set */
    char *name;
    char *location;
    TRITONSERVER_Message *config;
    TRITONBACKEND_ExecutionPolicy policy;
    void *state;
    TRITONBACKEND_MemoryManager memory;
    TRITONBACKEND_BackendAttribute attributes;
    void *owner; /* the Python object, borrowed */
};

struct TRITONBACKEND_Model {
    uint32_t magic;
    int32_t initialising;  /* ModelInitialize is running: the config may be set */
    int32_t auto_complete;
    TRITONBACKEND_Backend *backend;
    char *name;
    char *location;
    uint64_t version;
    TRITONSERVER_Message *config;
    TRITONSERVER_Server *server; /* as this model sees it; the engine's */
    void *state;
    void *owner; /* the Python object, borrowed */
    _Atomic int32_t refs; /* the engine's, and those of its instances */
    /* Of a model that is loaded: */
    ta_spec *inputs;
    ta_spec *outputs;
    int32_t n_inputs;
    int32_t n_outputs;
    int32_t batching;   /* max_batch_size > 0 */
    int32_t decoupled;
    int32_t iterative;  /* requests may be released to be run once more */
    int32_t has_states; /* some output is a state */
};

struct TRITONBACKEND_ModelInstance {
    uint32_t magic;
    int32_t kind; /* TRITONSERVER_InstanceGroupKind */
    int32_t device_id;
    int32_t passive;
    TRITONBACKEND_Model *model;
    char *name;
    TRITONSERVER_Message *host_policy;
    char **profiles;
    uint32_t n_profiles;
    uint32_t n_secondary;
    char **secondary_kinds;
    int64_t *secondary_ids;
    void *state;
    void *pool;          /* ta_slab_pool: where outputs are leased */
    void *owner;         /* the Python object, borrowed */
    _Atomic int32_t refs;      /* the engine's, and those of its executions: a request may be let go behind it */
    _Atomic int32_t executing; /* Execute is running */
    /* What ReportBatchStatistics said in the execution that runs; zero: nothing. */
    _Atomic int64_t compute_start_ns;
    _Atomic int64_t compute_end_ns;
    /* Requests that the backend has. Under `lock`. */
    pthread_mutex_t lock;
    int32_t finalised; /* no request is its own any more */
    ta_execution *executions;
    /* Executions that are over, the oldest of which is freed next: a backend that goes on using one is told so. */
    ta_execution *dead[TA_DEAD];
    TRITONBACKEND_Response *dead_responses[TA_DEAD];
    uint32_t n_dead;
    uint32_t n_dead_responses;
    int64_t waited_ns; /* that an answer of the last execution waited for its end */
};

struct TRITONBACKEND_Input {
    uint32_t magic;
    int32_t datatype;
    const char *name;
    const char *data;
    int64_t nbytes;
    int32_t memory_type;
    int32_t device_id;
    uint32_t rank;
    int64_t dims[TA_MAX_RANK];
    TRITONSERVER_BufferAttributes attributes;
};

/* Memory of one output, or of the same output of several requests of a batch. */
typedef struct ta_lease_shared {
    _Atomic int32_t refs;
    void *slab;
    char *data;
    int64_t nbytes;
} ta_lease_shared;

struct TRITONBACKEND_Output {
    uint32_t magic;
    int32_t index; /* in the signature */
    int32_t datatype;
    uint32_t rank;
    int64_t dims[TA_MAX_RANK];
    char *data;
    int64_t nbytes;
    ta_lease_shared *memory; /* NULL: no buffer was asked for */
    TRITONBACKEND_Response *response;
    TRITONSERVER_BufferAttributes attributes;
};

struct TRITONBACKEND_State {
    uint32_t magic;
    int32_t updated;
    TRITONBACKEND_Output output; /* `response` NULL */
    TRITONBACKEND_Request *request;
    TRITONBACKEND_State *next;
};

struct TRITONBACKEND_Response {
    uint32_t magic;
    uint32_t flags;
    TRITONBACKEND_Request *request;
    TRITONBACKEND_Response *next; /* in the request's queue */
    TRITONSERVER_Error *error;    /* its own copy */
    TRITONSERVER_Parameter **parameters;
    uint32_t n_parameters;
    uint32_t n_outputs;
    TRITONBACKEND_Output outputs[]; /* room for each output of the model; the first n_outputs are made */
};

struct TRITONBACKEND_ResponseFactory {
    uint32_t magic;
    TRITONBACKEND_Request *request;
};

struct TRITONBACKEND_ModelInstanceResponseStatistics {
    TRITONBACKEND_ModelInstance *instance;
    TRITONBACKEND_ResponseFactory *factory;
    uint64_t response_start;
    uint64_t output_start;
    uint64_t response_end;
    TRITONSERVER_Error *error;
};

/* What only the Python request knows, fetched when it is first asked for. Strings are its own. */
typedef struct ta_details {
    char *id;
    char *correlation_string; /* NULL: it is a number */
    uint64_t correlation;
    uint64_t timeout_us;
    uint32_t flags;
    uint32_t n_parameters;
    TRITONSERVER_Parameter **parameters;
} ta_details;

struct TRITONBACKEND_Request {
    uint32_t magic;
    _Atomic int32_t refs;   /* itself until it is released, its responses and factories */
    ta_execution *execution;
    void *inferred;         /* InferRequest; alive while the execution is HELD, or `factory` is there */
    void *factory;          /* ResponseFactory, owned, once LIVE; given back by whoever takes it under the lock */
    int64_t row;            /* its first row in the batch */
    int64_t rows;
    uint64_t wanted;        /* bit per output, the last one for all from there on */
    int32_t number;         /* in the batch */
    int32_t released;
    uint32_t release_flags;
    int32_t final;          /* the final response was sent, or is queued */
    int32_t peeked;         /* it stands in a queue: it can only be looked at */
    _Atomic int32_t abandoned; /* its instance was finalised: nobody waits for it */
    int32_t n_queued;
    uint32_t n_inputs;
    TRITONBACKEND_Input *inputs;
    TRITONBACKEND_Response *queued; /* sent while HELD, the oldest first */
    TRITONBACKEND_State *states;
    ta_details *details;
    TRITONSERVER_InferenceTrace *trace; /* once it was asked for; NULL: it is not traced */
};

struct ta_execution {
    TRITONBACKEND_ModelInstance *instance;
    ta_batch *batch;       /* while Execute runs, else NULL */
    pthread_mutex_t lock;
    _Atomic int32_t refs;  /* requests with refs, and Execute itself */
    int32_t live;
    int32_t irregular;     /* the batch's outputs cannot be joined */
    int32_t rows_known;    /* requests' rows split the outputs: the model batches and the batch has no assembly */
    int64_t first_sent_ns; /* when the first answer was queued; 0: none */
    int32_t n_requests;
    ta_lease_shared **joined; /* per output of the model: the memory of the whole batch, or NULL */
    ta_execution *previous;
    ta_execution *next;
    TRITONBACKEND_Request **handles; /* what Execute is called with */
    TRITONBACKEND_Request requests[];
};

/* What the engine does for the library. Any thread, without the GIL, which they take where they need it. */
typedef struct ta_backend_calls {
    /* A lease of at least `nbytes` bytes of a pool, NULL without memory; and back. */
    void *(*lease)(void *pool, int64_t nbytes, char **data);
    void (*give_back)(void *slab);
    /* Fills `request->details`. 0, or -1 without memory. */
    int (*describe)(TRITONBACKEND_Request *request);
    int (*is_cancelled)(TRITONBACKEND_Request *request);
    int (*asks_for)(TRITONBACKEND_Request *request, int32_t output);
    /* Of LIVE requests. `send` takes the response, and returns why it could not be sent. */
    TRITONSERVER_Error *(*send)(TRITONBACKEND_Request *request, TRITONBACKEND_Response *response);
    TRITONSERVER_Error *(*send_flags)(TRITONBACKEND_Request *request);
    void (*released)(TRITONBACKEND_Request *request);
    void (*drop)(void *object); /* gives a reference back */
    void (*keep)(void *object);
    /* Sets `request->trace` where the request is traced. 0, or -1 without memory. */
    int (*trace)(TRITONBACKEND_Request *request);
    void (*note_trace)(void *trace, const char *name, uint64_t ns);
    /* Makes the requests of an execution LIVE (its lock is not held). */
    void (*go_live)(ta_execution *execution);
    TRITONSERVER_Error *(*set_config)(TRITONBACKEND_Model *model, const char *json, size_t nbytes);
    TRITONSERVER_Error *(*allocate)(TRITONBACKEND_Backend *backend, void **buffer, int32_t memory_type,
                                    int64_t device_id, uint64_t nbytes);
    TRITONSERVER_Error *(*free)(TRITONBACKEND_Backend *backend, void *buffer, int32_t memory_type);
    /* Bytes that a model or an instance says that it takes. */
    void (*memory_usage)(TRITONBACKEND_Model *model, TRITONBACKEND_ModelInstance *instance,
                         TRITONSERVER_BufferAttributes **usage, uint32_t count);
} ta_backend_calls;

/* What the library does for the engine. */
typedef struct ta_backend_side {
    void (*register_calls)(const ta_backend_calls *calls);
    TRITONBACKEND_Backend *(*backend_new)(const char *name, const char *location, const char *config);
    void (*backend_free)(TRITONBACKEND_Backend *backend);
    TRITONBACKEND_Model *(*model_new)(TRITONBACKEND_Backend *backend, const char *name, uint64_t version,
                                      const char *location, const char *config, int auto_complete);
    int (*model_set_config)(TRITONBACKEND_Model *model, const char *config);
    int (*model_set_specs)(TRITONBACKEND_Model *model, int32_t n_inputs, int32_t n_outputs);
    void (*model_free)(TRITONBACKEND_Model *model);
    TRITONBACKEND_ModelInstance *(*instance_new)(TRITONBACKEND_Model *model, const char *name, int32_t kind,
                                                 int32_t device_id, const char *host_policy);
    int (*instance_set_lists)(TRITONBACKEND_ModelInstance *instance, const char *const *profiles, uint32_t n_profiles,
                              const char *const *kinds, const int64_t *ids, uint32_t n_secondary);
    /* Fails what the backend has kept, and frees the instance: its memory goes with the last of its requests. */
    void (*instance_free)(TRITONBACKEND_ModelInstance *instance);
    /* An execution with room for the requests of a batch, each with `n_inputs` inputs to be filled; NULL without memory.
     * The engine fills them, calls Execute, then `end`, and is done with it. */
    ta_execution *(*begin)(TRITONBACKEND_ModelInstance *instance, ta_batch *batch, uint32_t n_inputs);
    /* Execute returned `error` (taken over), or NULL. What is left to do is done: the batch is filled, failed, or, with
     * by_request set, its requests are LIVE. */
    void (*end)(ta_execution *execution, TRITONSERVER_Error *error);
    /* From here on requests are LIVE; what was sent while they were HELD goes to `send`. The engine, in go_live, with
     * the factories in place. */
    void (*flush)(ta_execution *execution);
    void (*response_free)(TRITONBACKEND_Response *response);
    void (*lease_drop)(void *lease); /* ta_lease_shared; signature of ta_tensor.release */
    TRITONSERVER_Error *(*error_new)(TRITONSERVER_Error_Code code, const char *text);
    void (*error_delete)(TRITONSERVER_Error *error);
    TRITONSERVER_Parameter *(*parameter_new)(const char *name, const TRITONSERVER_ParameterType type,
                                             const void *value);
    TRITONSERVER_InferenceTrace *(*trace_of)(void *owner, uint64_t id, uint64_t parent_id, int32_t level,
                                             const char *model, int64_t version, const char *request_id,
                                             const char *context);
    /* A request of the instance for the hooks of batching, to be filled, looked at and cleared again and again. NULL
     * without memory. */
    TRITONBACKEND_Request *(*peek_new)(TRITONBACKEND_ModelInstance *instance, uint32_t n_inputs);
    void (*peek_clear)(TRITONBACKEND_Request *request);
    void (*peek_free)(TRITONBACKEND_Request *request);
} ta_backend_side;

const ta_backend_side *ta_backend_side_table(void);

/* -- Between the files of the library */

extern const ta_backend_calls *ta_calls;

ta_execution *ta_execution_begin(TRITONBACKEND_ModelInstance *instance, ta_batch *batch, uint32_t n_inputs);
void ta_execution_end(ta_execution *execution, TRITONSERVER_Error *error);
void ta_execution_flush(ta_execution *execution);
void ta_executions_abandon(TRITONBACKEND_ModelInstance *instance);
void ta_executions_free(TRITONBACKEND_ModelInstance *instance);
void ta_instance_drop(TRITONBACKEND_ModelInstance *instance);
void ta_execution_drop(ta_execution *execution);
/* For LIVE and HELD requests alike; takes the response. */
TRITONSERVER_Error *ta_send_answer(TRITONBACKEND_Request *request, TRITONBACKEND_Response *response, uint32_t flags);
TRITONBACKEND_Response *ta_response_new(TRITONBACKEND_Request *request);
void ta_request_drop(TRITONBACKEND_Request *request);
/* Its handles are gone: it and its inputs are told to be none. */
void ta_request_retire(TRITONBACKEND_Request *request);
void ta_response_free(TRITONBACKEND_Response *response);
void ta_output_free(TRITONBACKEND_Output *output);
void ta_states_free(TRITONBACKEND_Request *request);
void ta_lease_drop(void *lease);
/* The C form of a trace of the server, `owner`, of which it takes a reference; NULL without memory. */
TRITONSERVER_InferenceTrace *ta_trace_of(void *owner, uint64_t id, uint64_t parent_id, int32_t level, const char *model,
                                         int64_t version, const char *request_id, const char *context);
void ta_trace_drop(TRITONSERVER_InferenceTrace *trace);
TRITONBACKEND_Request *ta_peek_new(TRITONBACKEND_ModelInstance *instance, uint32_t n_inputs);
void ta_peek_clear(TRITONBACKEND_Request *request);
void ta_peek_free(TRITONBACKEND_Request *request);
void ta_details_free(ta_details *details);
int ta_output_buffer(TRITONBACKEND_Request *request, TRITONBACKEND_Output *output, uint64_t nbytes);

/* The error of a function that got an object that is none, or is no more. */
TRITONSERVER_Error *ta_not_a(const char *what);

/* A request that stands in a queue is neither answered nor released. */
#define TAKEN(request)                                                                                   \
    do {                                                                                                 \
        NEEDS_A(REQUEST, request);                                                                       \
        if ((request)->peeked)                                                                           \
            return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "a request in the queue can only be looked at"); \
    } while (0)

#define NEEDS_A(MAGIC, pointer)                                              \
    do {                                                                     \
        if ((pointer) == NULL)                                               \
            return ta_null(#pointer);                                        \
        if (__atomic_load_n((const uint32_t *)(pointer), __ATOMIC_RELAXED) != TA_MAGIC_##MAGIC) \
            return ta_not_a(#pointer);                                       \
    } while (0)

#endif
