/* Requests and their inputs, as a backend sees them. */
#include "backend_side.h"

#include <stdlib.h>
#include <string.h>

static TRITONSERVER_Error *out_of_range(const char *what, uint32_t index, uint32_t count) {
    return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "out of bounds index %u, request has %u %s", index, count, what);
}

static TRITONSERVER_Error *no_memory(void) {
    return ta_error(TRITONSERVER_ERROR_INTERNAL, "out of memory");
}

void ta_details_free(ta_details *details) {
    if (details == NULL)
        return;
    for (uint32_t i = 0; i < details->n_parameters; i++)
        TRITONSERVER_ParameterDelete(details->parameters[i]);
    free(details->parameters);
    free(details->id);
    free(details->correlation_string);
    free(details);
}

#define DESCRIBED(request)                                                     \
    do {                                                                       \
        NEEDS_A(REQUEST, request);                                             \
        if (request->details == NULL && ta_calls->describe(request) != 0)      \
            return no_memory();                                                \
    } while (0)

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestId(TRITONBACKEND_Request *request, const char **id) {
    NEEDS(id);
    DESCRIBED(request);
    *id = request->details->id;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestIsCancelled(TRITONBACKEND_Request *request, bool *is_cancelled) {
    NEEDS_A(REQUEST, request);
    NEEDS(is_cancelled);
    *is_cancelled = ta_calls->is_cancelled(request) != 0;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestCorrelationId(TRITONBACKEND_Request *request, uint64_t *id) {
    NEEDS(id);
    DESCRIBED(request);
    if (request->details->correlation_string != NULL)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "given request's correlation id is not an unsigned int");
    *id = request->details->correlation;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestCorrelationIdString(
    TRITONBACKEND_Request *request, const char **id) {
    NEEDS(id);
    DESCRIBED(request);
    if (request->details->correlation_string == NULL)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "given request's correlation id is not a string");
    *id = request->details->correlation_string;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestFlags(TRITONBACKEND_Request *request, uint32_t *flags) {
    NEEDS(flags);
    DESCRIBED(request);
    *flags = request->details->flags;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_InferenceRequestTimeoutMicroseconds(
    TRITONBACKEND_Request *request, uint64_t *timeout) {
    NEEDS(timeout);
    DESCRIBED(request);
    *timeout = request->details->timeout_us;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestParameterCount(TRITONBACKEND_Request *request, uint32_t *count) {
    NEEDS(count);
    DESCRIBED(request);
    *count = request->details->n_parameters;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestParameter(
    TRITONBACKEND_Request *request, const uint32_t index, const char **key, TRITONSERVER_ParameterType *type,
    const void **vvalue) {
    NEEDS(key);
    NEEDS(type);
    NEEDS(vvalue);
    DESCRIBED(request);
    if (index >= request->details->n_parameters)
        return out_of_range("parameters", index, request->details->n_parameters);
    TRITONSERVER_Parameter *parameter = request->details->parameters[index];
    *key = parameter->name;
    *type = parameter->type;
    *vvalue = ta_parameter_value(parameter);
    return NULL;
}

/* -- Inputs */

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestInputCount(TRITONBACKEND_Request *request, uint32_t *count) {
    NEEDS_A(REQUEST, request);
    NEEDS(count);
    *count = request->n_inputs;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestInputByIndex(
    TRITONBACKEND_Request *request, const uint32_t index, TRITONBACKEND_Input **input) {
    NEEDS_A(REQUEST, request);
    NEEDS(input);
    if (index >= request->n_inputs)
        return out_of_range("inputs", index, request->n_inputs);
    *input = &request->inputs[index];
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestInputName(
    TRITONBACKEND_Request *request, const uint32_t index, const char **input_name) {
    NEEDS_A(REQUEST, request);
    NEEDS(input_name);
    if (index >= request->n_inputs)
        return out_of_range("inputs", index, request->n_inputs);
    *input_name = request->inputs[index].name;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestInput(
    TRITONBACKEND_Request *request, const char *name, TRITONBACKEND_Input **input) {
    NEEDS_A(REQUEST, request);
    NEEDS(name);
    NEEDS(input);
    for (uint32_t i = 0; i < request->n_inputs; i++)
        if (strcmp(request->inputs[i].name, name) == 0) {
            *input = &request->inputs[i];
            return NULL;
        }
    *input = NULL;
    return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "unknown request input name %s", name);
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_InputProperties(
    TRITONBACKEND_Input *input, const char **name, TRITONSERVER_DataType *datatype, const int64_t **shape,
    uint32_t *dims_count, uint64_t *byte_size, uint32_t *buffer_count) {
    NEEDS_A(INPUT, input);
    if (name != NULL)
        *name = input->name;
    if (datatype != NULL)
        *datatype = (TRITONSERVER_DataType)input->datatype;
    if (shape != NULL)
        *shape = input->dims;
    if (dims_count != NULL)
        *dims_count = input->rank;
    if (byte_size != NULL)
        *byte_size = (uint64_t)input->nbytes;
    if (buffer_count != NULL)
        *buffer_count = 1;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_InputPropertiesForHostPolicy(
    TRITONBACKEND_Input *input, const char *host_policy_name, const char **name, TRITONSERVER_DataType *datatype,
    const int64_t **shape, uint32_t *dims_count, uint64_t *byte_size, uint32_t *buffer_count) {
    (void)host_policy_name; /* inputs have one buffer for all of them */
    return TRITONBACKEND_InputProperties(input, name, datatype, shape, dims_count, byte_size, buffer_count);
}

static TRITONSERVER_Error *check_buffer(TRITONBACKEND_Input *input, uint32_t index) {
    return index == 0 ? NULL
                      : ta_error(TRITONSERVER_ERROR_INVALID_ARG, "out of bounds index %u: input '%s' has 1 buffer",
                                 index, input->name);
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_InputBuffer(
    TRITONBACKEND_Input *input, const uint32_t index, const void **buffer, uint64_t *buffer_byte_size,
    TRITONSERVER_MemoryType *memory_type, int64_t *memory_type_id) {
    NEEDS_A(INPUT, input);
    NEEDS(buffer);
    NEEDS(buffer_byte_size);
    TRITONSERVER_Error *error = check_buffer(input, index);
    if (error != NULL)
        return error;
    *buffer = input->data;
    *buffer_byte_size = (uint64_t)input->nbytes;
    if (memory_type != NULL)
        *memory_type = (TRITONSERVER_MemoryType)input->memory_type;
    if (memory_type_id != NULL)
        *memory_type_id = input->device_id;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_InputBufferForHostPolicy(
    TRITONBACKEND_Input *input, const char *host_policy_name, const uint32_t index, const void **buffer,
    uint64_t *buffer_byte_size, TRITONSERVER_MemoryType *memory_type, int64_t *memory_type_id) {
    (void)host_policy_name;
    return TRITONBACKEND_InputBuffer(input, index, buffer, buffer_byte_size, memory_type, memory_type_id);
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_InputBufferAttributes(
    TRITONBACKEND_Input *input, const uint32_t index, const void **buffer,
    TRITONSERVER_BufferAttributes **buffer_attributes) {
    NEEDS_A(INPUT, input);
    NEEDS(buffer);
    NEEDS(buffer_attributes);
    TRITONSERVER_Error *error = check_buffer(input, index);
    if (error != NULL)
        return error;
    input->attributes.memory_type = (TRITONSERVER_MemoryType)input->memory_type;
    input->attributes.memory_type_id = input->device_id;
    input->attributes.nbytes = (size_t)input->nbytes;
    *buffer = input->data;
    *buffer_attributes = &input->attributes;
    return NULL;
}

/* -- Outputs that are asked for */

static int is_asked_for(TRITONBACKEND_Request *request, int32_t index) {
    if (request->execution->instance->model->outputs[index].state)
        return 0;
    return index < 63 ? (int)(request->wanted >> index & 1) : ta_calls->asks_for(request, index);
}

/* The index of the one that is number `place` among them, -1 where there are not so many; their number in `count`. */
static int32_t asked_for(TRITONBACKEND_Request *request, uint32_t place, uint32_t *count) {
    int32_t found = -1;
    *count = 0;
    for (int32_t i = 0; i < request->execution->instance->model->n_outputs; i++)
        if (is_asked_for(request, i) && (*count)++ == place)
            found = i;
    return found;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestOutputCount(TRITONBACKEND_Request *request, uint32_t *count) {
    NEEDS_A(REQUEST, request);
    NEEDS(count);
    asked_for(request, 0, count);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestOutputName(
    TRITONBACKEND_Request *request, const uint32_t index, const char **output_name) {
    NEEDS_A(REQUEST, request);
    NEEDS(output_name);
    uint32_t count;
    int32_t found = asked_for(request, index, &count);
    *output_name = NULL;
    if (found < 0)
        return out_of_range("requested outputs", index, count);
    *output_name = request->execution->instance->model->outputs[found].name;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestOutputBufferProperties(
    TRITONBACKEND_Request *request, const char *name, size_t *byte_size, TRITONSERVER_MemoryType *memory_type,
    int64_t *memory_type_id) {
    (void)name;
    (void)byte_size;
    NEEDS_A(REQUEST, request);
    NEEDS(memory_type);
    NEEDS(memory_type_id);
    *memory_type = TRITONSERVER_MEMORY_CPU;
    *memory_type_id = 0;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestTrace(
    TRITONBACKEND_Request *request, TRITONSERVER_InferenceTrace **trace) {
    NEEDS_A(REQUEST, request);
    NEEDS(trace);
    if (request->trace == NULL && ta_calls->trace(request) != 0)
        return no_memory();
    *trace = request->trace;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_RequestRelease(TRITONBACKEND_Request *request, uint32_t release_flags) {
    TAKEN(request);
    if (release_flags == 0 ||
        (release_flags & ~(uint32_t)(TRITONSERVER_REQUEST_RELEASE_ALL | TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)) != 0)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "a request cannot be released with flags %u", release_flags);
    if ((release_flags & TRITONSERVER_REQUEST_RELEASE_RESCHEDULE) && !request->execution->instance->model->iterative)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "Request is released with "
                        "TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while the model is not configured to handle such a flag.");
    pthread_mutex_lock(&request->execution->lock);
    int live = request->execution->live, again = request->released || request->abandoned;
    if (!again) {
        ta_request_retire(request);
        request->release_flags = release_flags;
        request->released = 1;
    }
    pthread_mutex_unlock(&request->execution->lock);
    if (again)
        return ta_not_a("request");
    if (live)
        ta_calls->released(request);
    ta_request_drop(request);
    return NULL;
}
