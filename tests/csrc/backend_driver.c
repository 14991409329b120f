/* Requests that a backend lets go of while, and after, its model is finalised. */
#include "check.h"

#include "tritonserver/backend_side.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const ta_backend_side *side;
static TRITONBACKEND_Backend *backend;
static TRITONBACKEND_Model *model;
static TRITONBACKEND_ModelInstance *instance;
static _Atomic int n_released, n_sent, n_dropped;
static int ends_with_release; /* the model goes as soon as the server hears of the release */

static void end_model(void) {
    if (instance == NULL)
        return;
    side->instance_free(instance);
    side->model_free(model);
    instance = NULL;
    model = NULL;
}

static void *lease(void *pool, int64_t nbytes, char **data) {
    (void)pool;
    return *data = malloc((size_t)nbytes + 1);
}

static void released(TRITONBACKEND_Request *request) {
    (void)request;
    n_released++;
    if (ends_with_release)
        end_model();
}

static TRITONSERVER_Error *send(TRITONBACKEND_Request *request, TRITONBACKEND_Response *response) {
    (void)request;
    n_sent++;
    side->response_free(response);
    return NULL;
}

static void drop(void *object) {
    n_dropped++;
    free(object);
}

static int is_cancelled(TRITONBACKEND_Request *request) {
    (void)request;
    return 0;
}

static void go_live(ta_execution *execution) {
    for (int32_t r = 0; r < execution->n_requests; r++)
        execution->requests[r].factory = malloc(8);
    side->flush(execution);
}

static const ta_backend_calls CALLS = {
    .lease = lease, .give_back = free, .released = released, .send = send, .drop = drop, .go_live = go_live,
    .is_cancelled = is_cancelled,
};

static TRITONBACKEND_Request *begin_and_keep(ta_batch *batch) {
    model = side->model_new(backend, "model", 1, "/", "{}", 0);
    CHECK(side->model_set_specs(model, 0, 1) == 0);
    model->outputs[0].name = strdup("OUT");
    instance = side->instance_new(model, "model_0", 1, 0, "{}");
    instance->pool = instance;
    ta_execution *execution = side->begin(instance, batch, 0);
    go_live(execution);
    TRITONBACKEND_Request *request = execution->handles[0];
    side->end(execution, NULL);
    return request;
}

static TRITONSERVER_Error *answer(TRITONBACKEND_ResponseFactory *factory) {
    TRITONBACKEND_Response *response;
    TRITONBACKEND_Output *output;
    void *buffer;
    int64_t shape[1] = {1};
    TRITONSERVER_Error *error = TRITONBACKEND_ResponseNewFromFactory(&response, factory);
    if (error != NULL)
        return error;
    error = TRITONBACKEND_ResponseOutput(response, &output, "OUT", TRITONSERVER_TYPE_INT32, shape, 1);
    if (error == NULL)
        error = TRITONBACKEND_OutputBuffer(output, &buffer, 4, NULL, NULL);
    if (error != NULL) {
        CHECK(TRITONBACKEND_ResponseDelete(response) == NULL);
        return error;
    }
    return TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, NULL);
}

static void expect(TRITONSERVER_Error *error) {
    CHECK(error != NULL);
    TRITONSERVER_ErrorDelete(error);
}

/* The server unloads the model as soon as it hears of the last release, on another thread: here, in the middle of it. */
static void test_the_model_ends_with_the_last_release(void) {
    ta_batch batch = {.n_requests = 1, .rows = 1};
    TRITONBACKEND_ResponseFactory *factory;
    TRITONBACKEND_Request *request = begin_and_keep(&batch);
    CHECK(TRITONBACKEND_ResponseFactoryNew(&factory, request) == NULL);
    CHECK(answer(factory) == NULL);
    CHECK(TRITONBACKEND_ResponseFactoryDelete(factory) == NULL);
    ends_with_release = 1;
    CHECK(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL) == NULL);
    ends_with_release = 0;
    CHECK(model == NULL);
}

