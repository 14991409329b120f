/* Inside libtritonserver.so: the objects that need no server, and what all its files use.
 *
 * The library is plain C and knows no Python. What needs the server reaches it through tables of functions that the
 * server's own modules register (`bridge.h`, and one for each side beside it).
 */
#ifndef TRITON_ASYNC_INTERNAL_H
#define TRITON_ASYNC_INTERNAL_H

#include "triton/core/tritonserver.h"

#include <stdatomic.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

struct TRITONSERVER_Error {
    TRITONSERVER_Error_Code code;
    char message[]; /* ends with a zero byte */
};

struct TRITONSERVER_Message {
    size_t nbytes;
    char json[]; /* and a zero byte behind it */
};

typedef union ta_value {
    char *string;      /* its own copy */
    const void *bytes; /* the caller's */
    int64_t integer;
    double real;
    bool boolean;
} ta_value;

struct TRITONSERVER_Parameter {
    char *name;
    TRITONSERVER_ParameterType type;
    uint64_t nbytes; /* of a string without its zero byte; of bytes */
    ta_value value;
};

struct TRITONSERVER_BufferAttributes {
    TRITONSERVER_MemoryType memory_type;
    int64_t memory_type_id;
    size_t nbytes;
    void *cuda_ipc_handle;
};

/* A new error with a text as of printf. Never NULL: without memory for it, a constant one that says so. */
TRITONSERVER_Error *ta_error(TRITONSERVER_Error_Code code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A new message with a copy of the text, or NULL. */
TRITONSERVER_Message *ta_message_new(const char *json, size_t nbytes);

/* The value as TRITONSERVER_..Parameter functions return it (`vvalue`). */
const void *ta_parameter_value(const TRITONSERVER_Parameter *parameter);

/* The error of a function that got NULL where it needs an object. */
TRITONSERVER_Error *ta_null(const char *what);

#define NEEDS(pointer)                     \
    do {                                   \
        if ((pointer) == NULL)             \
            return ta_null(#pointer);      \
    } while (0)

#endif
