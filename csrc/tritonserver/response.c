/* Responses: made on the server's loop, filled and handed out on the callback thread, read by whoever has one. */
#define _GNU_SOURCE
#include "server.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RESPONSE TRITONSERVER_InferenceResponse *inference_response

/* -- Allocators */

EXPORT TRITONSERVER_Error *TRITONSERVER_ResponseAllocatorNew(
    TRITONSERVER_ResponseAllocator **allocator, TRITONSERVER_ResponseAllocatorAllocFn_t alloc_fn,
    TRITONSERVER_ResponseAllocatorReleaseFn_t release_fn, TRITONSERVER_ResponseAllocatorStartFn_t start_fn) {
    NEEDS(allocator);
    NEEDS(alloc_fn);
    NEEDS(release_fn);
    *allocator = calloc(1, sizeof(**allocator));
    OUT_OF_MEMORY_IF(*allocator == NULL);
    (*allocator)->alloc = alloc_fn;
    (*allocator)->release = release_fn;
    (*allocator)->start = start_fn;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ResponseAllocatorSetBufferAttributesFunction(
    TRITONSERVER_ResponseAllocator *allocator,
    TRITONSERVER_ResponseAllocatorBufferAttributesFn_t buffer_attributes_fn) {
    NEEDS(allocator);
    allocator->attributes = buffer_attributes_fn;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ResponseAllocatorSetQueryFunction(
    TRITONSERVER_ResponseAllocator *allocator, TRITONSERVER_ResponseAllocatorQueryFn_t query_fn) {
    NEEDS(allocator);
    allocator->query = query_fn;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ResponseAllocatorDelete(TRITONSERVER_ResponseAllocator *allocator) {
    free(allocator);
    return NULL;
}

/* -- Making one. Loop thread. */

static TRITONSERVER_InferenceResponse *new_response(
    TRITONSERVER_InferenceRequest *request, const char *model, int64_t version, const char *id, uint32_t flags,
    TRITONSERVER_Error *error) {
    TRITONSERVER_InferenceResponse *response = calloc(1, sizeof(*response));
    if (response == NULL)
        return NULL;
    response->answer.kind = TA_ANSWER_RESPONSE;
    response->server = request->server;
    response->allocator = request->allocator;
    response->allocator_userp = request->allocator_userp;
    response->complete = request->complete;
    response->complete_userp = request->complete_userp;
    response->flags = flags;
    response->error = error;
    response->model_version = version;
    response->model_name = strdup(model);
    response->id = strdup(id);
    if (response->model_name != NULL && response->id != NULL)
        return response;
    response->error = NULL;
    ta_answer_free(response);
    return NULL;
}

static bool grow(void *array, uint32_t *room, uint32_t count, size_t nbytes) {
    size_t wide = *room;
    bool there = ta_room(array, &wide, count, nbytes);
    *room = (uint32_t)wide;
    return there;
}

/* So few bytes are copied at once: the callback thread need not give back what keeps them. */
#define SMALL_NBYTES 4096

static int add_output(
    TRITONSERVER_InferenceResponse *response, const char *name, int32_t datatype, const int64_t *shape,
    uint64_t dim_count, const void *source, uint64_t nbytes) {
    if (!grow(&response->outputs, &response->outputs_room, response->n_outputs, sizeof(ta_output)))
        return -1;
    ta_output *output = &response->outputs[response->n_outputs];
    *output = (ta_output){
        .datatype = (TRITONSERVER_DataType)datatype, .dim_count = dim_count, .source = source, .nbytes = nbytes};
    output->name = strdup(name);
    bool small = nbytes <= SMALL_NBYTES;
    output->shape = malloc((dim_count + 1) * sizeof(int64_t) + (small ? nbytes : 0));
    response->n_outputs++; /* from here on it is freed with the response */
    if (output->name == NULL || output->shape == NULL)
        return -1;
    memcpy(output->shape, shape, dim_count * sizeof(int64_t));
    if (!small)
        return 1;
    output->source = output->shape + dim_count + 1;
    if (nbytes != 0)
        memcpy(output->shape + dim_count + 1, source, nbytes);
    return 0;
}

static int
add_parameter(TRITONSERVER_InferenceResponse *response, const char *name, int32_t type, const void *value) {
    if (!grow(&response->parameters, &response->parameters_room, response->n_parameters, sizeof(void *)))
        return -1;
    TRITONSERVER_Parameter *parameter = TRITONSERVER_ParameterNew(name, (TRITONSERVER_ParameterType)type, value);
    if (parameter == NULL)
        return -1;
    response->parameters[response->n_parameters++] = parameter;
    return 0;
}

void ta_answer_free(TRITONSERVER_InferenceResponse *response) {
    for (uint32_t i = 0; i < response->n_outputs; i++) {
        ta_output *output = &response->outputs[i];
        if (output->allocated) {
            TRITONSERVER_Error *error = response->allocator->release(
                response->allocator, output->base, output->userp, output->nbytes, output->memory_type,
                output->memory_type_id);
            TRITONSERVER_ErrorDelete(error);
        }
        free(output->name);
        free(output->shape);
    }
    for (uint32_t i = 0; i < response->n_parameters; i++)
        TRITONSERVER_ParameterDelete(response->parameters[i]);
    for (size_t i = 0; i < response->n_labels; i++)
        free(response->labels[i]);
    free(response->labels);
    free(response->outputs);
    free(response->parameters);
    TRITONSERVER_ErrorDelete(response->error);
    free(response->model_name);
    free(response->id);
    free(response);
}

/* -- Handing it out. Callback thread. */

static TRITONSERVER_Error *tell_attributes(TRITONSERVER_InferenceResponse *response, ta_output *output) {
    TRITONSERVER_BufferAttributes attributes = {output->memory_type, output->memory_type_id, output->nbytes, NULL};
    if (response->allocator->attributes == NULL)
        return NULL;
    return response->allocator->attributes(
        response->allocator, output->name, &attributes, response->allocator_userp, output->userp);
}

static TRITONSERVER_Error *allocate(TRITONSERVER_InferenceResponse *response, ta_output *output) {
    TRITONSERVER_ResponseAllocator *allocator = response->allocator;
    TRITONSERVER_MemoryType wanted = TRITONSERVER_MEMORY_CPU;
    int64_t wanted_id = 0;
    if (allocator->query != NULL) {
        size_t nbytes = output->nbytes;
        TRY(allocator->query(allocator, response->allocator_userp, output->name, &nbytes, &wanted, &wanted_id));
        if (wanted == TRITONSERVER_MEMORY_GPU) {
            wanted = TRITONSERVER_MEMORY_CPU;
            wanted_id = 0;
        }
    }
    output->memory_type = wanted;
    output->memory_type_id = wanted_id;
    TRY(allocator->alloc(
        allocator, output->name, output->nbytes, wanted, wanted_id, response->allocator_userp, &output->base,
        &output->userp, &output->memory_type, &output->memory_type_id));
    output->allocated = true;
    if (output->memory_type == TRITONSERVER_MEMORY_GPU)
        return ta_error(
            TRITONSERVER_ERROR_UNSUPPORTED, "the response allocator gave GPU memory for output '%s': only host memory is "
                                            "filled",
            output->name);
    if (output->base == NULL && output->nbytes != 0)
        return ta_error(
            TRITONSERVER_ERROR_INTERNAL, "the response allocator gave no memory for output '%s'", output->name);
    TRY(tell_attributes(response, output));
    if (output->nbytes != 0)
        memcpy(output->base, output->source, output->nbytes);
    return NULL;
}

static TRITONSERVER_Error *fill(TRITONSERVER_InferenceResponse *response) {
    if (response->allocator->start != NULL)
        TRY(response->allocator->start(response->allocator, response->allocator_userp));
    for (uint32_t i = 0; i < response->n_outputs; i++)
        TRY(allocate(response, &response->outputs[i]));
    return NULL;
}

static void hand_out(TRITONSERVER_InferenceResponse *response) {
    TRITONSERVER_InferenceResponseCompleteFn_t complete = response->complete;
    uint32_t flags = response->flags;
    void *userp = response->complete_userp;
    if (response->empty) {
        ta_answer_free(response);
        response = NULL;
    } else if (response->error == NULL) {
        response->error = fill(response);
        for (uint32_t i = 0; i < response->n_outputs; i++)
            response->outputs[i].source = NULL;
    }
    complete(response, flags, userp);
}

static void hand_back(TRITONSERVER_InferenceRequest *request) {
    /* Behind the call it may be gone: nothing of it is looked at any more. */
    TRITONSERVER_InferenceRequestReleaseFn_t release = request->release;
    void *userp = request->release_userp;
    bool foreign = request->foreign;
    request->foreign = false;
    atomic_fetch_sub(&request->server->on_way, 1);
    atomic_store_explicit(&request->in_flight, false, memory_order_release);
    release(request, TRITONSERVER_REQUEST_RELEASE_ALL, userp);
    ta_leave(foreign);
}

#define OWNERS 64

static void answer_all(TRITONSERVER_Server *server, ta_answer *answer) {
    void *owners[OWNERS];
    uint64_t count = 0;
    while (answer != NULL) {
        ta_answer *next = answer->next;
        if (answer->kind == TA_ANSWER_RESPONSE) {
            TRITONSERVER_InferenceResponse *response = (TRITONSERVER_InferenceResponse *)answer;
            if (response->owner != NULL)
                owners[count++] = response->owner;
            hand_out(response);
        } else if (answer->kind == TA_ANSWER_RELEASE) {
            hand_back((TRITONSERVER_InferenceRequest *)answer);
        } else {
            TRITONSERVER_InferenceTrace *trace = (TRITONSERVER_InferenceTrace *)answer;
            if (trace->keeper != NULL)
                owners[count++] = trace->keeper;
            ta_trace_end(trace);
        }
        answer = next;
        if (count == OWNERS || (count != 0 && answer == NULL)) {
            server->infer->drop(owners, count);
            count = 0;
        }
    }
}

static void *answer_main(void *argument) {
    TRITONSERVER_Server *server = argument;
    ta_attach_thread(); /* it gives back what was handed out, again and again */
    pthread_mutex_lock(&server->lock);
    for (;;) {
        ta_answer *first = server->first;
        if (first == NULL) {
            if (server->ending)
                break;
            server->waiting = true;
            pthread_cond_wait(&server->more, &server->lock);
            server->waiting = false;
            continue;
        }
        server->first = server->last = NULL;
        server->answering = true;
        pthread_mutex_unlock(&server->lock);
        answer_all(server, first);
        pthread_mutex_lock(&server->lock);
        server->answering = false;
        pthread_cond_broadcast(&server->told);
    }
    pthread_mutex_unlock(&server->lock);
    return NULL;
}

void ta_answers_prepare(TRITONSERVER_Server *server) {
    pthread_condattr_t monotonic;
    pthread_mutex_init(&server->lock, NULL);
    pthread_cond_init(&server->more, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&server->told, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

int ta_answers_await(TRITONSERVER_Server *server, uint32_t ms) {
    struct timespec until;
    int expired = 0;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&server->lock);
    while ((server->first != NULL || server->answering) && expired == 0)
        expired = pthread_cond_timedwait(&server->told, &server->lock, &until);
    int all = server->first == NULL && !server->answering;
    pthread_mutex_unlock(&server->lock);
    return all;
}

TRITONSERVER_Error *ta_answers_ready(TRITONSERVER_Server *server) {
    pthread_mutex_lock(&server->lock);
    if (!server->running)
        server->running = pthread_create(&server->thread, NULL, answer_main, server) == 0;
    bool running = server->running;
    pthread_mutex_unlock(&server->lock);
    return running ? NULL : ta_error(TRITONSERVER_ERROR_INTERNAL, "no thread for callbacks is to be had");
}

void ta_answers_stop(TRITONSERVER_Server *server) {
    pthread_mutex_lock(&server->lock);
    server->ending = true;
    bool running = server->running;
    pthread_cond_signal(&server->more);
    pthread_mutex_unlock(&server->lock);
    /* Its callbacks may be Python's. */
    void *paused = running ? ta_pause_python() : NULL;
    if (running)
        pthread_join(server->thread, NULL);
    ta_resume_python(paused);
    if (atomic_load(&server->stuck))
        return;
    pthread_mutex_destroy(&server->lock);
    pthread_cond_destroy(&server->more);
    pthread_cond_destroy(&server->told);
}

void ta_answers_leave(TRITONSERVER_Server *server) {
    pthread_mutex_lock(&server->lock);
    bool running = server->running && !server->ending;
    server->ending = true;
    pthread_cond_signal(&server->more);
    pthread_mutex_unlock(&server->lock);
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec++;
    if (running)
        pthread_timedjoin_np(server->thread, NULL, &end);
}

void ta_answers_put(TRITONSERVER_Server *server, ta_answer *answer) {
    answer->next = NULL;
    pthread_mutex_lock(&server->lock);
    if (server->first == NULL)
        server->first = answer;
    else
        server->last->next = answer;
    server->last = answer;
    bool waiting = server->waiting;
    pthread_mutex_unlock(&server->lock);
    if (waiting)
        pthread_cond_signal(&server->more);
}

/* -- Reading one */

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceResponseDelete(RESPONSE) {
    if (inference_response != NULL)
        ta_answer_free(inference_response);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceResponseError(RESPONSE) {
    NEEDS(inference_response);
    /* The caller's, each time: programs delete it. */
    const TRITONSERVER_Error *error = inference_response->error;
    return error == NULL ? NULL : TRITONSERVER_ErrorNew(error->code, error->message);
}

EXPORT TRITONSERVER_Error *
TRITONSERVER_InferenceResponseModel(RESPONSE, const char **model_name, int64_t *model_version) {
    NEEDS(inference_response);
    NEEDS(model_name);
    NEEDS(model_version);
    *model_name = inference_response->model_name;
    *model_version = inference_response->model_version;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceResponseId(RESPONSE, const char **request_id) {
    NEEDS(inference_response);
    NEEDS(request_id);
    *request_id = inference_response->id;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceResponseParameterCount(RESPONSE, uint32_t *count) {
    NEEDS(inference_response);
    NEEDS(count);
    *count = inference_response->n_parameters;
    return NULL;
}

static TRITONSERVER_Error *out_of_bounds(uint32_t index, const char *what, uint32_t count) {
    return ta_error(
        TRITONSERVER_ERROR_INVALID_ARG, "out of bounds index %u: response has %u %s", index, count, what);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceResponseParameter(
    RESPONSE, const uint32_t index, const char **name, TRITONSERVER_ParameterType *type, const void **vvalue) {
    NEEDS(inference_response);
    NEEDS(name);
    NEEDS(type);
    NEEDS(vvalue);
    if (index >= inference_response->n_parameters)
        return out_of_bounds(index, "parameters", inference_response->n_parameters);
    const TRITONSERVER_Parameter *parameter = inference_response->parameters[index];
    *name = parameter->name;
    *type = parameter->type;
    *vvalue = ta_parameter_value(parameter);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceResponseOutputCount(RESPONSE, uint32_t *count) {
    NEEDS(inference_response);
    NEEDS(count);
    *count = inference_response->n_outputs;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceResponseOutput(
    RESPONSE, const uint32_t index, const char **name, TRITONSERVER_DataType *datatype, const int64_t **shape,
    uint64_t *dim_count, const void **base, size_t *byte_size, TRITONSERVER_MemoryType *memory_type,
    int64_t *memory_type_id, void **userp) {
    NEEDS(inference_response);
    if (index >= inference_response->n_outputs)
        return out_of_bounds(index, "outputs", inference_response->n_outputs);
    NEEDS(name);
    NEEDS(datatype);
    NEEDS(shape);
    NEEDS(dim_count);
    NEEDS(base);
    NEEDS(byte_size);
    NEEDS(memory_type);
    NEEDS(memory_type_id);
    NEEDS(userp);
    const ta_output *output = &inference_response->outputs[index];
    *name = output->name;
    *datatype = output->datatype;
    *shape = output->shape;
    *dim_count = output->dim_count;
    *base = output->base;
    *byte_size = output->nbytes;
    *memory_type = output->memory_type;
    *memory_type_id = output->memory_type_id;
    *userp = output->userp;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceResponseOutputClassificationLabel(
    RESPONSE, const uint32_t index, const size_t class_index, const char **label) {
    NEEDS(inference_response);
    NEEDS(label);
    TRITONSERVER_InferenceResponse *response = inference_response;
    if (index >= response->n_outputs)
        return out_of_bounds(index, "outputs", response->n_outputs);
    OUT_OF_MEMORY_IF(!ta_room(&response->labels, &response->labels_room, response->n_labels, sizeof(char *)));
    TRY(ta_known(response->server));
    *label = response->server->infer->label(
        response->server->desk, response->model_name, response->model_version, response->outputs[index].name,
        class_index);
    if (*label != NULL)
        response->labels[response->n_labels++] = (char *)*label;
    return NULL;
}

/* -- What the server's modules get */

static TRITONSERVER_Error *error_of(TRITONSERVER_Error_Code code, const char *text) {
    return TRITONSERVER_ErrorNew(code, text);
}

static void note(TRITONSERVER_InferenceTrace *trace, int32_t activity, uint64_t ns) {
    if (!ta_room(&trace->events, &trace->events_room, trace->n_events, sizeof(trace->events[0])))
        return; /* a trace that lacks an event is better than none */
    trace->events[trace->n_events].activity = (TRITONSERVER_InferenceTraceActivity)activity;
    trace->events[trace->n_events++].ns = ns;
}

static void
name_trace(TRITONSERVER_InferenceTrace *trace, const char *model, int64_t version, const char *request_id) {
    free(trace->model_name);
    free(trace->request_id);
    trace->model_name = strdup(model);
    trace->request_id = strdup(request_id);
    trace->model_version = version;
}

static void note_tensor(
    TRITONSERVER_InferenceTrace *trace, const ta_traced_tensor *tensor, const char *name, const int64_t *shape) {
    if (!ta_room(&trace->tensors, &trace->tensors_room, trace->n_tensors, sizeof(*tensor)))
        return;
    ta_traced_tensor *noted = &trace->tensors[trace->n_tensors];
    *noted = *tensor;
    noted->name = strdup(name);
    noted->shape = malloc((tensor->dim_count + 1) * sizeof(int64_t));
    if (noted->name == NULL || noted->shape == NULL) {
        free(noted->name);
        free(noted->shape);
        return;
    }
    memcpy(noted->shape, shape, tensor->dim_count * sizeof(int64_t));
    trace->n_tensors++;
}

EXPORT const ta_library *ta_library_calls(void) {
    static const ta_library CALLS = {error_of,       new_response,   add_output, add_parameter, ta_answer_free,
                                     ta_answers_put, note,           name_trace, note_tensor};
    return &CALLS;
}
