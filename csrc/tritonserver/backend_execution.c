/* One call of ModelInstanceExecute: its requests, what is kept of their answers meanwhile, and what becomes of them. */
#include "backend_side.h"

#include "clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void destroy(ta_execution *execution) {
    if (execution == NULL)
        return;
    pthread_mutex_destroy(&execution->lock);
    free(execution);
}

static size_t aligned(size_t nbytes) {
    return (nbytes + 15) & ~(size_t)15;
}

ta_execution *ta_execution_begin(TRITONBACKEND_ModelInstance *instance, ta_batch *batch, uint32_t n_inputs) {
    TRITONBACKEND_Model *model = instance->model;
    size_t n = (size_t)batch->n_requests;
    size_t requests = aligned(sizeof(ta_execution) + n * sizeof(TRITONBACKEND_Request));
    size_t inputs = aligned(n * n_inputs * sizeof(TRITONBACKEND_Input));
    size_t handles = aligned(n * sizeof(void *));
    char *memory = calloc(1, requests + inputs + handles + (size_t)model->n_outputs * sizeof(void *));
    if (memory == NULL)
        return NULL;
    ta_execution *execution = (ta_execution *)memory;
    execution->instance = instance;
    atomic_fetch_add(&instance->refs, 1);
    execution->batch = batch;
    execution->n_requests = batch->n_requests;
    execution->handles = (TRITONBACKEND_Request **)(memory + requests + inputs);
    execution->joined = (ta_lease_shared **)(memory + requests + inputs + handles);
    execution->rows_known = model->batching && batch->assembly == NULL;
    execution->refs = 1 + batch->n_requests;
    pthread_mutex_init(&execution->lock, NULL);
    for (size_t i = 0; i < n; i++) {
        TRITONBACKEND_Request *request = &execution->requests[i];
        request->magic = TA_MAGIC_REQUEST;
        request->refs = 2; /* the backend's and that of the execution */
        request->execution = execution;
        request->number = (int32_t)i;
        request->n_inputs = n_inputs;
        request->inputs = (TRITONBACKEND_Input *)(memory + requests) + i * n_inputs;
        execution->handles[i] = request;
    }
    pthread_mutex_lock(&instance->lock);
    execution->next = instance->executions;
    if (execution->next != NULL)
        execution->next->previous = execution;
    instance->executions = execution;
    pthread_mutex_unlock(&instance->lock);
    atomic_store_explicit(&instance->compute_start_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&instance->compute_end_ns, 0, memory_order_relaxed);
    return execution;
}

/* With the last of its requests. One whose instance was finalised is not freed: the backend may still use its requests. */
void ta_execution_drop(ta_execution *execution) {
    if (atomic_fetch_sub(&execution->refs, 1) != 1)
        return;
    TRITONBACKEND_ModelInstance *instance = execution->instance;
    ta_execution *oldest = NULL;
    pthread_mutex_lock(&instance->lock);
    if (!instance->finalised) {
        if (execution->previous != NULL)
            execution->previous->next = execution->next;
        else
            instance->executions = execution->next;
        if (execution->next != NULL)
            execution->next->previous = execution->previous;
        ta_execution **place = &instance->dead[instance->n_dead++ % TA_DEAD];
        oldest = *place;
        *place = execution;
    }
    pthread_mutex_unlock(&instance->lock);
    destroy(oldest);
    ta_instance_drop(instance);
}

void ta_request_drop(TRITONBACKEND_Request *request) {
    if (atomic_fetch_sub(&request->refs, 1) != 1)
        return;
    pthread_mutex_lock(&request->execution->lock);
    void *factory = request->factory;
    request->factory = NULL;
    pthread_mutex_unlock(&request->execution->lock);
    if (factory != NULL)
        ta_calls->drop(factory);
    ta_states_free(request);
    ta_details_free(request->details);
    request->details = NULL;
    ta_trace_drop(request->trace);
    request->trace = NULL;
    ta_execution_drop(request->execution);
}

void ta_request_retire(TRITONBACKEND_Request *request) {
    __atomic_store_n(&request->magic, TA_MAGIC_GONE, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < request->n_inputs; i++)
        __atomic_store_n(&request->inputs[i].magic, TA_MAGIC_GONE, __ATOMIC_RELAXED);
}

