/* Requests that stand in a queue, as the hooks of a batching strategy look at them. Loop thread. */
#include "backend_side.h"

#include <stdlib.h>
#include <string.h>

TRITONBACKEND_Request *ta_peek_new(TRITONBACKEND_ModelInstance *instance, uint32_t n_inputs) {
    ta_batch one = {.n_requests = 1};
    ta_execution *execution = ta_execution_begin(instance, &one, n_inputs);
    if (execution == NULL)
        return NULL;
    execution->batch = NULL;
    execution->requests[0].peeked = 1;
    return &execution->requests[0];
}

/* Of the request before: what was made when it was looked at. */
void ta_peek_clear(TRITONBACKEND_Request *request) {
    ta_details_free(request->details);
    request->details = NULL;
    ta_trace_drop(request->trace);
    request->trace = NULL;
    request->inferred = NULL;
    request->n_inputs = 0;
}

void ta_peek_free(TRITONBACKEND_Request *request) {
    ta_execution *execution = request->execution;
    ta_peek_clear(request);
    request->magic = TA_MAGIC_GONE;
    ta_request_drop(request);
    ta_request_drop(request);
    ta_execution_drop(execution);
}
