/* A backend that does what the parameter `mode` of its model says, and writes down what it is called for.
 *
 * Each line of the file that the environment names PUPPET_JOURNAL: a function, and the object that it is for. Built with
 * WITHOUT_EXECUTE or NEEDS_MORE it is no backend.
 */
#define _GNU_SOURCE
#include "triton/core/tritonbackend.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TRY(call)                         \
    do {                                  \
        TRITONSERVER_Error *err = (call); \
        if (err != NULL)                  \
            return err;                   \
    } while (0)

#ifndef MAJOR
#define MAJOR TRITONBACKEND_API_VERSION_MAJOR
#define MINOR TRITONBACKEND_API_VERSION_MINOR
#endif

typedef struct puppet_model {
    char mode[64];
    char name[64];
} puppet_model;

typedef struct late_answer {
    TRITONBACKEND_ResponseFactory *factory;
    TRITONBACKEND_Request *request; /* NULL: released */
    int32_t value;
    int delay_ms;
    int count;
} late_answer;

static void note(const char *what, const char *whom) {
    const char *path = getenv("PUPPET_JOURNAL");
    FILE *file = path == NULL ? NULL : fopen(path, "a");
    if (file == NULL)
        return;
    fprintf(file, "%s %s\n", what, whom);
    fclose(file);
}

static TRITONSERVER_Error *fault(const char *text) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, text);
}

static void forget(TRITONSERVER_Error *error) {
    if (error != NULL)
        TRITONSERVER_LogMessage(TRITONSERVER_LOG_ERROR, __FILE__, __LINE__, TRITONSERVER_ErrorMessage(error));
    TRITONSERVER_ErrorDelete(error);
}

static int is(const puppet_model *model, const char *mode) {
    return strcmp(model->mode, mode) == 0;
}

static void wait_ms(int ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

/* -- Life */

#ifdef WITH_METRICS
static TRITONSERVER_Metric *executions;

static TRITONSERVER_Error *make_metric(void) {
    TRITONSERVER_MetricFamily *family;
    TRITONSERVER_Parameter *label = TRITONSERVER_ParameterNew("kind", TRITONSERVER_PARAMETER_STRING, "of a \"puppet\"");
    TRY(TRITONSERVER_MetricFamilyNew(&family, TRITONSERVER_METRIC_KIND_COUNTER, "puppet_executions", "How often"));
    TRITONSERVER_Error *error =
        TRITONSERVER_MetricNew(&executions, family, (const TRITONSERVER_Parameter **)&label, 1);
    TRITONSERVER_ParameterDelete(label);
    return error;
}
#endif

TRITONSERVER_Error *TRITONBACKEND_Initialize(TRITONBACKEND_Backend *backend) {
    uint32_t major, minor;
    const char *name, *location;
    TRITONBACKEND_ArtifactType type;
    TRITONSERVER_Message *config;
    const char *json;
    size_t size;
    TRY(TRITONBACKEND_BackendName(backend, &name));
    note("Initialize", name);
    TRY(TRITONBACKEND_ApiVersion(&major, &minor));
    if (major != MAJOR || minor < MINOR)
        return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNSUPPORTED,
                                     "triton backend API version does not support this backend");
    TRY(TRITONBACKEND_BackendArtifacts(backend, &type, &location));
    if (access(location, R_OK) != 0)
        return fault("there is no such location");
    TRY(TRITONBACKEND_BackendConfig(backend, &config));
    TRY(TRITONSERVER_MessageSerializeToJson(config, &json, &size));
    note("Config", json);
#ifdef WITH_METRICS
    TRY(make_metric());
#endif
#ifdef DEVICE_BLOCKING
    TRY(TRITONBACKEND_BackendSetExecutionPolicy(backend, TRITONBACKEND_EXECUTION_DEVICE_BLOCKING));
#endif
#ifdef FAIL_INITIALIZE
    return fault("the backend does not want to");
#else
    return NULL;
#endif
}

TRITONSERVER_Error *TRITONBACKEND_Finalize(TRITONBACKEND_Backend *backend) {
    const char *name;
    TRY(TRITONBACKEND_BackendName(backend, &name));
    note("Finalize", name);
    return NULL;
}