/* A factory that outlives its model says so, and is let go of. */
static void test_what_is_kept_over_the_end_is_refused(void) {
    ta_batch batch = {.n_requests = 1, .rows = 1};
    TRITONBACKEND_ResponseFactory *factory;
    TRITONBACKEND_Response *response;
    TRITONBACKEND_Output *output;
    void *buffer;
    bool cancelled = false;
    int64_t shape[1] = {1};
    TRITONBACKEND_Request *request = begin_and_keep(&batch);
    CHECK(TRITONBACKEND_ResponseFactoryNew(&factory, request) == NULL);
    CHECK(TRITONBACKEND_ResponseNew(&response, request) == NULL);
    CHECK(TRITONBACKEND_ResponseOutput(response, &output, "OUT", TRITONSERVER_TYPE_INT32, shape, 1) == NULL);
    end_model();
    expect(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL));
    expect(TRITONBACKEND_OutputBuffer(output, &buffer, 4, NULL, NULL));
    expect(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, NULL));
    expect(answer(factory));
    CHECK(TRITONBACKEND_ResponseFactoryIsCancelled(factory, &cancelled) == NULL && cancelled);
    CHECK(TRITONBACKEND_ResponseFactoryDelete(factory) == NULL);
}

typedef struct late {
    TRITONBACKEND_Request *request;
    TRITONBACKEND_ResponseFactory *factory;
} late;

static void *let_go(void *argument) {
    late *of = argument;
    TRITONSERVER_ErrorDelete(answer(of->factory));
    TRITONSERVER_ErrorDelete(TRITONBACKEND_ResponseFactoryDelete(of->factory));
    TRITONSERVER_ErrorDelete(TRITONBACKEND_RequestRelease(of->request, TRITONSERVER_REQUEST_RELEASE_ALL));
    return NULL;
}

/* A backend's thread answers and lets go while the model is finalised: each factory of the server goes once. */
static void test_a_model_ends_while_its_backend_answers(void) {
    int before = n_dropped;
    for (int i = 0; i < 500; i++) {
        ta_batch batch = {.n_requests = 1, .rows = 1};
        pthread_t thread;
        late of = {.request = begin_and_keep(&batch)};
        CHECK(TRITONBACKEND_ResponseFactoryNew(&of.factory, of.request) == NULL);
        pthread_create(&thread, NULL, let_go, &of);
        end_model();
        pthread_join(thread, NULL);
        CHECK(n_dropped == before + i + 1);
    }
}

static void test_a_request_in_the_queue_can_only_be_looked_at(void) {
    TRITONBACKEND_Response *response;
    TRITONBACKEND_ResponseFactory *factory;
    uint32_t count;
    model = side->model_new(backend, "model", 1, "/", "{}", 0);
    CHECK(side->model_set_specs(model, 0, 1) == 0);
    model->outputs[0].name = strdup("OUT");
    instance = side->instance_new(model, "model", 0, 0, "{}");
    TRITONBACKEND_Request *request = side->peek_new(instance, 0);
    request->wanted = 1;
    CHECK(TRITONBACKEND_RequestOutputCount(request, &count) == NULL && count == 1);
    expect(TRITONBACKEND_ResponseNew(&response, request));
    expect(TRITONBACKEND_ResponseFactoryNew(&factory, request));
    expect(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL));
    side->peek_clear(request);
    side->peek_free(request);
    end_model();
}

int main(void) {
    side = ta_backend_side_table();
    side->register_calls(&CALLS);
    backend = side->backend_new("backend", "/", "{}");
    test_the_model_ends_with_the_last_release();
    test_what_is_kept_over_the_end_is_refused();
    test_a_request_in_the_queue_can_only_be_looked_at();
    CHECK(n_sent == 1 && n_released == 1 && n_dropped == 2);
    test_a_model_ends_while_its_backend_answers();
    side->backend_free(backend);
    return 0;
}
