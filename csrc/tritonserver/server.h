/* The server side of libtritonserver.so: servers, requests and responses, and what the server's own modules give and get.
 *
 * Control calls go to `ta_control_calls` (triton_async.embedding.capi), inference to `ta_infer_calls` (capi_infer). Both
 * take the GIL themselves and let go of it while they wait. Callbacks of the program run on a thread for each server,
 * which has the GIL only to drop what it is done with.
 */
#ifndef TRITON_ASYNC_SERVER_H
#define TRITON_ASYNC_SERVER_H

#include "internal.h"

#include <pthread.h>

typedef struct ta_text {
    const char *data;
    uint64_t nbytes;
} ta_text;

/* What the callback thread of a server is to do. Part of what it is about. */
typedef struct ta_answer {
    struct ta_answer *next;
    enum { TA_ANSWER_RESPONSE, TA_ANSWER_RELEASE, TA_ANSWER_TRACE } kind;
} ta_answer;

typedef struct ta_piece {
    const void *base;
    size_t nbytes;
    TRITONSERVER_MemoryType memory_type;
    int64_t memory_type_id;
} ta_piece;

typedef struct ta_input {
    char *name;
    TRITONSERVER_DataType datatype;
    bool raw; /* type and shape are the model's */
    uint64_t dim_count;
    int64_t *shape;
    size_t n_parts, room;
    ta_piece *parts;
} ta_input;

struct TRITONSERVER_ResponseAllocator {
    TRITONSERVER_ResponseAllocatorAllocFn_t alloc;
    TRITONSERVER_ResponseAllocatorReleaseFn_t release;
    TRITONSERVER_ResponseAllocatorStartFn_t start;
    TRITONSERVER_ResponseAllocatorQueryFn_t query;
    TRITONSERVER_ResponseAllocatorBufferAttributesFn_t attributes;
};

/* Its fields are the caller's; while `in_flight` nobody changes them. */
struct TRITONSERVER_InferenceRequest {
    ta_answer released;
    TRITONSERVER_Server *server;
    char *model_name, *id, *correlation; /* `correlation`: NULL for a number */
    int64_t model_version;
    uint32_t flags;
    uint64_t correlation_number, priority, timeout_us;
    size_t n_inputs, inputs_room, n_outputs, outputs_room, n_parameters, parameters_room;
    ta_input *inputs;
    char **outputs;
    TRITONSERVER_Parameter **parameters;
    TRITONSERVER_InferenceRequestReleaseFn_t release;
    void *release_userp;
    TRITONSERVER_ResponseAllocator *allocator;
    void *allocator_userp;
    TRITONSERVER_InferenceResponseCompleteFn_t complete;
    void *complete_userp;
    _Atomic bool in_flight, cancelled;
    bool foreign; /* sent by a thread that is not Python's */
    uint64_t serial; /* of its last inference */
};

typedef struct ta_output {
    char *name;
    TRITONSERVER_DataType datatype;
    uint64_t dim_count;
    int64_t *shape;
    const void *source; /* the server's bytes, until the response was handed out, or a copy behind the shape */
    size_t nbytes;
    void *base; /* the allocator's */
    void *userp;
    TRITONSERVER_MemoryType memory_type;
    int64_t memory_type_id;
    bool allocated;
} ta_output;

struct TRITONSERVER_InferenceResponse {
    ta_answer answer;
    TRITONSERVER_Server *server;
    void *owner; /* what keeps the outputs' sources: a reference to give back */
    TRITONSERVER_ResponseAllocator *allocator;
    void *allocator_userp;
    TRITONSERVER_InferenceResponseCompleteFn_t complete;
    void *complete_userp;
    uint32_t flags;
    bool empty; /* only the flags are told */
    TRITONSERVER_Error *error;
    char *model_name, *id;
    int64_t model_version;
    uint32_t n_outputs, n_parameters, outputs_room, parameters_room;
    ta_output *outputs;
    TRITONSERVER_Parameter **parameters;
    char **labels; /* those that were asked for */
    size_t n_labels, labels_room;
};

typedef struct ta_traced_tensor {
    TRITONSERVER_InferenceTraceActivity activity;
    TRITONSERVER_DataType datatype;
    char *name;
    int64_t *shape;
    uint64_t dim_count;
    const void *base;
    size_t nbytes;
    TRITONSERVER_MemoryType memory_type;
    int64_t memory_type_id;
} ta_traced_tensor;

