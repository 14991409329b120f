/* Responses, their outputs, factories, states, and the statistics of responses. */
#include "backend_side.h"

#include "clock.h"

#include <stdlib.h>
#include <string.h>

/* Outputs beyond this are leased for each request by itself: one guess for a batch would be too wide of the mark. */
#define JOINED_MAX_NBYTES ((uint64_t)1 << 30)

static TRITONSERVER_Error *no_memory(void) {
    return ta_error(TRITONSERVER_ERROR_INTERNAL, "out of memory");
}

/* -- Memory of outputs */

void ta_lease_drop(void *lease) {
    ta_lease_shared *memory = lease;
    if (memory == NULL || atomic_fetch_sub(&memory->refs, 1) != 1)
        return;
    ta_calls->give_back(memory->slab);
    free(memory);
}

static ta_lease_shared *lease(void *pool, uint64_t nbytes) {
    ta_lease_shared *memory = nbytes > INT64_MAX ? NULL : malloc(sizeof(*memory));
    if (memory == NULL)
        return NULL;
    memory->refs = 1;
    memory->nbytes = (int64_t)nbytes;
    memory->slab = ta_calls->lease(pool, (int64_t)nbytes, &memory->data);
    if (memory->slab != NULL)
        return memory;
    free(memory);
    return NULL;
}

/* A part of the batch's memory for this output, where all requests so far have asked for their share by rows. */
static int take_part(ta_execution *execution, TRITONBACKEND_Request *request, TRITONBACKEND_Output *output,
                     uint64_t nbytes) {
    ta_lease_shared **joined = &execution->joined[output->index];
    uint64_t rows = (uint64_t)execution->batch->rows, own = (uint64_t)request->rows;
    if (own == 0 || nbytes % own != 0 || nbytes / own > JOINED_MAX_NBYTES / rows)
        return -1;
    if (*joined == NULL)
        *joined = lease(execution->instance->pool, nbytes / own * rows);
    if (*joined == NULL || (uint64_t)(*joined)->nbytes != nbytes / own * rows)
        return -1;
    atomic_fetch_add(&(*joined)->refs, 1);
    output->memory = *joined;
    output->data = (*joined)->data + nbytes / own * (uint64_t)request->row;
    return 0;
}

int ta_output_buffer(TRITONBACKEND_Request *request, TRITONBACKEND_Output *output, uint64_t nbytes) {
    ta_execution *execution = request->execution;
    output->nbytes = (int64_t)nbytes;
    pthread_mutex_lock(&execution->lock);
    if (!execution->live && !execution->irregular && execution->batch != NULL && execution->n_requests > 1 &&
        execution->rows_known && output->response != NULL && output->datatype != TRITONSERVER_TYPE_BYTES &&
        take_part(execution, request, output, nbytes) != 0)
        execution->irregular = 1;
    void *pool = request->abandoned ? NULL : execution->instance->pool;
    pthread_mutex_unlock(&execution->lock);
    if (output->memory != NULL)
        return 0;
    output->memory = pool == NULL ? NULL : lease(pool, nbytes);
    if (output->memory == NULL)
        return -1;
    output->data = output->memory->data;
    return 0;
}

void ta_output_free(TRITONBACKEND_Output *output) {
    output->magic = TA_MAGIC_GONE;
    ta_lease_drop(output->memory);
    output->memory = NULL;
}

static TRITONSERVER_Error *buffer_of(TRITONBACKEND_Request *request, TRITONBACKEND_Output *output, void **buffer,
                                     uint64_t nbytes, TRITONSERVER_MemoryType *memory_type, int64_t *memory_type_id,
                                     const char *name) {
    if (output->memory != NULL)
        return ta_error(TRITONSERVER_ERROR_ALREADY_EXISTS, "allocated buffer for output '%s' already exists", name);
    if (ta_output_buffer(request, output, nbytes) != 0)
        return ta_error(TRITONSERVER_ERROR_UNAVAILABLE, "no memory for %llu bytes of output '%s'",
                        (unsigned long long)nbytes, name);
    *buffer = output->data;
    if (memory_type != NULL)
        *memory_type = TRITONSERVER_MEMORY_CPU;
    if (memory_type_id != NULL)
        *memory_type_id = 0;
    return NULL;
}

