/* A backend whose models ask other models, as the parameter `how` of their config says.
 *
 * The parameter `whom` names the other model. The answer is that of the other, plus 100.
 */
#define _GNU_SOURCE
#include "triton/core/tritonbackend.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TRY(call)                         \
    do {                                  \
        TRITONSERVER_Error *err = (call); \
        if (err != NULL)                  \
            return err;                   \
    } while (0)

typedef struct asker {
    char how[64];
    char whom[64];
    TRITONSERVER_Server *server;
    TRITONSERVER_ResponseAllocator *allocator;
} asker;

/* One request to the other model, and what came back. */
typedef struct question {
    asker *model;
    TRITONSERVER_InferenceRequest *request;
    TRITONBACKEND_Request *outer; /* of one that is answered by the callback */
    int32_t sent, got[64];
    int n_got;
    TRITONSERVER_Error *error;
    int finals, releases;
    int hold_ms; /* the callback waits so long */
    pthread_mutex_t lock;
    pthread_cond_t changed;
} question;

static void note(const char *what, const char *whom) {
    const char *path = getenv("ASKER_JOURNAL");
    FILE *file = path == NULL ? NULL : fopen(path, "a");
    if (file == NULL)
        return;
    fprintf(file, "%s %s\n", what, whom);
    fclose(file);
}

static void forget(const char *what, TRITONSERVER_Error *error) {
    if (error != NULL)
        note(what, TRITONSERVER_ErrorMessage(error));
    TRITONSERVER_ErrorDelete(error);
}

static int is(const asker *model, const char *how) {
    return strcmp(model->how, how) == 0;
}

