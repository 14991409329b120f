/* Versions, names of types, errors, messages, parameters, buffer attributes. Any thread. */
#define _GNU_SOURCE /* strdup */
#include "internal.h"

#include "triton/core/tritonbackend.h"
#include "triton/core/tritoncache.h"
#include "triton/core/tritonrepoagent.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))
#define NAMED(names, value) ((size_t)(value) < LENGTH(names) ? (names)[value] : "<invalid>")

/* -- Versions */

static TRITONSERVER_Error *version(uint32_t *major, uint32_t *minor, uint32_t is_major, uint32_t is_minor) {
    NEEDS(major);
    NEEDS(minor);
    *major = is_major;
    *minor = is_minor;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ApiVersion(uint32_t *major, uint32_t *minor) {
    return version(major, minor, TRITONSERVER_API_VERSION_MAJOR, TRITONSERVER_API_VERSION_MINOR);
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ApiVersion(uint32_t *major, uint32_t *minor) {
    return version(major, minor, TRITONBACKEND_API_VERSION_MAJOR, TRITONBACKEND_API_VERSION_MINOR);
}

EXPORT TRITONSERVER_Error *TRITONCACHE_ApiVersion(uint32_t *major, uint32_t *minor) {
    return version(major, minor, TRITONCACHE_API_VERSION_MAJOR, TRITONCACHE_API_VERSION_MINOR);
}

EXPORT TRITONSERVER_Error *TRITONREPOAGENT_ApiVersion(uint32_t *major, uint32_t *minor) {
    return version(major, minor, TRITONREPOAGENT_API_VERSION_MAJOR, TRITONREPOAGENT_API_VERSION_MINOR);
}

/* -- Types and their names */

static const char *const DATATYPES[] = {"<invalid>", "BOOL",  "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16",
                                        "INT32",     "INT64", "FP16",  "FP32",   "FP64",   "BYTES",  "BF16"};
static const uint32_t NBYTES[] = {0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 2};
static const char *const MEMORY_TYPES[] = {"CPU", "CPU_PINNED", "GPU"};
static const char *const PARAMETER_TYPES[] = {"STRING", "INT", "BOOL", "DOUBLE", "BYTES"};
static const char *const KINDS[] = {"AUTO", "CPU", "GPU", "MODEL"};
static const char *const ACTIVITIES[] = {
    "REQUEST_START",      "QUEUE_START",          "COMPUTE_START",         "COMPUTE_INPUT_END",
    "COMPUTE_OUTPUT_START", "COMPUTE_END",        "REQUEST_END",           "TENSOR_QUEUE_INPUT",
    "TENSOR_BACKEND_INPUT", "TENSOR_BACKEND_OUTPUT", "CUSTOM_ACTIVITY"};

EXPORT const char *TRITONSERVER_DataTypeString(TRITONSERVER_DataType datatype) {
    return NAMED(DATATYPES, datatype);
}

EXPORT TRITONSERVER_DataType TRITONSERVER_StringToDataType(const char *dtype) {
    for (size_t i = 1; dtype != NULL && i < LENGTH(DATATYPES); i++)
        if (strcmp(dtype, DATATYPES[i]) == 0)
            return (TRITONSERVER_DataType)i;
    return TRITONSERVER_TYPE_INVALID;
}

EXPORT uint32_t TRITONSERVER_DataTypeByteSize(TRITONSERVER_DataType datatype) {
    return (size_t)datatype < LENGTH(NBYTES) ? NBYTES[datatype] : 0;
}

EXPORT const char *TRITONSERVER_MemoryTypeString(TRITONSERVER_MemoryType memtype) {
    return NAMED(MEMORY_TYPES, memtype);
}

EXPORT const char *TRITONSERVER_ParameterTypeString(TRITONSERVER_ParameterType paramtype) {
    return NAMED(PARAMETER_TYPES, paramtype);
}

EXPORT const char *TRITONSERVER_InstanceGroupKindString(TRITONSERVER_InstanceGroupKind kind) {
    return NAMED(KINDS, kind);
}

EXPORT const char *TRITONSERVER_InferenceTraceLevelString(TRITONSERVER_InferenceTraceLevel level) {
    switch ((int)level) {
    case TRITONSERVER_TRACE_LEVEL_DISABLED:
        return "DISABLED";
    case TRITONSERVER_TRACE_LEVEL_MIN:
        return "MIN";
    case TRITONSERVER_TRACE_LEVEL_MAX:
        return "MAX";
    case TRITONSERVER_TRACE_LEVEL_TIMESTAMPS:
        return "TIMESTAMPS";
    case TRITONSERVER_TRACE_LEVEL_TENSORS:
        return "TENSORS";
    default:
        return "<unknown>";
    }
}

EXPORT const char *TRITONSERVER_InferenceTraceActivityString(TRITONSERVER_InferenceTraceActivity activity) {
    return (size_t)activity < LENGTH(ACTIVITIES) ? ACTIVITIES[activity] : "<unknown>";
}

/* -- Errors */

static struct {
    TRITONSERVER_Error_Code code;
    char message[16];
} NO_MEMORY = {TRITONSERVER_ERROR_INTERNAL, "out of memory"};

static TRITONSERVER_Error *error_of(TRITONSERVER_Error_Code code, const char *text, size_t nbytes) {
    TRITONSERVER_Error *error = malloc(sizeof(*error) + nbytes + 1);
    if (error == NULL)
        return (TRITONSERVER_Error *)&NO_MEMORY;
    error->code = code;
    memcpy(error->message, text, nbytes);
    error->message[nbytes] = 0;
    return error;
}

TRITONSERVER_Error *ta_error(TRITONSERVER_Error_Code code, const char *format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    size_t nbytes = length < 0 ? 0 : (size_t)length;
    return error_of(code, text, nbytes < sizeof(text) ? nbytes : sizeof(text) - 1);
}

TRITONSERVER_Error *ta_null(const char *what) {
    return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "argument '%s' must not be NULL", what);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ErrorNew(TRITONSERVER_Error_Code code, const char *msg) {
    return error_of(code, msg == NULL ? "" : msg, msg == NULL ? 0 : strlen(msg));
}

EXPORT void TRITONSERVER_ErrorDelete(TRITONSERVER_Error *error) {
    if (error != (TRITONSERVER_Error *)&NO_MEMORY)
        free(error);
}

EXPORT TRITONSERVER_Error_Code TRITONSERVER_ErrorCode(TRITONSERVER_Error *error) {
    return error == NULL ? TRITONSERVER_ERROR_UNKNOWN : error->code;
}

EXPORT const char *TRITONSERVER_ErrorCodeString(TRITONSERVER_Error *error) {
    static const char *const NAMES[] = {"Unknown",     "Internal",       "Not found", "Invalid argument", "Unavailable",
                                        "Unsupported", "Already exists", "Cancelled"};
    size_t code = error == NULL ? 0 : (size_t)error->code;
    return code < LENGTH(NAMES) ? NAMES[code] : NAMES[0];
}

EXPORT const char *TRITONSERVER_ErrorMessage(TRITONSERVER_Error *error) {
    return error == NULL ? "" : error->message;
}

/* -- Messages */

TRITONSERVER_Message *ta_message_new(const char *json, size_t nbytes) {
    TRITONSERVER_Message *message = malloc(sizeof(*message) + nbytes + 1);
    if (message == NULL)
        return NULL;
    message->nbytes = nbytes;
    memcpy(message->json, json, nbytes);
    message->json[nbytes] = 0;
    return message;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MessageNewFromSerializedJson(
    TRITONSERVER_Message **message, const char *base, size_t byte_size) {
    NEEDS(message);
    NEEDS(base);
    *message = ta_message_new(base, byte_size);
    return *message == NULL ? ta_error(TRITONSERVER_ERROR_INTERNAL, "out of memory") : NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MessageDelete(TRITONSERVER_Message *message) {
    free(message);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_MessageSerializeToJson(
    TRITONSERVER_Message *message, const char **base, size_t *byte_size) {
    NEEDS(message);
    NEEDS(base);
    NEEDS(byte_size);
    *base = message->json;
    *byte_size = message->nbytes;
    return NULL;
}

/* -- Parameters */

static bool fill_parameter(TRITONSERVER_Parameter *parameter, const void *value) {
    switch (parameter->type) {
    case TRITONSERVER_PARAMETER_STRING:
        parameter->value.string = strdup(value);
        parameter->nbytes = strlen(value);
        return parameter->value.string != NULL;
    case TRITONSERVER_PARAMETER_INT:
        parameter->value.integer = *(const int64_t *)value;
        return true;
    case TRITONSERVER_PARAMETER_BOOL:
        parameter->value.boolean = *(const bool *)value;
        return true;
    case TRITONSERVER_PARAMETER_DOUBLE:
        parameter->value.real = *(const double *)value;
        return true;
    default:
        return false;
    }
}

EXPORT TRITONSERVER_Parameter *TRITONSERVER_ParameterNew(
    const char *name, const TRITONSERVER_ParameterType type, const void *value) {
    if (name == NULL || value == NULL)
        return NULL;
    TRITONSERVER_Parameter *parameter = calloc(1, sizeof(*parameter));
    if (parameter == NULL)
        return NULL;
    parameter->type = type;
    parameter->name = strdup(name);
    if (parameter->name != NULL && fill_parameter(parameter, value))
        return parameter;
    free(parameter->name);
    free(parameter);
    return NULL;
}

EXPORT TRITONSERVER_Parameter *TRITONSERVER_ParameterBytesNew(
    const char *name, const void *byte_ptr, const uint64_t size) {
    if (name == NULL || (byte_ptr == NULL && size != 0))
        return NULL;
    TRITONSERVER_Parameter *parameter = calloc(1, sizeof(*parameter));
    if (parameter == NULL)
        return NULL;
    parameter->type = TRITONSERVER_PARAMETER_BYTES;
    parameter->name = strdup(name);
    parameter->nbytes = size;
    parameter->value.bytes = byte_ptr;
    if (parameter->name != NULL)
        return parameter;
    free(parameter);
    return NULL;
}

EXPORT void TRITONSERVER_ParameterDelete(TRITONSERVER_Parameter *parameter) {
    if (parameter == NULL)
        return;
    if (parameter->type == TRITONSERVER_PARAMETER_STRING)
        free(parameter->value.string);
    free(parameter->name);
    free(parameter);
}

const void *ta_parameter_value(const TRITONSERVER_Parameter *parameter) {
    switch (parameter->type) {
    case TRITONSERVER_PARAMETER_STRING:
        return parameter->value.string;
    case TRITONSERVER_PARAMETER_BYTES:
        return parameter->value.bytes;
    default:
        return &parameter->value;
    }
}

/* -- Buffer attributes */

EXPORT TRITONSERVER_Error *TRITONSERVER_BufferAttributesNew(TRITONSERVER_BufferAttributes **buffer_attributes) {
    NEEDS(buffer_attributes);
    *buffer_attributes = calloc(1, sizeof(**buffer_attributes));
    return *buffer_attributes == NULL ? ta_error(TRITONSERVER_ERROR_INTERNAL, "out of memory") : NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_BufferAttributesDelete(TRITONSERVER_BufferAttributes *buffer_attributes) {
    free(buffer_attributes);
    return NULL;
}

#define ATTRIBUTE(Name, name, type, field)                                                    \
    EXPORT TRITONSERVER_Error *TRITONSERVER_BufferAttributesSet##Name(                        \
        TRITONSERVER_BufferAttributes *buffer_attributes, type name) {                        \
        NEEDS(buffer_attributes);                                                             \
        buffer_attributes->field = name;                                                      \
        return NULL;                                                                          \
    }                                                                                         \
    EXPORT TRITONSERVER_Error *TRITONSERVER_BufferAttributes##Name(                           \
        TRITONSERVER_BufferAttributes *buffer_attributes, type *name) {                       \
        NEEDS(buffer_attributes);                                                             \
        NEEDS(name);                                                                          \
        *name = buffer_attributes->field;                                                     \
        return NULL;                                                                          \
    }

ATTRIBUTE(MemoryTypeId, memory_type_id, int64_t, memory_type_id)
ATTRIBUTE(MemoryType, memory_type, TRITONSERVER_MemoryType, memory_type)
ATTRIBUTE(CudaIpcHandle, cuda_ipc_handle, void *, cuda_ipc_handle)
ATTRIBUTE(ByteSize, byte_size, size_t, nbytes)