static TRITONBACKEND_Model *model_of(TRITONBACKEND_Request *request) {
    return request->execution->instance->model;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_OutputBuffer(
    TRITONBACKEND_Output *output, void **buffer, const uint64_t buffer_byte_size, TRITONSERVER_MemoryType *memory_type,
    int64_t *memory_type_id) {
    NEEDS_A(OUTPUT, output);
    NEEDS(buffer);
    TRITONBACKEND_Request *request = output->response->request;
    if (request->abandoned)
        return ta_not_a("output");
    return buffer_of(request, output, buffer, buffer_byte_size, memory_type, memory_type_id,
                     model_of(request)->outputs[output->index].name);
}

static TRITONSERVER_BufferAttributes *attributes_of(TRITONBACKEND_Output *output) {
    output->attributes = (TRITONSERVER_BufferAttributes){.nbytes = (size_t)output->nbytes};
    return &output->attributes;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_OutputBufferAttributes(
    TRITONBACKEND_Output *output, TRITONSERVER_BufferAttributes **buffer_attributes) {
    NEEDS_A(OUTPUT, output);
    NEEDS(buffer_attributes);
    *buffer_attributes = attributes_of(output);
    return NULL;
}

/* -- Responses */

TRITONBACKEND_Response *ta_response_new(TRITONBACKEND_Request *request) {
    size_t n_outputs = (size_t)model_of(request)->n_outputs;
    TRITONBACKEND_Response *response =
        calloc(1, sizeof(TRITONBACKEND_Response) + n_outputs * sizeof(TRITONBACKEND_Output));
    if (response == NULL)
        return NULL;
    response->magic = TA_MAGIC_RESPONSE;
    response->request = request;
    atomic_fetch_add(&request->refs, 1);
    return response;
}

void ta_response_free(TRITONBACKEND_Response *response) {
    TRITONBACKEND_Request *request = response->request;
    for (uint32_t i = 0; i < response->n_outputs; i++)
        ta_output_free(&response->outputs[i]);
    for (uint32_t i = 0; i < response->n_parameters; i++)
        TRITONSERVER_ParameterDelete(response->parameters[i]);
    free(response->parameters);
    TRITONSERVER_ErrorDelete(response->error);
    response->magic = TA_MAGIC_GONE;
    TRITONBACKEND_ModelInstance *instance = request->execution->instance;
    pthread_mutex_lock(&instance->lock);
    TRITONBACKEND_Response **place = &instance->dead_responses[instance->n_dead_responses++ % TA_DEAD];
    TRITONBACKEND_Response *oldest = *place;
    *place = response;
    pthread_mutex_unlock(&instance->lock);
    free(oldest);
    ta_request_drop(request);
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ResponseNew(
    TRITONBACKEND_Response **response, TRITONBACKEND_Request *request) {
    NEEDS(response);
    TAKEN(request);
    *response = ta_response_new(request);
    return *response == NULL ? no_memory() : NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ResponseNewFromFactory(
    TRITONBACKEND_Response **response, TRITONBACKEND_ResponseFactory *factory) {
    NEEDS(response);
    NEEDS_A(FACTORY, factory);
    *response = factory->request->abandoned ? NULL : ta_response_new(factory->request);
    return *response != NULL            ? NULL
           : factory->request->abandoned ? ta_not_a("factory")
                                         : no_memory();
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ResponseDelete(TRITONBACKEND_Response *response) {
    NEEDS_A(RESPONSE, response);
    ta_response_free(response);
    return NULL;
}

static TRITONSERVER_Error *add_parameter(TRITONBACKEND_Response *response, const char *name,
                                         TRITONSERVER_ParameterType type, const void *value) {
    NEEDS_A(RESPONSE, response);
    NEEDS(name);
    NEEDS(value);
    TRITONSERVER_Parameter *parameter = TRITONSERVER_ParameterNew(name, type, value);
    TRITONSERVER_Parameter **parameters =
        realloc(response->parameters, (response->n_parameters + 1) * sizeof(*parameters));
    if (parameters != NULL)
        response->parameters = parameters;
    if (parameters == NULL || parameter == NULL) {
        TRITONSERVER_ParameterDelete(parameter);
        return no_memory();
    }
    parameters[response->n_parameters++] = parameter;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ResponseSetStringParameter(
    TRITONBACKEND_Response *response, const char *name, const char *value) {
    return add_parameter(response, name, TRITONSERVER_PARAMETER_STRING, value);
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ResponseSetIntParameter(
    TRITONBACKEND_Response *response, const char *name, const int64_t value) {
    return add_parameter(response, name, TRITONSERVER_PARAMETER_INT, &value);
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ResponseSetBoolParameter(
    TRITONBACKEND_Response *response, const char *name, const bool value) {
    return add_parameter(response, name, TRITONSERVER_PARAMETER_BOOL, &value);
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ResponseSetDoubleParameter(
    TRITONBACKEND_Response *response, const char *name, const double value) {
    return add_parameter(response, name, TRITONSERVER_PARAMETER_DOUBLE, &value);
}

static int32_t index_of(TRITONBACKEND_Model *model, const char *name) {
    for (int32_t i = 0; i < model->n_outputs; i++)
        if (!model->outputs[i].state && strcmp(model->outputs[i].name, name) == 0)
            return i;
    return -1;
}

static TRITONSERVER_Error *check_shape(const char *name, TRITONSERVER_DataType datatype, const int64_t *shape,
                                       uint32_t dims_count) {
    if (dims_count > TA_MAX_RANK || (shape == NULL && dims_count > 0))
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "output '%s' cannot have %u dimensions", name, dims_count);
    if ((unsigned)datatype > TRITONSERVER_TYPE_BF16 || datatype == TRITONSERVER_TYPE_INVALID)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "output '%s' has the unknown data type %d", name, (int)datatype);
    for (uint32_t i = 0; i < dims_count; i++)
        if (shape[i] < 0)
            return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "output '%s' has the negative dimension %lld", name,
                            (long long)shape[i]);
    return NULL;
}

static void fill_output(TRITONBACKEND_Output *output, int32_t index, TRITONSERVER_DataType datatype,
                        const int64_t *shape, uint32_t dims_count, TRITONBACKEND_Response *response) {
    output->magic = TA_MAGIC_OUTPUT;
    output->index = index;
    output->datatype = (int32_t)datatype;
    output->rank = dims_count;
    output->response = response;
    if (dims_count > 0)
        memcpy(output->dims, shape, dims_count * sizeof(int64_t));
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ResponseOutput(
    TRITONBACKEND_Response *response, TRITONBACKEND_Output **output, const char *name,
    const TRITONSERVER_DataType datatype, const int64_t *shape, const uint32_t dims_count) {
    NEEDS_A(RESPONSE, response);
    NEEDS(output);
    NEEDS(name);
    if (response->request->abandoned)
        return ta_not_a("response");
    TRITONBACKEND_Model *model = model_of(response->request);
    int32_t index = index_of(model, name);
    if (index < 0)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG,
                        "model '%s' produced output '%s', which is not in its configuration", model->name, name);
    TRITONSERVER_Error *error = check_shape(name, datatype, shape, dims_count);
    if (error != NULL)
        return error;
    for (uint32_t i = 0; i < response->n_outputs; i++)
        if (response->outputs[i].index == index)
            return ta_error(TRITONSERVER_ERROR_ALREADY_EXISTS, "the response has an output '%s' already", name);
    *output = &response->outputs[response->n_outputs++];
    fill_output(*output, index, datatype, shape, dims_count, response);
    return NULL;
}

static TRITONSERVER_Error *tell(TRITONBACKEND_Output *output, TRITONSERVER_DataType *datatype, const int64_t **shape,
                                uint64_t *dim_count) {
    if (datatype != NULL)
        *datatype = (TRITONSERVER_DataType)output->datatype;
    if (shape != NULL)
        *shape = output->dims;
    if (dim_count != NULL)
        *dim_count = output->rank;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_InferenceResponseOutput(
    TRITONBACKEND_Response *response, const uint32_t index, const char **name, TRITONSERVER_DataType *datatype,
    const int64_t **shape, uint64_t *dim_count) {
    NEEDS_A(RESPONSE, response);
    if (index >= response->n_outputs)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "out of bounds index %u: response has %u outputs", index,
                        response->n_outputs);
    if (name != NULL && !response->request->abandoned)
        *name = model_of(response->request)->outputs[response->outputs[index].index].name;
    return tell(&response->outputs[index], datatype, shape, dim_count);
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_InferenceResponseOutputByName(
    TRITONBACKEND_Response *response, const char *name, TRITONSERVER_DataType *datatype, const int64_t **shape,
    uint64_t *dim_count) {
    NEEDS_A(RESPONSE, response);
    NEEDS(name);
    int32_t index = response->request->abandoned ? -1 : index_of(model_of(response->request), name);
    for (uint32_t i = 0; i < response->n_outputs; i++)
        if (response->outputs[i].index == index)
            return tell(&response->outputs[i], datatype, shape, dim_count);
    return ta_error(TRITONSERVER_ERROR_NOT_FOUND, "Output name %s not found.", name);
}

/* -- Sending */

/* From here on the response is the server's: a backend that goes on using it is told so. */
static void enqueue(TRITONBACKEND_Request *request, TRITONBACKEND_Response *response) {
    response->magic = TA_MAGIC_GONE;
    for (uint32_t i = 0; i < response->n_outputs; i++)
        response->outputs[i].magic = TA_MAGIC_GONE;
    TRITONBACKEND_Response **last = &request->queued;
    while (*last != NULL)
        last = &(*last)->next;
    *last = response;
    request->n_queued++;
}

/* Notes a send of a request: whether it is LIVE, or an error. */
static TRITONSERVER_Error *note_send(TRITONBACKEND_Request *request, TRITONBACKEND_Response *response, uint32_t flags,
                                     int *live) {
    ta_execution *execution = request->execution;
    int late, gone;
    pthread_mutex_lock(&execution->lock);
    gone = request->abandoned;
    late = request->final;
    *live = execution->live;
    if (!gone && !late) {
        request->final = (flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0;
        if (execution->first_sent_ns == 0)
            execution->first_sent_ns = ta_now_ns();
        if (!*live && response != NULL)
            enqueue(request, response);
    }
    pthread_mutex_unlock(&execution->lock);
    if (gone)
        return ta_error(TRITONSERVER_ERROR_UNAVAILABLE, "the request is answered: its model instance was finalised");
    if (late)
        return ta_error(TRITONSERVER_ERROR_INTERNAL, "model '%s' sent a response behind the final one",
                        model_of(request)->name);
    return NULL;
}

TRITONSERVER_Error *ta_send_answer(TRITONBACKEND_Request *request, TRITONBACKEND_Response *response, uint32_t flags) {
    int live = 0;
    response->flags = flags;
    TRITONSERVER_Error *error = note_send(request, response, flags, &live);
    if (error != NULL) {
        ta_response_free(response);
        return error;
    }
    return live ? ta_calls->send(request, response) : NULL;
}

static TRITONSERVER_Error *check_final(TRITONBACKEND_Request *request, uint32_t flags) {
    if (request->abandoned || model_of(request)->decoupled || (flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0)
        return NULL;
    return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "model '%s' is not decoupled: its response must be the final one",
                    model_of(request)->name);
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ResponseSend(
    TRITONBACKEND_Response *response, const uint32_t send_flags, TRITONSERVER_Error *error) {
    NEEDS_A(RESPONSE, response);
    TRITONSERVER_Error *problem = check_final(response->request, send_flags);
    if (problem != NULL) {
        ta_response_free(response);
        return problem;
    }
    if (error != NULL)
        response->error = ta_error(error->code, "%s", error->message);
    return ta_send_answer(response->request, response, send_flags);
}

/* -- Factories */

EXPORT TRITONSERVER_Error *TRITONBACKEND_ResponseFactoryNew(
    TRITONBACKEND_ResponseFactory **factory, TRITONBACKEND_Request *request) {
    NEEDS(factory);
    TAKEN(request);
    *factory = calloc(1, sizeof(**factory));
    if (*factory == NULL)
        return no_memory();
    (*factory)->magic = TA_MAGIC_FACTORY;
    (*factory)->request = request;
    atomic_fetch_add(&request->refs, 1);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ResponseFactoryDelete(TRITONBACKEND_ResponseFactory *factory) {
    NEEDS_A(FACTORY, factory);
    TRITONBACKEND_Request *request = factory->request;
    factory->magic = TA_MAGIC_GONE;
    free(factory);
    ta_request_drop(request);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ResponseFactoryIsCancelled(
    TRITONBACKEND_ResponseFactory *factory, bool *is_cancelled) {
    NEEDS_A(FACTORY, factory);
    NEEDS(is_cancelled);
    *is_cancelled = factory->request->abandoned || ta_calls->is_cancelled(factory->request) != 0;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ResponseFactorySendFlags(
    TRITONBACKEND_ResponseFactory *factory, const uint32_t send_flags) {
    NEEDS_A(FACTORY, factory);
    TRITONBACKEND_Request *request = factory->request;
    if ((send_flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) == 0)
        return NULL;
    if (!request->abandoned && !model_of(request)->decoupled)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "model '%s' is not decoupled: it must answer with a response",
                        model_of(request)->name);
    int live = 0;
    TRITONSERVER_Error *error = note_send(request, NULL, send_flags, &live);
    return error != NULL ? error : ta_calls->send_flags(request);
}

/* -- States */

void ta_states_free(TRITONBACKEND_Request *request) {
    while (request->states != NULL) {
        TRITONBACKEND_State *state = request->states;
        request->states = state->next;
        ta_output_free(&state->output);
        free(state);
    }
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_StateNew(
    TRITONBACKEND_State **state, TRITONBACKEND_Request *request, const char *name,
    const TRITONSERVER_DataType datatype, const int64_t *shape, const uint32_t dims_count) {
    NEEDS(state);
    TAKEN(request);
    NEEDS(name);
    TRITONBACKEND_Model *model = model_of(request);
    int32_t index = -1;
    for (int32_t i = 0; i < model->n_outputs; i++)
        if (model->outputs[i].state && strcmp(model->outputs[i].name, name) == 0)
            index = i;
    if (index < 0)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG,
                        "unable to add state '%s'. State configuration is missing for model '%s'.", name, model->name);
    TRITONSERVER_Error *error = check_shape(name, datatype, shape, dims_count);
    if (error != NULL)
        return error;
    *state = calloc(1, sizeof(**state));
    if (*state == NULL)
        return no_memory();
    (*state)->magic = TA_MAGIC_STATE;
    (*state)->request = request;
    fill_output(&(*state)->output, index, datatype, shape, dims_count, NULL);
    (*state)->next = request->states;
    request->states = *state;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_StateUpdate(TRITONBACKEND_State *state) {
    NEEDS_A(STATE, state);
    if (state->output.memory == NULL)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "a state without a buffer cannot be stored");
    state->updated = 1;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_StateBuffer(
    TRITONBACKEND_State *state, void **buffer, const uint64_t buffer_byte_size, TRITONSERVER_MemoryType *memory_type,
    int64_t *memory_type_id) {
    NEEDS_A(STATE, state);
    NEEDS(buffer);
    if (state->request->abandoned)
        return ta_not_a("state");
    return buffer_of(state->request, &state->output, buffer, buffer_byte_size, memory_type, memory_type_id,
                     model_of(state->request)->outputs[state->output.index].name);
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_StateBufferAttributes(
    TRITONBACKEND_State *state, TRITONSERVER_BufferAttributes **buffer_attributes) {
    NEEDS_A(STATE, state);
    NEEDS(buffer_attributes);
    *buffer_attributes = attributes_of(&state->output);
    return NULL;
}