static void wait_ms(int ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

static void find_text(const char *json, const char *name, char *text) {
    char wanted[96];
    snprintf(wanted, sizeof(wanted), "\"%s\": {\"string_value\": \"", name);
    const char *found = strstr(json, wanted);
    if (found == NULL)
        return;
    found += strlen(wanted);
    snprintf(text, 64, "%.*s", (int)(strchr(found, '"') - found), found);
}

/* -- The allocator */

static TRITONSERVER_Error *
allocate(TRITONSERVER_ResponseAllocator *allocator, const char *name, size_t size, TRITONSERVER_MemoryType type,
         int64_t id, void *userp, void **buffer, void **buffer_userp, TRITONSERVER_MemoryType *actual_type,
         int64_t *actual_id) {
    (void)allocator, (void)name, (void)type, (void)id, (void)userp;
    *buffer = malloc(size + 1);
    *buffer_userp = NULL;
    *actual_type = TRITONSERVER_MEMORY_CPU;
    *actual_id = 0;
    return NULL;
}

static TRITONSERVER_Error *
give_back(TRITONSERVER_ResponseAllocator *allocator, void *buffer, void *buffer_userp, size_t size,
          TRITONSERVER_MemoryType type, int64_t id) {
    (void)allocator, (void)buffer_userp, (void)size, (void)type, (void)id;
    free(buffer);
    return NULL;
}

/* -- Life */

TRITONSERVER_Error *TRITONBACKEND_Initialize(TRITONBACKEND_Backend *backend) {
#ifdef DEVICE_BLOCKING
    TRY(TRITONBACKEND_BackendSetExecutionPolicy(backend, TRITONBACKEND_EXECUTION_DEVICE_BLOCKING));
#endif
    (void)backend;
    return NULL;
}

typedef struct loading {
    asker *model;
    TRITONSERVER_Error *error;
} loading;

static void *load_on_thread(void *argument) {
    loading *one = argument;
    one->error = TRITONSERVER_ServerLoadModel(one->model->server, one->model->whom);
    return NULL;
}

/* On a thread of the backend's own. */
static TRITONSERVER_Error *load_beside(asker *model) {
    pthread_t thread;
    loading one = {model, NULL};
    pthread_create(&thread, NULL, load_on_thread, &one);
    pthread_join(thread, NULL);
    return one.error;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model *model) {
    TRITONSERVER_Message *config;
    const char *json;
    size_t size;
    asker *state = calloc(1, sizeof(*state));
    TRY(TRITONBACKEND_ModelSetState(model, state));
    TRY(TRITONBACKEND_ModelConfig(model, 1, &config));
    TRY(TRITONSERVER_MessageSerializeToJson(config, &json, &size));
    find_text(json, "how", state->how);
    find_text(json, "whom", state->whom);
    TRITONSERVER_MessageDelete(config);
    TRY(TRITONBACKEND_ModelServer(model, &state->server));
    TRY(TRITONSERVER_ResponseAllocatorNew(&state->allocator, allocate, give_back, NULL));
    if (is(state, "loads"))
        return TRITONSERVER_ServerLoadModel(state->server, state->whom);
    return is(state, "loads_beside") ? load_beside(state) : NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance *instance) {
    TRITONBACKEND_Model *model;
    void *state;
    TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
    TRY(TRITONBACKEND_ModelState(model, &state));
    return is(state, "instance_loads") ? TRITONSERVER_ServerLoadModel(((asker *)state)->server, ((asker *)state)->whom)
                                       : NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model *model) {
    void *state;
    TRY(TRITONBACKEND_ModelState(model, &state));
    note("ModelFinalize", ((asker *)state)->how);
    TRITONSERVER_ResponseAllocatorDelete(((asker *)state)->allocator);
    free(state);
    return NULL;
}

/* -- One question */

static void answer_outer(question *asked, TRITONSERVER_Error *error);

static void released(TRITONSERVER_InferenceRequest *request, const uint32_t flags, void *userp) {
    question *asked = userp;
    (void)request, (void)flags;
    pthread_mutex_lock(&asked->lock);
    asked->releases++;
    int own = asked->outer == NULL;
    pthread_cond_signal(&asked->changed);
    pthread_mutex_unlock(&asked->lock);
    if (!own) {
        answer_outer(asked, asked->error);
        forget("delete", TRITONSERVER_InferenceRequestDelete(asked->request));
        TRITONSERVER_ErrorDelete(asked->error);
        free(asked);
    }
}

static TRITONSERVER_Error *read_response(question *asked, TRITONSERVER_InferenceResponse *response) {
    const char *name;
    TRITONSERVER_DataType datatype;
    const int64_t *shape;
    uint64_t rank;
    const void *base;
    size_t size;
    TRITONSERVER_MemoryType type;
    int64_t id;
    void *userp;
    TRY(TRITONSERVER_InferenceResponseError(response));
    TRY(TRITONSERVER_InferenceResponseOutput(
        response, 0, &name, &datatype, &shape, &rank, &base, &size, &type, &id, &userp));
    asked->got[asked->n_got++ % 64] = *(const int32_t *)base;
    return NULL;
}

static void responded(TRITONSERVER_InferenceResponse *response, const uint32_t flags, void *userp) {
    question *asked = userp;
    if (asked->hold_ms != 0)
        wait_ms(asked->hold_ms);
    pthread_mutex_lock(&asked->lock);
    if (response != NULL) {
        TRITONSERVER_Error *error = read_response(asked, response);
        if (asked->error == NULL)
            asked->error = error;
        forget("delete", TRITONSERVER_InferenceResponseDelete(response));
    }
    asked->finals += (flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0;
    pthread_cond_signal(&asked->changed);
    pthread_mutex_unlock(&asked->lock);
}

static TRITONSERVER_Error *ask(question *asked, TRITONSERVER_InferenceTrace *trace) {
    int64_t shape[2] = {1, 1};
    pthread_mutex_init(&asked->lock, NULL);
    pthread_cond_init(&asked->changed, NULL);
    asker *model = asked->model;
    TRY(TRITONSERVER_InferenceRequestNew(&asked->request, model->server, model->whom, -1));
    TRITONSERVER_InferenceRequest *request = asked->request;
    TRY(TRITONSERVER_InferenceRequestAddInput(request, "INPUT0", TRITONSERVER_TYPE_INT32, shape, 2));
    TRY(TRITONSERVER_InferenceRequestAppendInputData(
        request, "INPUT0", &asked->sent, sizeof(asked->sent), TRITONSERVER_MEMORY_CPU, 0));
    TRY(TRITONSERVER_InferenceRequestAddRequestedOutput(request, "OUTPUT0"));
    TRY(TRITONSERVER_InferenceRequestSetReleaseCallback(request, released, asked));
    TRY(TRITONSERVER_InferenceRequestSetResponseCallback(request, model->allocator, NULL, responded, asked));
    return TRITONSERVER_ServerInferAsync(model->server, request, trace);
}

/* Until it is answered and released. */
static TRITONSERVER_Error *await(question *asked) {
    pthread_mutex_lock(&asked->lock);
    while (asked->finals == 0 || asked->releases == 0)
        pthread_cond_wait(&asked->changed, &asked->lock);
    pthread_mutex_unlock(&asked->lock);
    if (asked->finals != 1 || asked->releases != 1)
        note("wrong", "answered or released twice");
    TRITONSERVER_Error *error = asked->error;
    asked->error = NULL;
    return error;
}

static void end(question *asked) {
    if (asked->request != NULL)
        forget("delete", TRITONSERVER_InferenceRequestDelete(asked->request));
}

/* -- Answers to the request at hand */

static TRITONSERVER_Error *send(TRITONBACKEND_Request *request, int32_t value, TRITONSERVER_Error *error) {
    TRITONBACKEND_Response *response;
    TRITONBACKEND_Output *output;
    TRITONSERVER_MemoryType type = TRITONSERVER_MEMORY_CPU;
    int64_t id = 0, shape[2] = {1, 1};
    void *to;
    TRY(TRITONBACKEND_ResponseNew(&response, request));
    if (error == NULL) {
        TRY(TRITONBACKEND_ResponseOutput(response, &output, "OUTPUT0", TRITONSERVER_TYPE_INT32, shape, 2));
        TRY(TRITONBACKEND_OutputBuffer(output, &to, 4, &type, &id));
        *(int32_t *)to = value;
    }
    TRY(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
    return TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL);
}

static void answer_outer(question *asked, TRITONSERVER_Error *error) {
    forget("send", send(asked->outer, asked->got[0] + 100, error));
}

static TRITONSERVER_Error *read_value(TRITONBACKEND_Request *request, int32_t *value) {
    TRITONBACKEND_Input *input;
    const void *from;
    uint64_t size;
    TRY(TRITONBACKEND_RequestInput(request, "INPUT0", &input));
    TRY(TRITONBACKEND_InputBuffer(input, 0, &from, &size, NULL, NULL));
    memcpy(value, from, sizeof(*value));
    return NULL;
}

static TRITONSERVER_Error *sum_of(question *asked) {
    TRY(await(asked));
    for (int i = 1; i < asked->n_got; i++)
        asked->got[0] += asked->got[i];
    return NULL;
}

static TRITONSERVER_Error *traced(question *asked, TRITONBACKEND_Request *request) {
    TRITONSERVER_InferenceTrace *trace = NULL, *child = NULL;
    TRY(TRITONBACKEND_RequestTrace(request, &trace));
    if (trace != NULL) {
        uint64_t id = 0, parent = 0;
        struct timespec now;
        const char *name = "", *version = "";
        clock_gettime(CLOCK_MONOTONIC, &now);
        TRY(TRITONSERVER_InferenceTraceReportActivity(
            trace, (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec, "MY_ACTIVITY"));
        TRY(TRITONSERVER_InferenceTraceModelName(trace, &name));
        TRY(TRITONSERVER_InferenceTraceRequestId(trace, &version));
        TRY(TRITONSERVER_InferenceTraceId(trace, &id));
        TRY(TRITONSERVER_InferenceTraceSpawnChildTrace(trace, &child));
        TRY(TRITONSERVER_InferenceTraceParentId(child, &parent));
        note("traced", name);
        note("request", version);
        note("parent", parent == id ? "is it" : "is another");
        TRITONSERVER_Error *error = TRITONSERVER_InferenceTraceDelete(trace);
        note("delete", error == NULL ? "went" : TRITONSERVER_ErrorMessage(error));
        TRITONSERVER_ErrorDelete(error);
    } else {
        note("traced", "not");
    }
    TRY(ask(asked, child));
    return await(asked);
}

static TRITONSERVER_Error *controls(asker *model) {
    bool yes = false;
    uint32_t flags;
    TRITONSERVER_Message *message;
    const char *json;
    size_t size;
    TRY(TRITONSERVER_ServerIsLive(model->server, &yes));
    note("live", yes ? "yes" : "no");
    TRY(TRITONSERVER_ServerIsReady(model->server, &yes));
    TRY(TRITONSERVER_ServerModelIsReady(model->server, model->whom, -1, &yes));
    note("ready", yes ? "yes" : "no");
    TRY(TRITONSERVER_ServerModelBatchProperties(model->server, model->whom, -1, &flags, NULL));
    note("batches", flags == TRITONSERVER_BATCH_FIRST_DIM ? "yes" : "no");
    TRY(TRITONSERVER_ServerModelConfig(model->server, model->whom, -1, 1, &message));
    TRY(TRITONSERVER_MessageSerializeToJson(message, &json, &size));
    note("config", json);
    TRITONSERVER_MessageDelete(message);
    TRY(TRITONSERVER_ServerModelStatistics(model->server, model->whom, -1, &message));
    TRITONSERVER_MessageDelete(message);
    TRY(TRITONSERVER_ServerModelIndex(model->server, 0, &message));
    TRITONSERVER_MessageDelete(message);
    forget("stop", TRITONSERVER_ServerStop(model->server));
    forget("poll", TRITONSERVER_ServerPollModelRepository(model->server));
    forget("other", TRITONSERVER_ServerModelConfig(model->server, "nobody", -1, 1, &message));
    return TRITONSERVER_ServerDelete(model->server);
}

static void *ask_beside(void *argument) {
    question *asked = argument;
    /* An answer may put its error there before `ask` is back. */
    TRITONSERVER_Error *error = ask(asked, NULL);
    asked->error = error == NULL ? await(asked) : error;
    return NULL;
}

static TRITONSERVER_Error *run(asker *model, TRITONBACKEND_Request *request, question *asked) {
    TRY(read_value(request, &asked->sent));
    asked->model = model;
    if (is(model, "controls"))
        return controls(model);
    if (is(model, "traced"))
        return traced(asked, request);
    if (is(model, "beside")) {
        pthread_t thread;
        pthread_create(&thread, NULL, ask_beside, asked);
        pthread_join(thread, NULL);
        TRITONSERVER_Error *error = asked->error;
        asked->error = NULL;
        return error;
    }
    if (is(model, "slow_reader"))
        asked->hold_ms = 5;
    TRY(ask(asked, NULL));
    if (is(model, "twice")) {
        TRITONSERVER_Error *error = TRITONSERVER_ServerInferAsync(model->server, asked->request, NULL);
        note("again", error == NULL ? "taken" : TRITONSERVER_ErrorMessage(error));
        TRITONSERVER_ErrorDelete(error);
    }
    if (is(model, "cancel")) {
        wait_ms(20);
        TRY(TRITONSERVER_InferenceRequestCancel(asked->request));
    }
    return sum_of(asked);
}

/* Asks, and is answered by the callback: Execute does not wait. */
static TRITONSERVER_Error *leave(asker *model, TRITONBACKEND_Request *request) {
    question *asked = calloc(1, sizeof(*asked));
    asked->model = model;
    asked->outer = request;
    TRY(read_value(request, &asked->sent));
    TRITONSERVER_Error *error = ask(asked, NULL);
    if (error != NULL)
        forget("send", send(request, 0, error));
    TRITONSERVER_ErrorDelete(error);
    return NULL;
}

/* -- What nobody waits for: its callbacks take their time */

static void slow_response(TRITONSERVER_InferenceResponse *response, const uint32_t flags, void *userp) {
    (void)flags, (void)userp;
    wait_ms(100);
    note("forgotten", "response");
    forget("delete", TRITONSERVER_InferenceResponseDelete(response));
}

static void slow_release(TRITONSERVER_InferenceRequest *request, const uint32_t flags, void *userp) {
    (void)flags, (void)userp;
    wait_ms(100);
    note("forgotten", "release");
    forget("delete", TRITONSERVER_InferenceRequestDelete(request));
}

static void no_activity(TRITONSERVER_InferenceTrace *trace, TRITONSERVER_InferenceTraceActivity activity,
                        uint64_t ns, void *userp) {
    (void)trace, (void)activity, (void)ns, (void)userp;
}

static void slow_trace(TRITONSERVER_InferenceTrace *trace, void *userp) {
    (void)userp;
    wait_ms(100);
    note("forgotten", "trace");
    forget("delete", TRITONSERVER_InferenceTraceDelete(trace));
}

static TRITONSERVER_Error *ask_and_forget(asker *model) {
    static int32_t sent = 5;
    int64_t shape[2] = {1, 1};
    TRITONSERVER_InferenceRequest *request;
    TRITONSERVER_InferenceTrace *trace;
    TRY(TRITONSERVER_InferenceRequestNew(&request, model->server, model->whom, -1));
    TRY(TRITONSERVER_InferenceRequestAddInput(request, "INPUT0", TRITONSERVER_TYPE_INT32, shape, 2));
    TRY(TRITONSERVER_InferenceRequestAppendInputData(
        request, "INPUT0", &sent, sizeof(sent), TRITONSERVER_MEMORY_CPU, 0));
    TRY(TRITONSERVER_InferenceRequestSetReleaseCallback(request, slow_release, NULL));
    TRY(TRITONSERVER_InferenceRequestSetResponseCallback(request, model->allocator, NULL, slow_response, NULL));
    TRY(TRITONSERVER_InferenceTraceNew(
        &trace, TRITONSERVER_TRACE_LEVEL_TIMESTAMPS, 0, no_activity, slow_trace, NULL));
    return TRITONSERVER_ServerInferAsync(model->server, request, trace);
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request **requests, const uint32_t request_count) {
    TRITONBACKEND_Model *model;
    void *state;
    TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
    TRY(TRITONBACKEND_ModelState(model, &state));
    for (uint32_t i = 0; i < request_count; i++) {
        if (is(state, "forget")) {
            int32_t value = 0;
            TRITONSERVER_Error *error = ask_and_forget(state);
            forget("read", read_value(requests[i], &value));
            forget("send", send(requests[i], value, error));
            TRITONSERVER_ErrorDelete(error);
            continue;
        }
        if (is(state, "leave")) {
            forget("leave", leave(state, requests[i]));
            continue;
        }
        question asked = {0};
        TRITONSERVER_Error *error = run(state, requests[i], &asked);
        end(&asked);
        forget("send", send(requests[i], asked.got[0] + 100, error));
        TRITONSERVER_ErrorDelete(error);
    }
    return NULL;
}
