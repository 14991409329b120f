/* A backend that is as short as one can be: output i is input i. */
#include "triton/core/tritonbackend.h"

#include <string.h>

#define TRY(call)                         \
    do {                                  \
        TRITONSERVER_Error *err = (call); \
        if (err != NULL)                  \
            return err;                   \
    } while (0)

static TRITONSERVER_Error *copy_input(TRITONBACKEND_Request *request, TRITONBACKEND_Response *response,
                                      uint32_t index, const char *name) {
    TRITONBACKEND_Input *input;
    TRITONBACKEND_Output *output;
    TRITONSERVER_DataType datatype;
    TRITONSERVER_MemoryType memory_type = TRITONSERVER_MEMORY_CPU;
    int64_t memory_type_id = 0;
    const int64_t *shape;
    const void *from;
    void *to;
    uint32_t rank, count;
    uint64_t nbytes, offset = 0;
    TRY(TRITONBACKEND_RequestInputByIndex(request, index, &input));
    TRY(TRITONBACKEND_InputProperties(input, NULL, &datatype, &shape, &rank, &nbytes, &count));
    TRY(TRITONBACKEND_ResponseOutput(response, &output, name, datatype, shape, rank));
    TRY(TRITONBACKEND_OutputBuffer(output, &to, nbytes, &memory_type, &memory_type_id));
    for (uint32_t i = 0; i < count; i++) {
        uint64_t part;
        TRY(TRITONBACKEND_InputBuffer(input, i, &from, &part, &memory_type, &memory_type_id));
        memcpy((char *)to + offset, from, part);
        offset += part;
    }
    return NULL;
}

static TRITONSERVER_Error *answer(TRITONBACKEND_Request *request) {
    TRITONBACKEND_Response *response;
    TRITONSERVER_Error *error = NULL;
    uint32_t count;
    TRY(TRITONBACKEND_ResponseNew(&response, request));
    TRY(TRITONBACKEND_RequestOutputCount(request, &count));
    for (uint32_t i = 0; i < count && error == NULL; i++) {
        const char *name;
        TRY(TRITONBACKEND_RequestOutputName(request, i, &name));
        /* OUTPUT<n> is INPUT<n>, in this order */
        error = copy_input(request, response, (uint32_t)(name[strlen(name) - 1] - '0'), name);
    }
    TRITONSERVER_Error *failed = TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error);
    TRITONSERVER_ErrorDelete(error);
    return failed;
}

#ifdef REPORTS
/* The real server counts what backends report, and nothing else. */
#include <time.h>

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request **requests, const uint32_t request_count) {
    uint64_t begin = now_ns();
    for (uint32_t i = 0; i < request_count; i++)
        TRITONSERVER_ErrorDelete(answer(requests[i]));
    uint64_t end = now_ns();
    for (uint32_t i = 0; i < request_count; i++) {
        TRITONSERVER_ErrorDelete(
            TRITONBACKEND_ModelInstanceReportStatistics(instance, requests[i], true, begin, begin, end, end));
        TRITONSERVER_ErrorDelete(TRITONBACKEND_RequestRelease(requests[i], TRITONSERVER_REQUEST_RELEASE_ALL));
    }
    return TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, request_count, begin, begin, end, end);
}
#else
TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request **requests, const uint32_t request_count) {
    (void)instance;
    for (uint32_t i = 0; i < request_count; i++) {
        TRITONSERVER_ErrorDelete(answer(requests[i]));
        TRITONSERVER_ErrorDelete(TRITONBACKEND_RequestRelease(requests[i], TRITONSERVER_REQUEST_RELEASE_ALL));
    }
    return NULL;
}
#endif
