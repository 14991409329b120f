/* TRITONSERVER_InferenceTrace: what happens to a request, told when all of it has happened. */
#define _GNU_SOURCE
#include "backend_side.h"
#include "server.h"

#include <stdlib.h>
#include <string.h>

#define TRACE TRITONSERVER_InferenceTrace *trace

static _Atomic uint64_t last; /* identifier that was given out */

static TRITONSERVER_Error *new_trace(
    TRITONSERVER_InferenceTrace **trace, TRITONSERVER_InferenceTraceLevel level, uint64_t parent_id,
    TRITONSERVER_InferenceTraceActivityFn_t activity_fn,
    TRITONSERVER_InferenceTraceTensorActivityFn_t tensor_activity_fn,
    TRITONSERVER_InferenceTraceReleaseFn_t release_fn, void *userp) {
    NEEDS(trace);
    NEEDS(release_fn);
    if (level & (TRITONSERVER_TRACE_LEVEL_MIN | TRITONSERVER_TRACE_LEVEL_MAX))
        level = (level & ~(TRITONSERVER_TRACE_LEVEL_MIN | TRITONSERVER_TRACE_LEVEL_MAX)) |
                TRITONSERVER_TRACE_LEVEL_TIMESTAMPS;
    if (level & TRITONSERVER_TRACE_LEVEL_TIMESTAMPS)
        NEEDS(activity_fn);
    if (level & TRITONSERVER_TRACE_LEVEL_TENSORS)
        NEEDS(tensor_activity_fn);
    TRITONSERVER_InferenceTrace *made = calloc(1, sizeof(*made));
    OUT_OF_MEMORY_IF(made == NULL);
    made->answer.kind = TA_ANSWER_TRACE;
    made->id = atomic_fetch_add(&last, 1) + 1;
    made->parent_id = parent_id;
    made->level = level;
    made->activity = activity_fn;
    made->tensor_activity = tensor_activity_fn;
    made->release = release_fn;
    made->userp = userp;
    *trace = made;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceTraceNew(
    TRITONSERVER_InferenceTrace **trace, TRITONSERVER_InferenceTraceLevel level, uint64_t parent_id,
    TRITONSERVER_InferenceTraceActivityFn_t activity_fn, TRITONSERVER_InferenceTraceReleaseFn_t release_fn,
    void *trace_userp) {
    return new_trace(trace, level, parent_id, activity_fn, NULL, release_fn, trace_userp);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceTraceTensorNew(
    TRITONSERVER_InferenceTrace **trace, TRITONSERVER_InferenceTraceLevel level, uint64_t parent_id,
    TRITONSERVER_InferenceTraceActivityFn_t activity_fn,
    TRITONSERVER_InferenceTraceTensorActivityFn_t tensor_activity_fn,
    TRITONSERVER_InferenceTraceReleaseFn_t release_fn, void *trace_userp) {
    return new_trace(trace, level, parent_id, activity_fn, tensor_activity_fn, release_fn, trace_userp);
}

static void free_trace(TRITONSERVER_InferenceTrace *trace) {
    if (trace->owner != NULL)
        ta_calls->drop(trace->owner);
    free(trace->model_name);
    free(trace->request_id);
    free(trace->context);
    free(trace->events);
    for (size_t i = 0; i < trace->n_tensors; i++) {
        free(trace->tensors[i].name);
        free(trace->tensors[i].shape);
    }
    free(trace->tensors);
    free(trace);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceTraceDelete(TRACE) {
    if (trace == NULL)
        return NULL;
    if (trace->lent)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "the trace of a backend's request is the request's");
    free_trace(trace);
    return NULL;
}

static void delete_it(TRITONSERVER_InferenceTrace *trace, void *userp) {
    (void)userp;
    free_trace(trace);
}

/* One that stands for a trace of the server. */
static TRITONSERVER_InferenceTrace *
new_owned(void *owner, TRITONSERVER_InferenceTraceLevel level, uint64_t parent_id) {
    TRITONSERVER_InferenceTrace *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return NULL;
    made->answer.kind = TA_ANSWER_TRACE;
    made->id = atomic_fetch_add(&last, 1) + 1;
    made->parent_id = parent_id;
    made->level = level;
    made->release = delete_it;
    made->owner = owner;
    ta_calls->keep(owner);
    return made;
}

TRITONSERVER_InferenceTrace *ta_trace_of(
    void *owner, uint64_t id, uint64_t parent_id, int32_t level, const char *model, int64_t version,
    const char *request_id, const char *context) {
    TRITONSERVER_InferenceTrace *made = new_owned(owner, (TRITONSERVER_InferenceTraceLevel)level, parent_id);
    if (made == NULL)
        return NULL;
    made->id = id;
    made->lent = true;
    made->model_name = strdup(model);
    made->request_id = strdup(request_id);
    made->context = context == NULL ? NULL : strdup(context);
    made->model_version = version;
    return made;
}

void ta_trace_drop(TRITONSERVER_InferenceTrace *trace) {
    if (trace != NULL)
        free_trace(trace);
}

#define READ(Name, name, type, value)                                                   \
    EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceTrace##Name(TRACE, type *name) {   \
        NEEDS(trace);                                                                   \
        NEEDS(name);                                                                    \
        *name = value;                                                                  \
        return NULL;                                                                    \
    }

READ(Id, id, uint64_t, trace->id)
READ(ParentId, parent_id, uint64_t, trace->parent_id)
READ(ModelName, model_name, const char *, trace->model_name == NULL ? "" : trace->model_name)
READ(ModelVersion, model_version, int64_t, trace->model_version)
READ(RequestId, request_id, const char *, trace->request_id == NULL ? "" : trace->request_id)
READ(Context, trace_context, const char *, trace->context == NULL ? "" : trace->context)

EXPORT TRITONSERVER_Error *
TRITONSERVER_InferenceTraceSpawnChildTrace(TRACE, TRITONSERVER_InferenceTrace **child_trace) {
    NEEDS(trace);
    NEEDS(child_trace);
    if (trace->owner == NULL)
        return new_trace(
            child_trace, trace->level, trace->id, trace->activity, trace->tensor_activity, trace->release,
            trace->userp);
    /* The server traces a request that it is given with, as a child of this one. */
    *child_trace = new_owned(trace->owner, trace->level, trace->id);
    OUT_OF_MEMORY_IF(*child_trace == NULL);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_InferenceTraceSetContext(TRACE, const char *trace_context) {
    NEEDS(trace);
    NEEDS(trace_context);
    char *copy = strdup(trace_context);
    OUT_OF_MEMORY_IF(copy == NULL);
    free(trace->context);
    trace->context = copy;
    return NULL;
}

EXPORT TRITONSERVER_Error *
TRITONSERVER_InferenceTraceReportActivity(TRACE, uint64_t timestamp, const char *activity_name) {
    NEEDS(trace);
    NEEDS(activity_name);
    if (trace->owner != NULL)
        ta_calls->note_trace(trace->owner, activity_name, timestamp);
    else if (trace->activity != NULL)
        trace->activity(trace, TRITONSERVER_TRACE_CUSTOM_ACTIVITY, timestamp, trace->userp);
    return NULL;
}

void ta_trace_end(TRITONSERVER_InferenceTrace *trace) {
    for (size_t i = 0; i < trace->n_events && trace->level & TRITONSERVER_TRACE_LEVEL_TIMESTAMPS; i++)
        trace->activity(trace, trace->events[i].activity, trace->events[i].ns, trace->userp);
    for (size_t i = 0; i < trace->n_tensors; i++) {
        const ta_traced_tensor *tensor = &trace->tensors[i];
        trace->tensor_activity(
            trace, tensor->activity, tensor->name, tensor->datatype, tensor->base, tensor->nbytes, tensor->shape,
            tensor->dim_count, tensor->memory_type, tensor->memory_type_id, trace->userp);
    }
    trace->release(trace, trace->userp);
}