struct TRITONSERVER_InferenceTrace {
    ta_answer answer;
    uint64_t id, parent_id;
    TRITONSERVER_InferenceTraceLevel level;
    TRITONSERVER_InferenceTraceActivityFn_t activity;
    TRITONSERVER_InferenceTraceTensorActivityFn_t tensor_activity;
    TRITONSERVER_InferenceTraceReleaseFn_t release;
    void *userp;
    void *owner; /* the server's Trace that it stands for, a reference; NULL: it is a program's */
    bool lent;   /* a backend's request has it, and ends it */
    char *model_name, *request_id, *context;
    int64_t model_version;
    size_t n_events, events_room;
    struct {
        TRITONSERVER_InferenceTraceActivity activity;
        uint64_t ns;
    } *events;
    size_t n_tensors, tensors_room;
    ta_traced_tensor *tensors;
    void *keeper; /* what keeps the tensors' bytes: a reference to give back behind the trace's end */
};

/* A server as a program has it, or as a backend's model sees the one that it lives in (inner_server.c). */
struct TRITONSERVER_Server {
    struct TRITONSERVER_Server *next; /* in the list of all */
    const struct ta_control_calls *control;
    const struct ta_infer_calls *infer;
    uint64_t number;                  /* what the control calls know it by */
    void *desk;                       /* what inference is asked of, kept by whoever made it */
    bool inner;                       /* a backend's: it is neither stopped nor deleted by who has it */
    bool running;                     /* there is a thread of callbacks */
    _Atomic uint32_t on_way;          /* requests that their senders have not got back */
    _Atomic bool stopped, stuck;      /* stuck: its end was given up once, and requests may still name it */
    pthread_mutex_t lock;
    pthread_cond_t more;
    ta_answer *first, *last;
    bool ending, waiting, answering;  /* answering: what was taken off the list is not all told yet */
    pthread_cond_t told;
    pthread_t thread;
};

/* -- What the server's modules give */

typedef struct ta_control_calls {
    /* A call by its name. Its answer, where it has one, is a new message. Blocks. Any thread. */
    TRITONSERVER_Error *(*call)(
        uint64_t server, const char *what, const ta_text *texts, uint64_t count, TRITONSERVER_Message **answer);
} ta_control_calls;

typedef struct ta_infer_calls {
    /* Refuses, or takes the request: then its responses and its release come by `ta_answers_put`. Any thread. */
    TRITONSERVER_Error *(*infer)(
        void *desk, TRITONSERVER_InferenceRequest *request, TRITONSERVER_InferenceTrace *trace);
    void (*cancel)(void *desk, uint64_t serial);
    /* Whether a model is there. */
    TRITONSERVER_Error *(*find)(void *desk, const char *model, int64_t version);
    /* The label of a class, a new string; NULL where there is none. */
    char *(*label)(void *desk, const char *model, int64_t version, const char *output, uint64_t index);
    /* Gives references back. */
    void (*drop)(void **owners, uint64_t count);
} ta_infer_calls;

void ta_register_control(const ta_control_calls *calls);
void ta_register_infer(const ta_infer_calls *calls);

/* Python is about to end, and nothing of it is called any more: threads of callbacks are ended, calls of servers are
 * errors, and whoever ends one has done so. Without the GIL. */
void ta_end_python(void);

/* Calls of threads that are not Python's are refused, or no more. Any thread. */
void ta_refuse_foreign(bool refused);
/* How many of them are in calls, and have requests on their way. Any thread. */
uint64_t ta_count_foreign(void);

/* Of servers that programs make. */
extern const ta_control_calls *ta_control;
extern const ta_infer_calls *ta_infer;

/* -- What they get: a table, so that modules need not be linked with the library. */

