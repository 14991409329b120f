/* A batching strategy: a batch holds as much as the parameter `budget` of the model says, a request its first value.
 *
 * Writes down, in the file that the environment names STRATEGY_JOURNAL, what it is called for.
 */
#define _GNU_SOURCE
#include "triton/core/tritonbackend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call)                         \
    do {                                  \
        TRITONSERVER_Error *err = (call); \
        if (err != NULL)                  \
            return err;                   \
    } while (0)

static void note(const char *what, long value) {
    const char *path = getenv("STRATEGY_JOURNAL");
    FILE *file = path == NULL ? NULL : fopen(path, "a");
    if (file == NULL)
        return;
    fprintf(file, "%s %ld\n", what, value);
    fclose(file);
}

TRITONSERVER_Error *TRITONBACKEND_ModelBatcherInitialize(TRITONBACKEND_Batcher **batcher, TRITONBACKEND_Model *model) {
    TRITONSERVER_Message *config;
    const char *json, *name;
    size_t size;
    long *budget = malloc(sizeof(*budget));
    TRY(TRITONBACKEND_ModelConfig(model, 1, &config));
    TRY(TRITONSERVER_MessageSerializeToJson(config, &json, &size));
    TRY(TRITONBACKEND_ModelName(model, &name));
    const char *found = strstr(json, "\"budget\": {\"string_value\": \"");
    *budget = found == NULL ? 0 : atol(found + strlen("\"budget\": {\"string_value\": \""));
    TRITONSERVER_MessageDelete(config);
    note("BatcherInitialize", *budget);
    if (*budget == 0) {
        free(budget);
        *batcher = NULL;
        return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INVALID_ARG, "the strategy needs a budget");
    }
    *batcher = (TRITONBACKEND_Batcher *)budget;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelBatcherFinalize(TRITONBACKEND_Batcher *batcher) {
    note("BatcherFinalize", *(long *)batcher);
    free(batcher);
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelBatchInitialize(const TRITONBACKEND_Batcher *batcher, void **userp) {
    long *left = malloc(sizeof(*left));
    *left = *(const long *)batcher;
    *userp = left;
    note("BatchInitialize", *left);
    return NULL;
}

#ifndef PARTIAL
TRITONSERVER_Error *
TRITONBACKEND_ModelBatchIncludeRequest(TRITONBACKEND_Request *request, void *userp, bool *should_include) {
    long *left = userp;
    TRITONBACKEND_Input *input;
    const void *data;
    const char *id, *name, *output;
    uint64_t size;
    uint32_t count;
    TRITONSERVER_MemoryType type;
    int64_t memory;
    TRY(TRITONBACKEND_RequestInputCount(request, &count));
    TRY(TRITONBACKEND_RequestInputByIndex(request, count - 1, &input));
    TRY(TRITONBACKEND_InputProperties(input, &name, NULL, NULL, NULL, NULL, NULL));
    TRY(TRITONBACKEND_InputBuffer(input, 0, &data, &size, &type, &memory));
    TRY(TRITONBACKEND_RequestId(request, &id));
    TRY(TRITONBACKEND_RequestOutputName(request, 0, &output));
    int32_t value = *(const int32_t *)data;
    if (value == 77)
        return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "it can not tell");
    /* What must not be done here. */
    TRITONSERVER_Error *error = TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL);
    if (error == NULL)
        note("released", value);
    TRITONSERVER_ErrorDelete(error);
    *should_include = value <= *left;
    if (*should_include)
        *left -= value;
    note(*should_include ? "include" : "exclude", value);
    return NULL;
}
#endif

TRITONSERVER_Error *TRITONBACKEND_ModelBatchFinalize(void *userp) {
    note("BatchFinalize", *(long *)userp);
    free(userp);
    return NULL;
}

#ifdef BACKEND
#include "identity.c"
#endif