#ifdef WITH_ATTRIBUTES
TRITONSERVER_Error *TRITONBACKEND_GetBackendAttribute(
    TRITONBACKEND_Backend *backend, TRITONBACKEND_BackendAttribute *attributes) {
    (void)backend;
    TRY(TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(attributes, true));
    return TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
        attributes, TRITONSERVER_INSTANCEGROUPKIND_CPU, 3, NULL, 0);
}
#endif

static void find_mode(const char *json, puppet_model *model) {
    const char *found = strstr(json, "\"mode\": {\"string_value\": \"");
    if (found == NULL)
        return;
    found += strlen("\"mode\": {\"string_value\": \"");
    const char *end = strchr(found, '"');
    snprintf(model->mode, sizeof(model->mode), "%.*s", (int)(end - found), found);
}

static TRITONSERVER_Error *complete(TRITONBACKEND_Model *model) {
    static const char CONFIG[] =
        "{\"max_batch_size\": 4, \"input\": [{\"name\": \"INPUT0\", \"data_type\": \"TYPE_INT32\", \"dims\": [1]}],"
        " \"output\": [{\"name\": \"OUTPUT0\", \"data_type\": \"TYPE_INT32\", \"dims\": [1]}],"
        " \"dynamic_batching\": {}, \"name\": \"ignored\"}";
    TRITONSERVER_Message *message;
    TRY(TRITONSERVER_MessageNewFromSerializedJson(&message, CONFIG, strlen(CONFIG)));
    TRITONSERVER_Error *error = TRITONBACKEND_ModelSetConfig(model, 1, message);
    TRITONSERVER_MessageDelete(message);
    return error;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model *model) {
    TRITONSERVER_Message *config;
    const char *json, *name;
    size_t size;
    bool auto_complete;
    puppet_model *state = calloc(1, sizeof(*state));
    TRY(TRITONBACKEND_ModelSetState(model, state));
    TRY(TRITONBACKEND_ModelName(model, &name));
    snprintf(state->name, sizeof(state->name), "%s", name);
    note("ModelInitialize", name);
    TRY(TRITONBACKEND_ModelConfig(model, 1, &config));
    TRY(TRITONSERVER_MessageSerializeToJson(config, &json, &size));
    find_mode(json, state);
    TRY(TRITONSERVER_MessageDelete(config));
    TRY(TRITONBACKEND_ModelAutoCompleteConfig(model, &auto_complete));
    if (is(state, "complete") && auto_complete)
        TRY(complete(model));
    if (is(state, "fail_model"))
        return fault("the model does not want to");
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model *model) {
    void *state;
    TRY(TRITONBACKEND_ModelState(model, &state));
    note("ModelFinalize", ((puppet_model *)state)->name);
    free(state);
    return NULL;
}