/* Why `output` cannot be a part of the batch's, 0: it can. */
static int differs(const ta_execution *execution, const TRITONBACKEND_Request *request,
                   const TRITONBACKEND_Output *output, const TRITONBACKEND_Output *first) {
    if (output->memory == NULL || output->datatype != execution->instance->model->outputs[output->index].datatype)
        return 1;
    if (execution->n_requests == 1)
        return 0;
    return output->memory != execution->joined[output->index] || output->rank != first->rank || output->rank == 0 ||
           output->dims[0] != request->rows ||
           memcmp(output->dims + 1, first->dims + 1, (output->rank - 1) * sizeof(int64_t)) != 0;
}

static TRITONBACKEND_Output *output_at(TRITONBACKEND_Response *response, int32_t index) {
    for (uint32_t i = 0; i < response->n_outputs; i++)
        if (response->outputs[i].index == index)
            return &response->outputs[i];
    return NULL;
}

/* Whether the answers are those of a whole batch: one of each request, all alike, and nothing else left to tell. */
static int is_regular(ta_execution *execution) {
    ta_batch *batch = execution->batch;
    if (execution->irregular || (execution->n_requests > 1 && !execution->rows_known))
        return 0;
    for (int32_t r = 0; r < execution->n_requests; r++) {
        TRITONBACKEND_Request *request = &execution->requests[r];
        TRITONBACKEND_Response *response = request->queued;
        if (!request->released || request->release_flags != TRITONSERVER_REQUEST_RELEASE_ALL ||
            request->n_queued != 1 || !request->final || atomic_load(&request->refs) != 2 ||
            response->error != NULL || response->n_parameters != 0 || request->states != NULL)
            return 0;
        for (int32_t i = 0; i < batch->n_outputs; i++) {
            if (!batch->outputs[i].wanted)
                continue;
            TRITONBACKEND_Output *output = output_at(response, i);
            if (output == NULL || differs(execution, request, output, output_at(execution->requests[0].queued, i)))
                return 0;
        }
    }
    return 1;
}

static void fill_output(ta_execution *execution, int32_t index) {
    ta_tensor *tensor = &execution->batch->outputs[index];
    TRITONBACKEND_Output *output = output_at(execution->requests[0].queued, index);
    tensor->rank = (int32_t)output->rank;
    memcpy(tensor->dims, output->dims, output->rank * sizeof(int64_t));
    if (execution->n_requests > 1) {
        tensor->dims[0] = execution->batch->rows;
        tensor->owner = execution->joined[index];
        execution->joined[index] = NULL;
    } else {
        tensor->owner = output->memory;
        output->memory = NULL;
    }
    ta_lease_shared *memory = tensor->owner;
    tensor->data = execution->n_requests > 1 ? memory->data : output->data;
    tensor->nbytes = execution->n_requests > 1 ? memory->nbytes : output->nbytes;
    tensor->release = ta_lease_drop;
}

static void fill(ta_execution *execution) {
    for (int32_t i = 0; i < execution->batch->n_outputs; i++)
        if (execution->batch->outputs[i].wanted)
            fill_output(execution, i);
    for (int32_t r = 0; r < execution->n_requests; r++) {
        TRITONBACKEND_Response *response = execution->requests[r].queued;
        execution->requests[r].queued = NULL;
        ta_response_free(response);
    }
}

void ta_execution_flush(ta_execution *execution) {
    pthread_mutex_lock(&execution->lock);
    execution->live = 1;
    pthread_mutex_unlock(&execution->lock);
    for (int32_t r = 0; r < execution->n_requests; r++) {
        TRITONBACKEND_Request *request = &execution->requests[r];
        pthread_mutex_lock(&execution->lock);
        TRITONBACKEND_Response *response = request->queued;
        int released = request->released;
        request->queued = NULL;
        request->n_queued = 0;
        pthread_mutex_unlock(&execution->lock);
        while (response != NULL) {
            TRITONBACKEND_Response *next = response->next;
            TRITONSERVER_ErrorDelete(ta_calls->send(request, response));
            response = next;
        }
        if (released)
            ta_calls->released(request);
    }
}

/* Its requests are answered one by one; not where there was no memory for that, and it has failed. */
static void go_by_request(ta_batch *batch) {
    if (!batch->failed)
        batch->by_request = 1;
}

static int is_untouched(ta_execution *execution) {
    if (execution->live)
        return 0;
    for (int32_t r = 0; r < execution->n_requests; r++) {
        TRITONBACKEND_Request *request = &execution->requests[r];
        if (request->released || request->final || request->n_queued != 0 || atomic_load(&request->refs) != 2)
            return 0;
    }
    return 1;
}

