/* A backend that cannot tell one thread from another, and answers as the value of its input says: most as an identity. */
#include "triton/core/tritonbackend.h"

#include <stdbool.h>
#include <string.h>
#include <time.h>

enum { ERROR = 1, PARAMETER, RELEASED_FIRST, FAILS, KEPT, SILENT, STALLS };

#define STALL_NS 1500000

#define TRY(call)                         \
    do {                                  \
        TRITONSERVER_Error *err = (call); \
        if (err != NULL)                  \
            return err;                   \
    } while (0)

/* What the last request that was kept is answered with, by the next execution. */
static TRITONBACKEND_ResponseFactory *kept;
static int32_t kept_value;

static TRITONSERVER_Error *value_of(TRITONBACKEND_Request *request, int32_t *value) {
    TRITONBACKEND_Input *input;
    TRITONSERVER_MemoryType memory_type;
    int64_t memory_type_id;
    const void *from;
    uint64_t nbytes;
    TRY(TRITONBACKEND_RequestInputByIndex(request, 0, &input));
    TRY(TRITONBACKEND_InputBuffer(input, 0, &from, &nbytes, &memory_type, &memory_type_id));
    memcpy(value, from, sizeof(*value));
    return NULL;
}

static TRITONSERVER_Error *send(TRITONBACKEND_Response *response, int32_t value) {
    static const int64_t shape[] = {1, 1};
    TRITONSERVER_MemoryType memory_type = TRITONSERVER_MEMORY_CPU;
    int64_t memory_type_id = 0;
    TRITONBACKEND_Output *output;
    TRITONSERVER_Error *error = NULL;
    void *to;
    if (value == ERROR) {
        error = TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INVALID_ARG, "this value is not to its taste");
    } else {
        TRY(TRITONBACKEND_ResponseOutput(response, &output, "OUTPUT0", TRITONSERVER_TYPE_INT32, shape, 2));
        TRY(TRITONBACKEND_OutputBuffer(output, &to, sizeof(value), &memory_type, &memory_type_id));
        memcpy(to, &value, sizeof(value));
    }
    if (value == PARAMETER)
        TRY(TRITONBACKEND_ResponseSetIntParameter(response, "told", value));
    TRITONSERVER_Error *failed = TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error);
    TRITONSERVER_ErrorDelete(error);
    return failed;
}

static TRITONSERVER_Error *answer_kept(void) {
    TRITONBACKEND_Response *response;
    if (kept == NULL)
        return NULL;
    TRITONBACKEND_ResponseFactory *factory = kept;
    kept = NULL;
    TRY(TRITONBACKEND_ResponseNewFromFactory(&response, factory));
    TRY(send(response, kept_value));
    return TRITONBACKEND_ResponseFactoryDelete(factory);
}

static void stall(void) {
    struct timespec begun, now;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - begun.tv_sec) * 1000000000 + now.tv_nsec - begun.tv_nsec < STALL_NS);
}

static TRITONSERVER_Error *answer(TRITONBACKEND_Request *request) {
    TRITONBACKEND_Response *response;
    int32_t value;
    TRY(value_of(request, &value));
    if (value == STALLS)
        stall();
    if (value == KEPT) {
        kept_value = value;
        TRY(TRITONBACKEND_ResponseFactoryNew(&kept, request));
    } else if (value != SILENT) {
        TRY(TRITONBACKEND_ResponseNew(&response, request));
        if (value != RELEASED_FIRST)
            return send(response, value);
        TRY(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL));
        return send(response, value);
    }
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request **requests, const uint32_t request_count) {
    (void)instance;
    TRY(answer_kept());
    for (uint32_t i = 0; i < request_count; i++) {
        int32_t value = 0;
        TRY(value_of(requests[i], &value));
        if (value == FAILS)
            return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, "the execution went wrong");
    }
    for (uint32_t i = 0; i < request_count; i++) {
        int32_t value = 0;
        TRY(value_of(requests[i], &value));
        TRITONSERVER_ErrorDelete(answer(requests[i]));
        if (value != RELEASED_FIRST)
            TRITONSERVER_ErrorDelete(TRITONBACKEND_RequestRelease(requests[i], TRITONSERVER_REQUEST_RELEASE_ALL));
    }
    return NULL;
}