static TRITONSERVER_Error *model_of(TRITONBACKEND_ModelInstance *instance, puppet_model **state) {
    TRITONBACKEND_Model *model;
    void *found;
    TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
    TRY(TRITONBACKEND_ModelState(model, &found));
    *state = found;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance *instance) {
    puppet_model *model;
    const char *name;
    TRY(model_of(instance, &model));
    TRY(TRITONBACKEND_ModelInstanceName(instance, &name));
    note("ModelInstanceInitialize", name);
    return is(model, "fail_instance") ? fault("the instance does not want to") : NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance *instance) {
    const char *name;
    TRY(TRITONBACKEND_ModelInstanceName(instance, &name));
    note("ModelInstanceFinalize", name);
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceReady(TRITONBACKEND_ModelInstance *instance) {
    puppet_model *model;
    TRY(model_of(instance, &model));
    if (is(model, "slow_ready")) {
        note("Ready", "begins");
        wait_ms(500);
        note("Ready", "ends");
    }
    if (is(model, "stuck_ready")) {
        note("Ready", "begins");
        while (access(getenv("PUPPET_GATE"), F_OK) != 0)
            wait_ms(20);
        note("Ready", "ends");
    }
    return is(model, "not_ready") ? fault("not today") : NULL;
}

/* -- Answers */

static TRITONSERVER_Error *read_value(TRITONBACKEND_Request *request, int32_t *value) {
    TRITONBACKEND_Input *input;
    const void *from;
    uint64_t size;
    TRITONSERVER_MemoryType type = TRITONSERVER_MEMORY_CPU;
    int64_t id = 0;
    TRY(TRITONBACKEND_RequestInput(request, "INPUT0", &input));
    TRY(TRITONBACKEND_InputBuffer(input, 0, &from, &size, &type, &id));
    memcpy(value, from, sizeof(*value));
    return NULL;
}

static TRITONSERVER_Error *fill(TRITONBACKEND_Response *response, int32_t value, int64_t rows) {
    TRITONBACKEND_Output *output;
    TRITONSERVER_MemoryType type = TRITONSERVER_MEMORY_CPU;
    int64_t id = 0, shape[2] = {rows, 1};
    void *to;
    TRY(TRITONBACKEND_ResponseOutput(response, &output, "OUTPUT0", TRITONSERVER_TYPE_INT32, shape, 2));
    TRY(TRITONBACKEND_OutputBuffer(output, &to, (uint64_t)rows * 4, &type, &id));
    for (int64_t i = 0; i < rows; i++)
        ((int32_t *)to)[i] = value;
    return NULL;
}

static TRITONSERVER_Error *send_value(TRITONBACKEND_Response *response, int32_t value, uint32_t flags) {
    TRITONSERVER_Error *error = fill(response, value, 1);
    TRITONSERVER_Error *failed = TRITONBACKEND_ResponseSend(response, flags, error);
    TRITONSERVER_ErrorDelete(error);
    return failed;
}

static void *answer_later(void *argument) {
    late_answer *late = argument;
    wait_ms(late->delay_ms);
    for (int i = 0; i < late->count; i++) {
        TRITONBACKEND_Response *response;
        int last = late->count == 1;
        forget(TRITONBACKEND_ResponseNewFromFactory(&response, late->factory));
        forget(send_value(response, late->value + i, last ? TRITONSERVER_RESPONSE_COMPLETE_FINAL : 0));
    }
    if (late->count != 1)
        forget(TRITONBACKEND_ResponseFactorySendFlags(late->factory, TRITONSERVER_RESPONSE_COMPLETE_FINAL));
    forget(TRITONBACKEND_ResponseFactoryDelete(late->factory));
    if (late->request != NULL)
        forget(TRITONBACKEND_RequestRelease(late->request, TRITONSERVER_REQUEST_RELEASE_ALL));
    free(late);
    return NULL;
}

static TRITONSERVER_Error *later(TRITONBACKEND_Request *request, int count, int delay_ms, int keep) {
    late_answer *late = calloc(1, sizeof(*late));
    pthread_t thread;
    TRY(read_value(request, &late->value));
    TRY(TRITONBACKEND_ResponseFactoryNew(&late->factory, request));
    late->count = count;
    late->delay_ms = delay_ms;
    late->request = keep ? request : NULL;
    pthread_create(&thread, NULL, answer_later, late);
    pthread_detach(thread);
    return keep ? NULL : TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL);
}

/* Tells in parameters of the response what the request says of itself. */
static TRITONSERVER_Error *describe(TRITONBACKEND_Request *request, TRITONBACKEND_Response *response) {
    const char *text, *key;
    const void *value;
    uint32_t count, flags;
    uint64_t number;
    TRITONSERVER_ParameterType type;
    TRY(TRITONBACKEND_RequestId(request, &text));
    TRY(TRITONBACKEND_ResponseSetStringParameter(response, "id", text));
    TRY(TRITONBACKEND_RequestFlags(request, &flags));
    TRY(TRITONBACKEND_ResponseSetIntParameter(response, "flags", flags));
    TRY(TRITONBACKEND_RequestCorrelationId(request, &number));
    TRY(TRITONBACKEND_ResponseSetIntParameter(response, "correlation", (int64_t)number));
    TRY(TRITONBACKEND_InferenceRequestTimeoutMicroseconds(request, &number));
    TRY(TRITONBACKEND_ResponseSetIntParameter(response, "timeout_us", (int64_t)number));
    TRY(TRITONBACKEND_ResponseSetBoolParameter(response, "yes", true));
    TRY(TRITONBACKEND_ResponseSetDoubleParameter(response, "half", 0.5));
    TRY(TRITONBACKEND_RequestParameterCount(request, &count));
    for (uint32_t i = 0; i < count; i++) {
        TRY(TRITONBACKEND_RequestParameter(request, i, &key, &type, &value));
        char name[80], written[80] = "";
        snprintf(name, sizeof(name), "got_%s", key);
        if (type == TRITONSERVER_PARAMETER_STRING)
            snprintf(written, sizeof(written), "%s", (const char *)value);
        else if (type == TRITONSERVER_PARAMETER_INT)
            snprintf(written, sizeof(written), "%lld", (long long)*(const int64_t *)value);
        else if (type == TRITONSERVER_PARAMETER_BOOL)
            snprintf(written, sizeof(written), "%d", *(const bool *)value);
        TRY(TRITONBACKEND_ResponseSetStringParameter(response, name, written));
    }
    return NULL;
}

