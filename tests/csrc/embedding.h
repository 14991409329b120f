/* What programs that embed the server share: checks, and one inference that is waited for. C and C++. */
#ifndef TEST_EMBEDDING_H
#define TEST_EMBEDDING_H

#include "triton/core/tritonserver.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);       \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

/* The call has no error. */
static inline void good(TRITONSERVER_Error *error, const char *call) {
    if (error == NULL)
        return;
    fprintf(stderr, "%s: %s: %s\n", call, TRITONSERVER_ErrorCodeString(error), TRITONSERVER_ErrorMessage(error));
    exit(1);
}
#define GOOD(call) good(call, #call)

/* The call has an error of this code, with these words in it. */
static inline void bad(TRITONSERVER_Error *error, TRITONSERVER_Error_Code code, const char *words, const char *call) {
    if (error == NULL || TRITONSERVER_ErrorCode(error) != code ||
        strstr(TRITONSERVER_ErrorMessage(error), words) == NULL) {
        fprintf(
            stderr, "%s: expected '%s', got %s: '%s'\n", call, words,
            error == NULL ? "no error" : TRITONSERVER_ErrorCodeString(error),
            error == NULL ? "" : TRITONSERVER_ErrorMessage(error));
        exit(1);
    }
    TRITONSERVER_ErrorDelete(error);
}
#define BAD(code, words, call) bad(call, TRITONSERVER_ERROR_##code, words, #call)

/* Whom callbacks tell. */
typedef struct Waiter {
    pthread_mutex_t lock;
    pthread_cond_t more;
    int n_responses, n_released, n_empty, last;
    TRITONSERVER_InferenceResponse *responses[64];
} Waiter;

static inline void waiter_init(Waiter *waiter) {
    memset(waiter, 0, sizeof(*waiter));
    pthread_mutex_init(&waiter->lock, NULL);
    pthread_cond_init(&waiter->more, NULL);
}

static inline void waiter_wait(Waiter *waiter) {
    pthread_mutex_lock(&waiter->lock);
    while (!waiter->last || !waiter->n_released)
        pthread_cond_wait(&waiter->more, &waiter->lock);
    waiter->last = waiter->n_released = 0;
    pthread_mutex_unlock(&waiter->lock);
}

static inline void waiter_clear(Waiter *waiter) {
    for (int i = 0; i < waiter->n_responses; i++)
        GOOD(TRITONSERVER_InferenceResponseDelete(waiter->responses[i]));
    waiter->n_responses = waiter->n_empty = 0;
}

static inline void on_response(TRITONSERVER_InferenceResponse *response, const uint32_t flags, void *userp) {
    Waiter *waiter = (Waiter *)userp;
    pthread_mutex_lock(&waiter->lock);
    if (response == NULL)
        waiter->n_empty++;
    else if (waiter->n_responses < 64)
        waiter->responses[waiter->n_responses++] = response;
    waiter->last |= (flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0;
    pthread_cond_signal(&waiter->more);
    pthread_mutex_unlock(&waiter->lock);
}

static inline void on_release(TRITONSERVER_InferenceRequest *request, const uint32_t flags, void *userp) {
    Waiter *waiter = (Waiter *)userp;
    (void)request;
    CHECK(flags == TRITONSERVER_REQUEST_RELEASE_ALL);
    pthread_mutex_lock(&waiter->lock);
    waiter->n_released++;
    pthread_cond_signal(&waiter->more);
    pthread_mutex_unlock(&waiter->lock);
}

static inline TRITONSERVER_Error *on_alloc(
    TRITONSERVER_ResponseAllocator *allocator, const char *name, size_t nbytes, TRITONSERVER_MemoryType type,
    int64_t type_id, void *userp, void **buffer, void **buffer_userp, TRITONSERVER_MemoryType *actual,
    int64_t *actual_id) {
    (void)allocator;
    (void)type;
    (void)type_id;
    (void)userp;
    (void)name;
    *buffer = nbytes == 0 ? NULL : malloc(nbytes);
    *buffer_userp = NULL;
    *actual = TRITONSERVER_MEMORY_CPU;
    *actual_id = 0;
    return NULL;
}

static inline TRITONSERVER_Error *on_free(
    TRITONSERVER_ResponseAllocator *allocator, void *buffer, void *buffer_userp, size_t nbytes,
    TRITONSERVER_MemoryType type, int64_t type_id) {
    (void)allocator;
    (void)buffer_userp;
    (void)nbytes;
    (void)type;
    (void)type_id;
    free(buffer);
    return NULL;
}

static inline TRITONSERVER_ServerOptions *options_for(const char *repository) {
    TRITONSERVER_ServerOptions *options;
    GOOD(TRITONSERVER_ServerOptionsNew(&options));
    GOOD(TRITONSERVER_ServerOptionsSetModelRepositoryPath(options, repository));
    GOOD(TRITONSERVER_ServerOptionsSetModelControlMode(options, TRITONSERVER_MODEL_CONTROL_EXPLICIT));
    GOOD(TRITONSERVER_ServerOptionsSetExitTimeout(options, 20));
    return options;
}

/* A request of one FP32 input IN of `count` values. */
static inline TRITONSERVER_InferenceRequest *request_for(
    TRITONSERVER_Server *server, const char *model, const float *values, int64_t count, Waiter *waiter,
    TRITONSERVER_ResponseAllocator *allocator) {
    TRITONSERVER_InferenceRequest *request;
    GOOD(TRITONSERVER_InferenceRequestNew(&request, server, model, -1));
    GOOD(TRITONSERVER_InferenceRequestAddInput(request, "IN", TRITONSERVER_TYPE_FP32, &count, 1));
    GOOD(TRITONSERVER_InferenceRequestAppendInputData(
        request, "IN", values, (size_t)count * sizeof(float), TRITONSERVER_MEMORY_CPU, 0));
    GOOD(TRITONSERVER_InferenceRequestSetReleaseCallback(request, on_release, waiter));
    GOOD(TRITONSERVER_InferenceRequestSetResponseCallback(request, allocator, NULL, on_response, waiter));
    return request;
}

static inline const void *output_of(TRITONSERVER_InferenceResponse *response, size_t *nbytes) {
    const char *name;
    const int64_t *shape;
    TRITONSERVER_DataType datatype;
    TRITONSERVER_MemoryType type;
    uint64_t dim_count;
    int64_t type_id;
    const void *base;
    void *userp;
    GOOD(TRITONSERVER_InferenceResponseError(response));
    GOOD(TRITONSERVER_InferenceResponseOutput(
        response, 0, &name, &datatype, &shape, &dim_count, &base, nbytes, &type, &type_id, &userp));
    CHECK(strcmp(name, "OUT") == 0 && dim_count == 1 && type == TRITONSERVER_MEMORY_CPU);
    return base;
}

#endif