/* Execute failed: what the backend has not answered is answered with its error, and nothing is the backend's. */
static void fail(ta_execution *execution, TRITONSERVER_Error *error) {
    if (is_untouched(execution)) {
        execution->batch->failed = 1;
        execution->batch->error_code = (int32_t)error->code;
        snprintf(execution->batch->error, sizeof(execution->batch->error), "%s", error->message);
    } else {
        if (!execution->live)
            ta_calls->go_live(execution);
        go_by_request(execution->batch);
    }
    for (int32_t r = 0; r < execution->n_requests; r++) {
        TRITONBACKEND_Request *request = &execution->requests[r];
        pthread_mutex_lock(&execution->lock);
        int released = request->released;
        request->released = 1;
        pthread_mutex_unlock(&execution->lock);
        if (released)
            continue;
        TRITONBACKEND_Response *response = execution->live && !request->final ? ta_response_new(request) : NULL;
        if (response != NULL) {
            response->error = ta_error(error->code, "%s", error->message);
            TRITONSERVER_ErrorDelete(ta_send_answer(request, response, TRITONSERVER_RESPONSE_COMPLETE_FINAL));
        }
        if (execution->live)
            ta_calls->released(request);
        ta_request_retire(request);
        ta_request_drop(request);
    }
}

/* What a backend reported, where it lies in the execution. */
static void set_times(ta_execution *execution, int64_t now_ns) {
    ta_batch *batch = execution->batch;
    int64_t start_ns = atomic_load_explicit(&execution->instance->compute_start_ns, memory_order_relaxed);
    int64_t end_ns = atomic_load_explicit(&execution->instance->compute_end_ns, memory_order_relaxed);
    if (start_ns < batch->compute_start_ns || end_ns < start_ns || now_ns < end_ns) {
        start_ns = batch->compute_start_ns;
        end_ns = now_ns;
    }
    batch->compute_input_end_ns = start_ns;
    batch->compute_output_start_ns = end_ns;
    batch->compute_end_ns = now_ns;
}

void ta_execution_end(ta_execution *execution, TRITONSERVER_Error *error) {
    int64_t now_ns = ta_now_ns();
    execution->instance->waited_ns = execution->first_sent_ns == 0 ? 0 : now_ns - execution->first_sent_ns;
    set_times(execution, now_ns);
    if (error != NULL) {
        fail(execution, error);
        TRITONSERVER_ErrorDelete(error);
    } else if (execution->live) {
        go_by_request(execution->batch);
    } else {
        pthread_mutex_lock(&execution->lock);
        int regular = is_regular(execution);
        pthread_mutex_unlock(&execution->lock);
        if (regular) {
            fill(execution);
        } else {
            ta_calls->go_live(execution);
            go_by_request(execution->batch);
        }
    }
    for (int32_t i = 0; i < execution->instance->model->n_outputs; i++)
        if (execution->joined[i] != NULL)
            ta_lease_drop(execution->joined[i]);
    pthread_mutex_lock(&execution->lock);
    memset(execution->joined, 0, (size_t)execution->instance->model->n_outputs * sizeof(void *));
    execution->batch = NULL;
    pthread_mutex_unlock(&execution->lock);
    for (int32_t r = 0; r < execution->n_requests; r++)
        ta_request_drop(&execution->requests[r]);
    ta_execution_drop(execution);
}

/* The instance was finalised. Requests that the backend has kept are failed by their factories; their memory stays, so
 * that a backend that goes on using them is told so. */
void ta_executions_abandon(TRITONBACKEND_ModelInstance *instance) {
    for (;;) {
        pthread_mutex_lock(&instance->lock);
        instance->finalised = 1;
        ta_execution *execution = instance->executions;
        if (execution != NULL)
            instance->executions = execution->next;
        pthread_mutex_unlock(&instance->lock);
        if (execution == NULL)
            break;
        for (int32_t r = 0; r < execution->n_requests; r++) {
            TRITONBACKEND_Request *request = &execution->requests[r];
            pthread_mutex_lock(&execution->lock);
            void *factory = request->factory;
            request->factory = NULL;
            request->abandoned = 1;
            pthread_mutex_unlock(&execution->lock);
            ta_request_retire(request);
            if (factory != NULL)
                ta_calls->drop(factory);
        }
    }
}

/* What an instance keeps of those that are over. */
void ta_executions_free(TRITONBACKEND_ModelInstance *instance) {
    for (int i = 0; i < TA_DEAD; i++) {
        destroy(instance->dead[i]);
        free(instance->dead_responses[i]);
    }
}