static TRITONSERVER_Error *until_cancelled(TRITONBACKEND_Request *request) {
    bool cancelled = false;
    for (int i = 0; i < 3000 && !cancelled; i++) {
        TRY(TRITONBACKEND_RequestIsCancelled(request, &cancelled));
        wait_ms(10);
    }
    note("Cancelled", cancelled ? "yes" : "no");
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_CANCELLED, "the request was cancelled");
}

/* Uses what it must not use any more, which is to be told so. */
static void misuse(TRITONBACKEND_Request *request, TRITONBACKEND_Response *response) {
    uint32_t count;
    forget(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, NULL));
    forget(TRITONBACKEND_ResponseDelete(response));
    forget(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL));
    forget(TRITONBACKEND_RequestInputCount(request, &count));
    forget(TRITONBACKEND_RequestInputCount(NULL, &count));
}

static TRITONSERVER_Error *one(const puppet_model *model, TRITONBACKEND_Request *request) {
    TRITONBACKEND_Response *response, *second;
    TRITONSERVER_Error *error = NULL;
    int32_t value;
    TRY(read_value(request, &value));
    if (is(model, "never"))
        return NULL;
    if (is(model, "later"))
        return later(request, 1, 50, 0);
    if (is(model, "later_kept"))
        return later(request, 1, 50, 1);
    if (is(model, "abandon"))
        return later(request, 1, 3000, value & 1);
    if (is(model, "stream"))
        return later(request, value, 0, value & 1);
    if (is(model, "silent"))
        return TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL);
    TRY(TRITONBACKEND_ResponseNew(&response, request));
    if (is(model, "twice"))
        TRY(TRITONBACKEND_ResponseNew(&second, request));
    if (is(model, "error") || (is(model, "odd_error") && (value & 1)))
        error = TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INVALID_ARG, "this value is not to its taste");
    else if (is(model, "cancel"))
        error = until_cancelled(request);
    else if (is(model, "describe"))
        error = describe(request, response);
    if (error == NULL)
        error = fill(response, value, is(model, "rows") ? 2 : 1);
    if (is(model, "unknown_output") && error == NULL) {
        TRITONBACKEND_Output *output;
        error = TRITONBACKEND_ResponseOutput(response, &output, "OTHER", TRITONSERVER_TYPE_INT32, NULL, 0);
    }
    forget(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
    TRITONSERVER_ErrorDelete(error);
    if (is(model, "twice"))
        forget(send_value(second, value + 1, TRITONSERVER_RESPONSE_COMPLETE_FINAL));
    if (is(model, "reschedule"))
        forget(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_RESCHEDULE));
    forget(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL));
    if (is(model, "misuse"))
        misuse(request, response);
    return NULL;
}

#ifndef WITHOUT_EXECUTE
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request **requests, const uint32_t request_count) {
    puppet_model *model;
    char count[32];
    TRY(model_of(instance, &model));
    snprintf(count, sizeof(count), "%u", request_count);
    note("Execute", count);
#ifdef WITH_METRICS
    forget(TRITONSERVER_MetricIncrement(executions, 1));
#endif
    if (is(model, "fail_execute"))
        return fault("the execution went wrong");
    for (uint32_t i = 0; i < request_count; i++) {
        if (is(model, "fail_half") && i == request_count / 2)
            return fault("half of it went wrong");
        forget(one(model, requests[i]));
    }
    if (is(model, "slow"))
        wait_ms(20);
    return NULL;
}
#endif

#ifdef NEEDS_MORE
extern int a_function_that_nobody_has(void);
int use_it(void) {
    return a_function_that_nobody_has();
}
#endif