typedef struct ta_library {
    TRITONSERVER_Error *(*error)(TRITONSERVER_Error_Code code, const char *text);
    /* A response to the request, with the error, which it takes, or without. NULL without memory. */
    TRITONSERVER_InferenceResponse *(*response)(
        TRITONSERVER_InferenceRequest *request, const char *model, int64_t version, const char *id, uint32_t flags,
        TRITONSERVER_Error *error);
    /* 0: the bytes were copied; 1: they have to stay until the response was handed out; -1: no memory. */
    int (*add_output)(
        TRITONSERVER_InferenceResponse *response, const char *name, int32_t datatype, const int64_t *shape,
        uint64_t dim_count, const void *source, uint64_t nbytes);
    int (*add_parameter)(TRITONSERVER_InferenceResponse *response, const char *name, int32_t type, const void *value);
    /* One that is not put. */
    void (*drop_response)(TRITONSERVER_InferenceResponse *response);
    void (*put)(TRITONSERVER_Server *server, ta_answer *answer);
    void (*note)(TRITONSERVER_InferenceTrace *trace, int32_t activity, uint64_t ns);
    void (*name_trace)(TRITONSERVER_InferenceTrace *trace, const char *model, int64_t version, const char *request_id);
    /* The rest of `tensor` but for its name and shape is filled; these are copied. */
    void (*note_tensor)(
        TRITONSERVER_InferenceTrace *trace, const ta_traced_tensor *tensor, const char *name, const int64_t *shape);
} ta_library;

const ta_library *ta_library_calls(void);

/* Servers of backends' models (inner_server.c). Without the GIL where they wait. */
typedef struct ta_inner_side {
    TRITONSERVER_Server *(*make)(
        const ta_control_calls *control, const ta_infer_calls *infer, uint64_t number, void *desk);
    /* Waits until all of its callbacks are over, so many milliseconds; whether they are. */
    int (*settle)(TRITONSERVER_Server *server, uint32_t ms);
    void (*close)(TRITONSERVER_Server *server);
    void (*free)(TRITONSERVER_Server *server);
} ta_inner_side;

const ta_inner_side *ta_inner_side_table(void);

/* -- Among the files here */

TRITONSERVER_Error *ta_no_memory(void);
/* Room for one more element of `nbytes` bytes; whether there is. */
bool ta_room(void *array, size_t *room, size_t count, size_t nbytes);
/* Has Python running and the server's modules in it. */
TRITONSERVER_Error *ta_start_python(void);
/* Lets go of the GIL for a wait, if the caller has it: what `ta_resume_python` wants then, else NULL. */
void *ta_pause_python(void);
void ta_resume_python(void *paused);
/* A thread that calls into Python keeps its state there from the first time on, to its end: to make one takes as long as a
 * call. Python is there. */
void ta_attach_thread(void);
/* Whether the caller's thread is none of Python's. */
bool ta_is_foreign(void);
/* Around what a thread waits for the GIL in: an error where it is to stay out. `server`: NULL, or whose call it is; models
 * of backends do not stay out. */
TRITONSERVER_Error *ta_enter(const TRITONSERVER_Server *server, bool *foreign);
void ta_leave(bool foreign);
/* A request of a thread that is not Python's was sent, or handed back. */
void ta_count_request(int change);
/* Whether the server is one that was made and not deleted. */
TRITONSERVER_Error *ta_known(TRITONSERVER_Server *server);
/* Whether there is a server that a program has made. */
bool ta_has_servers(void);
void ta_enlist(TRITONSERVER_Server *server);
void ta_forget(TRITONSERVER_Server *server);
TRITONSERVER_Error *ta_options_texts(const TRITONSERVER_ServerOptions *options, const ta_text **texts, uint64_t *count);
/* The thread of callbacks. */
void ta_answers_prepare(TRITONSERVER_Server *server);
/* Starts it, the first time. */
TRITONSERVER_Error *ta_answers_ready(TRITONSERVER_Server *server);
void ta_answers_stop(TRITONSERVER_Server *server);
/* Ends the thread, if that is not in a callback for long, and keeps the rest. */
void ta_answers_leave(TRITONSERVER_Server *server);
/* Waits until all that was put is told, so many milliseconds; whether it is. */
int ta_answers_await(TRITONSERVER_Server *server, uint32_t ms);
void ta_answers_put(TRITONSERVER_Server *server, ta_answer *answer);
void ta_answer_free(TRITONSERVER_InferenceResponse *response);
/* Tells of the trace what was noted and gives it to its owner. Behind it nothing of it is looked at. */
void ta_trace_end(TRITONSERVER_InferenceTrace *trace);
/* The families of metrics as text: a new string for `ta_metrics_free`, or NULL. */
char *ta_metrics_text(size_t *nbytes);
void ta_metrics_free(char *text);

#define OUT_OF_MEMORY_IF(condition)  \
    do {                             \
        if (condition)               \
            return ta_no_memory();   \
    } while (0)
#define TRY(call)                             \
    do {                                      \
        TRITONSERVER_Error *wrong_ = (call);  \
        if (wrong_ != NULL)                   \
            return wrong_;                    \
    } while (0)

#endif
