/* TRITONSERVER_InferenceRequest: what the caller says of it, until it is sent. One thread at a time, but for Cancel. */
#define _GNU_SOURCE
#include "server.h"

#include <stdlib.h>
#include <string.h>

#define REQUEST TRITONSERVER_InferenceRequest *inference_request

static TRITONSERVER_Error *bad(const char *format, const char *name) {
    /* The formats are constants of this file, with one %s. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    return ta_error(TRITONSERVER_ERROR_INVALID_ARG, format, name);
#pragma GCC diagnostic pop
}

/* Requests on their way are the server's. */
#define CHANGES(request)                                                                             \
    do {                                                                                             \
        NEEDS(request);                                                                              \
        if (atomic_load_explicit(&(request)->in_flight, memory_order_acquire))                       \
            return ta_error(                                                                         \
                TRITONSERVER_ERROR_INVALID_ARG, "a request can not be changed or deleted before it " \
                                                "was released");                                     \
    } while (0)

static TRITONSERVER_Error *set_text(char **place, const char *text) {
    char *copy = strdup(text);
    OUT_OF_MEMORY_IF(copy == NULL);
    free(*place);
    *place = copy;
    return NULL;
}

static void free_input(ta_input *input) {
    free(input->name);
    free(input->shape);
    free(input->parts);
}

static ta_input *find_input(TRITONSERVER_InferenceRequest *request, const char *name) {
    for (size_t i = 0; i < request->n_inputs; i++)
        if (strcmp(request->inputs[i].name, name) == 0)
            return &request->inputs[i];
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestNew(
    TRITONSERVER_InferenceRequest **inference_request, TRITONSERVER_Server *server, const char *model_name,
    const int64_t model_version) {
    NEEDS(inference_request);
    NEEDS(model_name);
    TRY(ta_known(server));
    bool foreign;
    TRY(ta_enter(server, &foreign));
    TRITONSERVER_Error *error = server->infer->find(server->desk, model_name, model_version);
    ta_leave(foreign);
    TRY(error);
    TRITONSERVER_InferenceRequest *request = calloc(1, sizeof(*request));
    OUT_OF_MEMORY_IF(request == NULL);
    request->released.kind = TA_ANSWER_RELEASE;
    request->server = server;
    request->model_version = model_version;
    request->model_name = strdup(model_name);
    request->id = strdup("");
    if (request->model_name == NULL || request->id == NULL) {
        TRITONSERVER_InferenceRequestDelete(request);
        return ta_no_memory();
    }
    *inference_request = request;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestDelete(REQUEST) {
    if (inference_request == NULL)
        return NULL;
    CHANGES(inference_request);
    TRITONSERVER_InferenceRequestRemoveAllInputs(inference_request);
    TRITONSERVER_InferenceRequestRemoveAllRequestedOutputs(inference_request);
    for (size_t i = 0; i < inference_request->n_parameters; i++)
        TRITONSERVER_ParameterDelete(inference_request->parameters[i]);
    free(inference_request->parameters);
    free(inference_request->inputs);
    free(inference_request->outputs);
    free(inference_request->model_name);
    free(inference_request->id);
    free(inference_request->correlation);
    free(inference_request);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestId(REQUEST, const char **id) {
    NEEDS(inference_request);
    NEEDS(id);
    *id = inference_request->id;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestSetId(REQUEST, const char *id) {
    CHANGES(inference_request);
    return set_text(&inference_request->id, id == NULL ? "" : id);
}

#define NUMBER(Get, Set, name, type, field)                                                        \
    EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequest##Get(REQUEST, type *name) {           \
        NEEDS(inference_request);                                                                  \
        NEEDS(name);                                                                               \
        *name = (type)inference_request->field;                                                    \
        return NULL;                                                                               \
    }                                                                                              \
    EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequest##Set(REQUEST, type name) {            \
        CHANGES(inference_request);                                                                \
        inference_request->field = name;                                                           \
        return NULL;                                                                               \
    }

NUMBER(PriorityUInt64, SetPriorityUInt64, priority, uint64_t, priority)
NUMBER(TimeoutMicroseconds, SetTimeoutMicroseconds, timeout_us, uint64_t, timeout_us)
NUMBER(Priority, SetPriority, priority, uint32_t, priority)

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestFlags(REQUEST, uint32_t *flags) {
    NEEDS(inference_request);
    NEEDS(flags);
    *flags = inference_request->flags;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestSetFlags(REQUEST, uint32_t flags) {
    CHANGES(inference_request);
    if (flags & ~(uint32_t)(TRITONSERVER_REQUEST_FLAG_SEQUENCE_START | TRITONSERVER_REQUEST_FLAG_SEQUENCE_END))
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "unknown flags of a request: %u", flags);
    inference_request->flags = flags;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestCorrelationId(REQUEST, uint64_t *correlation_id) {
    NEEDS(inference_request);
    NEEDS(correlation_id);
    if (inference_request->correlation != NULL)
        return ta_error(
            TRITONSERVER_ERROR_INVALID_ARG, "the correlation id of the request is a string, not an unsigned int");
    *correlation_id = inference_request->correlation_number;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestCorrelationIdString(REQUEST, const char **correlation_id) {
    NEEDS(inference_request);
    NEEDS(correlation_id);
    if (inference_request->correlation == NULL)
        return ta_error(
            TRITONSERVER_ERROR_INVALID_ARG, "the correlation id of the request is an unsigned int, not a string");
    *correlation_id = inference_request->correlation;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestSetCorrelationId(REQUEST, uint64_t correlation_id) {
    CHANGES(inference_request);
    free(inference_request->correlation);
    inference_request->correlation = NULL;
    inference_request->correlation_number = correlation_id;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestSetCorrelationIdString(REQUEST, const char *correlation_id) {
    CHANGES(inference_request);
    NEEDS(correlation_id);
    if (strlen(correlation_id) > 128)
        return ta_error(
            TRITONSERVER_ERROR_INVALID_ARG, "a correlation id must be at most 128 characters long, not %zu",
            strlen(correlation_id));
    return set_text(&inference_request->correlation, correlation_id);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestCancel(REQUEST) {
    NEEDS(inference_request);
    if (!atomic_load_explicit(&inference_request->in_flight, memory_order_acquire))
        return NULL;
    atomic_store(&inference_request->cancelled, true);
    TRITONSERVER_Server *server = inference_request->server;
    bool foreign;
    TRY(ta_known(server));
    TRY(ta_enter(server, &foreign));
    server->infer->cancel(server->desk, inference_request->serial);
    ta_leave(foreign);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestIsCancelled(REQUEST, bool *is_cancelled) {
    NEEDS(inference_request);
    NEEDS(is_cancelled);
    *is_cancelled = atomic_load(&inference_request->cancelled);
    return NULL;
}

/* -- Inputs */

static TRITONSERVER_Error *add_input(
    TRITONSERVER_InferenceRequest *request, const char *name, TRITONSERVER_DataType datatype, const int64_t *shape,
    uint64_t dim_count, bool raw) {
    if (find_input(request, name) != NULL)
        return bad("input '%s' already exists in request", name);
    OUT_OF_MEMORY_IF(!ta_room(&request->inputs, &request->inputs_room, request->n_inputs, sizeof(ta_input)));
    ta_input *input = &request->inputs[request->n_inputs];
    *input = (ta_input){.datatype = datatype, .dim_count = dim_count, .raw = raw};
    input->name = strdup(name);
    input->shape = malloc((dim_count + 1) * sizeof(int64_t));
    if (input->name == NULL || input->shape == NULL) {
        free_input(input);
        return ta_no_memory();
    }
    if (dim_count != 0)
        memcpy(input->shape, shape, dim_count * sizeof(int64_t));
    request->n_inputs++;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestAddInput(
    REQUEST, const char *name, const TRITONSERVER_DataType datatype, const int64_t *shape, uint64_t dim_count) {
    CHANGES(inference_request);
    NEEDS(name);
    if (dim_count != 0)
        NEEDS(shape);
    if (dim_count > 1024)
        return bad("input '%s' has more dimensions than any tensor", name);
    return add_input(inference_request, name, datatype, shape, dim_count, false);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestAddRawInput(REQUEST, const char *name) {
    CHANGES(inference_request);
    NEEDS(name);
    if (inference_request->n_inputs != 0)
        return bad("raw input '%s' can't be added to request with other inputs", name);
    return add_input(inference_request, name, TRITONSERVER_TYPE_INVALID, NULL, 0, true);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestRemoveInput(REQUEST, const char *name) {
    CHANGES(inference_request);
    NEEDS(name);
    ta_input *input = find_input(inference_request, name);
    if (input == NULL)
        return bad("input '%s' does not exist in request", name);
    size_t index = (size_t)(input - inference_request->inputs);
    free_input(input);
    memmove(input, input + 1, (--inference_request->n_inputs - index) * sizeof(ta_input));
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestRemoveAllInputs(REQUEST) {
    CHANGES(inference_request);
    while (inference_request->n_inputs != 0)
        free_input(&inference_request->inputs[--inference_request->n_inputs]);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestAppendInputData(
    REQUEST, const char *name, const void *base, size_t byte_size, TRITONSERVER_MemoryType memory_type,
    int64_t memory_type_id) {
    CHANGES(inference_request);
    NEEDS(name);
    if (byte_size != 0)
        NEEDS(base);
    ta_input *input = find_input(inference_request, name);
    if (input == NULL)
        return bad("input '%s' does not exist in request", name);
    if ((unsigned)memory_type > TRITONSERVER_MEMORY_GPU)
        return bad("data of input '%s' lies in memory of an unknown type", name);
    if (byte_size == 0)
        return NULL;
    if (byte_size > INT64_MAX)
        return bad("data of input '%s' has more bytes than can be counted", name);
    OUT_OF_MEMORY_IF(!ta_room(&input->parts, &input->room, input->n_parts, sizeof(ta_piece)));
    input->parts[input->n_parts++] = (ta_piece){base, byte_size, memory_type, memory_type_id};
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestAppendInputDataWithHostPolicy(
    REQUEST, const char *name, const void *base, size_t byte_size, TRITONSERVER_MemoryType memory_type,
    int64_t memory_type_id, const char *host_policy_name) {
    NEEDS(host_policy_name);
    return ta_error(
        TRITONSERVER_ERROR_UNSUPPORTED, "data of input '%s' for host policy '%s': a request has one buffer for all policies",
        name == NULL ? "" : name, host_policy_name);
    (void)inference_request, (void)base, (void)byte_size, (void)memory_type, (void)memory_type_id;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestAppendInputDataWithBufferAttributes(
    REQUEST, const char *name, const void *base, TRITONSERVER_BufferAttributes *buffer_attributes) {
    NEEDS(buffer_attributes);
    return TRITONSERVER_InferenceRequestAppendInputData(
        inference_request, name, base, buffer_attributes->nbytes, buffer_attributes->memory_type,
        buffer_attributes->memory_type_id);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestRemoveAllInputData(REQUEST, const char *name) {
    CHANGES(inference_request);
    NEEDS(name);
    ta_input *input = find_input(inference_request, name);
    if (input == NULL)
        return bad("input '%s' does not exist in request", name);
    input->n_parts = 0;
    return NULL;
}

/* -- Outputs */

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestAddRequestedOutput(REQUEST, const char *name) {
    CHANGES(inference_request);
    NEEDS(name);
    TRITONSERVER_InferenceRequest *request = inference_request;
    for (size_t i = 0; i < request->n_outputs; i++)
        if (strcmp(request->outputs[i], name) == 0)
            return bad("output '%s' already requested", name);
    OUT_OF_MEMORY_IF(!ta_room(&request->outputs, &request->outputs_room, request->n_outputs, sizeof(char *)));
    request->outputs[request->n_outputs] = strdup(name);
    OUT_OF_MEMORY_IF(request->outputs[request->n_outputs] == NULL);
    request->n_outputs++;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestRemoveRequestedOutput(REQUEST, const char *name) {
    CHANGES(inference_request);
    NEEDS(name);
    TRITONSERVER_InferenceRequest *request = inference_request;
    for (size_t i = 0; i < request->n_outputs; i++)
        if (strcmp(request->outputs[i], name) == 0) {
            free(request->outputs[i]);
            memmove(&request->outputs[i], &request->outputs[i + 1], (--request->n_outputs - i) * sizeof(char *));
            return NULL;
        }
    return bad("output '%s' does not exist in request", name);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestRemoveAllRequestedOutputs(REQUEST) {
    CHANGES(inference_request);
    while (inference_request->n_outputs != 0)
        free(inference_request->outputs[--inference_request->n_outputs]);
    return NULL;
}

/* -- Callbacks and parameters */

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestSetReleaseCallback(
    REQUEST, TRITONSERVER_InferenceRequestReleaseFn_t request_release_fn, void *request_release_userp) {
    CHANGES(inference_request);
    inference_request->release = request_release_fn;
    inference_request->release_userp = request_release_userp;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestSetResponseCallback(
    REQUEST, TRITONSERVER_ResponseAllocator *response_allocator, void *response_allocator_userp,
    TRITONSERVER_InferenceResponseCompleteFn_t response_fn, void *response_userp) {
    CHANGES(inference_request);
    NEEDS(response_allocator);
    NEEDS(response_fn);
    inference_request->allocator = response_allocator;
    inference_request->allocator_userp = response_allocator_userp;
    inference_request->complete = response_fn;
    inference_request->complete_userp = response_userp;
    return NULL;
}

static TRITONSERVER_Error *set_parameter(
    TRITONSERVER_InferenceRequest *request, const char *key, TRITONSERVER_ParameterType type, const void *value) {
    CHANGES(request);
    NEEDS(key);
    NEEDS(value);
    size_t place = 0;
    while (place < request->n_parameters && strcmp(request->parameters[place]->name, key) != 0)
        place++;
    OUT_OF_MEMORY_IF(!ta_room(&request->parameters, &request->parameters_room, request->n_parameters, sizeof(void *)));
    TRITONSERVER_Parameter *parameter = TRITONSERVER_ParameterNew(key, type, value);
    OUT_OF_MEMORY_IF(parameter == NULL);
    if (place == request->n_parameters)
        request->n_parameters++;
    else
        TRITONSERVER_ParameterDelete(request->parameters[place]);
    request->parameters[place] = parameter;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestSetStringParameter(
    TRITONSERVER_InferenceRequest *request, const char *key, const char *value) {
    return set_parameter(request, key, TRITONSERVER_PARAMETER_STRING, value);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestSetIntParameter(
    TRITONSERVER_InferenceRequest *request, const char *key, const int64_t value) {
    return set_parameter(request, key, TRITONSERVER_PARAMETER_INT, &value);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestSetBoolParameter(
    TRITONSERVER_InferenceRequest *request, const char *key, const bool value) {
    return set_parameter(request, key, TRITONSERVER_PARAMETER_BOOL, &value);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceRequestSetDoubleParameter(
    TRITONSERVER_InferenceRequest *request, const char *key, const double value) {
    return set_parameter(request, key, TRITONSERVER_PARAMETER_DOUBLE, &value);
}
