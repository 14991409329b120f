/* TRITONSERVER_Server: makes one, and hands calls to the server's own modules. Any thread. */
#define _GNU_SOURCE
#include "server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SERVER TRITONSERVER_Server *server

const ta_control_calls *ta_control;
const ta_infer_calls *ta_infer;

EXPORT void ta_register_control(const ta_control_calls *calls) {
    ta_control = calls;
}

EXPORT void ta_register_infer(const ta_infer_calls *calls) {
    ta_infer = calls;
}

/* All that are there: a pointer of a caller is looked for in it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static TRITONSERVER_Server *servers;
static _Atomic bool python_ended;

TRITONSERVER_Error *ta_known(TRITONSERVER_Server *server) {
    NEEDS(server);
    bool known = false;
    pthread_mutex_lock(&lock);
    for (TRITONSERVER_Server *one = servers; one != NULL; one = one->next)
        known = known || one == server;
    pthread_mutex_unlock(&lock);
    if (!known)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "the server is none, or was deleted before");
    return atomic_load(&python_ended) ? ta_error(TRITONSERVER_ERROR_UNAVAILABLE, "the process is ending") : NULL;
}

bool ta_has_servers(void) {
    bool any = false;
    pthread_mutex_lock(&lock);
    for (TRITONSERVER_Server *one = servers; one != NULL; one = one->next)
        any = any || !one->inner;
    pthread_mutex_unlock(&lock);
    return any && !atomic_load(&python_ended);
}

void ta_enlist(TRITONSERVER_Server *server) {
    pthread_mutex_lock(&lock);
    server->next = servers;
    servers = server;
    pthread_mutex_unlock(&lock);
}

void ta_forget(TRITONSERVER_Server *server) {
    pthread_mutex_lock(&lock);
    TRITONSERVER_Server **place = &servers;
    while (*place != NULL && *place != server)
        place = &(*place)->next;
    if (*place != NULL)
        *place = server->next;
    pthread_mutex_unlock(&lock);
}

EXPORT void ta_end_python(void) {
    atomic_store(&python_ended, true);
    /* From here on none is freed. */
    pthread_mutex_lock(&lock);
    TRITONSERVER_Server *first = servers;
    pthread_mutex_unlock(&lock);
    for (TRITONSERVER_Server *one = first; one != NULL; one = one->next)
        ta_answers_leave(one);
}

/* -- Life */

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerNew(
    TRITONSERVER_Server **server, TRITONSERVER_ServerOptions *options) {
    const ta_text *texts;
    uint64_t count;
    NEEDS(server);
    TRY(ta_options_texts(options, &texts, &count));
    if (atomic_load(&python_ended))
        return ta_error(TRITONSERVER_ERROR_UNAVAILABLE, "the process is ending");
    TRY(ta_start_python());
    ta_refuse_foreign(false);
    TRITONSERVER_Message *answer = NULL;
    TRITONSERVER_Server *made = calloc(1, sizeof(*made));
    OUT_OF_MEMORY_IF(made == NULL);
    made->control = ta_control;
    made->infer = ta_infer;
    TRITONSERVER_Error *error = ta_control->call(0, "new", texts, count, &answer);
    if (error == NULL) {
        /* The number and an address, with a space between them. */
        char *end = NULL;
        made->number = strtoull(answer->json, &end, 10);
        made->desk = (void *)(uintptr_t)strtoull(end, NULL, 10);
        ta_answers_prepare(made);
        error = ta_answers_ready(made);
        if (error != NULL)
            TRITONSERVER_ErrorDelete(ta_control->call(made->number, "delete", NULL, 0, NULL));
    }
    free(answer);
    if (error != NULL) {
        free(made);
        return error;
    }
    ta_enlist(made);
    *server = made;
    return NULL;
}

/* Whether the caller may end it. */
static TRITONSERVER_Error *check_end(TRITONSERVER_Server *server, const char *what) {
    TRY(ta_known(server));
    if (server->inner)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "a backend can not %s the server that it lives in", what);
    if (pthread_equal(pthread_self(), server->thread))
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "a server can not be ended in a callback of its own");
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerStop(SERVER) {
    if (atomic_load(&python_ended))
        return NULL;
    TRY(check_end(server, "stop"));
    if (atomic_load(&server->stopped))
        return NULL;
    TRITONSERVER_Error *error = ta_control->call(server->number, "stop", NULL, 0, NULL);
    atomic_store(error == NULL ? &server->stopped : &server->stuck, true);
    return error;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerDelete(SERVER) {
    if (atomic_load(&python_ended))
        return NULL;
    TRY(check_end(server, "delete"));
    TRY(TRITONSERVER_ServerStop(server));
    ta_forget(server);
    /* Behind it no request comes any more, and those that were there have been handed to the callback thread. */
    TRITONSERVER_Error *error = ta_control->call(server->number, "delete", NULL, 0, NULL);
    ta_answers_stop(server);
    /* What an engine never gave back names it to the end of the process. */
    if (!atomic_load(&server->stuck))
        free(server);
    return error;
}

/* -- Calls with texts */

static TRITONSERVER_Error *call(
    TRITONSERVER_Server *server, const char *what, const char *first, int64_t version, TRITONSERVER_Message **answer) {
    char number[32];
    TRY(ta_known(server));
    snprintf(number, sizeof(number), "%lld", (long long)version);
    ta_text texts[] = {{first == NULL ? "" : first, first == NULL ? 0 : strlen(first)}, {number, strlen(number)}};
    bool foreign;
    TRY(ta_enter(server, &foreign));
    TRITONSERVER_Error *error = server->control->call(server->number, what, texts, 2, answer);
    ta_leave(foreign);
    return error;
}

/* The answer is a number. */
static TRITONSERVER_Error *
ask(TRITONSERVER_Server *server, const char *what, const char *first, int64_t version, uint32_t *number) {
    TRITONSERVER_Message *answer = NULL;
    TRY(call(server, what, first, version, &answer));
    *number = (uint32_t)strtoul(answer->json, NULL, 10);
    free(answer);
    return NULL;
}

static TRITONSERVER_Error *
truth(TRITONSERVER_Server *server, const char *what, const char *first, int64_t version, bool *value) {
    uint32_t number = 0;
    NEEDS(value);
    TRY(ask(server, what, first, version, &number));
    *value = number != 0;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerSetExitTimeout(SERVER, unsigned int timeout) {
    return call(server, "exit_timeout", NULL, timeout, NULL);
}

/* `mapping`: pairs of names and strings or bytes. */
static TRITONSERVER_Error *call_with(
    TRITONSERVER_Server *server, const char *what, const char *first, const TRITONSERVER_Parameter **parameters,
    uint64_t count) {
    TRY(ta_known(server));
    if (count != 0)
        NEEDS(parameters);
    ta_text *texts = malloc((2 * count + 1) * sizeof(ta_text));
    OUT_OF_MEMORY_IF(texts == NULL);
    TRITONSERVER_Error *error = NULL;
    texts[0] = (ta_text){first, strlen(first)};
    for (uint64_t i = 0; i < count && error == NULL; i++) {
        const TRITONSERVER_Parameter *one = parameters[i];
        if (one == NULL)
            error = ta_null("parameter");
        else if (one->type != TRITONSERVER_PARAMETER_STRING && one->type != TRITONSERVER_PARAMETER_BYTES)
            error = ta_error(
                TRITONSERVER_ERROR_INVALID_ARG, "parameter '%s' must be a string or bytes, not %s", one->name,
                TRITONSERVER_ParameterTypeString(one->type));
        else {
            texts[2 * i + 1] = (ta_text){one->name, strlen(one->name)};
            texts[2 * i + 2] = (ta_text){ta_parameter_value(one), one->nbytes};
        }
    }
    bool foreign = false;
    if (error == NULL)
        error = ta_enter(server, &foreign);
    if (error == NULL)
        error = server->control->call(server->number, what, texts, 2 * count + 1, NULL);
    ta_leave(foreign);
    free(texts);
    return error;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerRegisterModelRepository(
    SERVER, const char *repository_path, const TRITONSERVER_Parameter **name_mapping, const uint32_t mapping_count) {
    NEEDS(repository_path);
    return call_with(server, "register", repository_path, name_mapping, mapping_count);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerUnregisterModelRepository(SERVER, const char *repository_path) {
    NEEDS(repository_path);
    return call(server, "unregister", repository_path, 0, NULL);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerPollModelRepository(SERVER) {
    return call(server, "poll", NULL, 0, NULL);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerIsLive(SERVER, bool *live) {
    return truth(server, "live", NULL, 0, live);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerIsReady(SERVER, bool *ready) {
    return truth(server, "ready", NULL, 0, ready);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerModelIsReady(
    SERVER, const char *model_name, const int64_t model_version, bool *ready) {
    NEEDS(model_name);
    return truth(server, "model_ready", model_name, model_version, ready);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerModelBatchProperties(
    SERVER, const char *model_name, const int64_t model_version, uint32_t *flags, void **voidp) {
    NEEDS(model_name);
    NEEDS(flags);
    if (voidp != NULL)
        *voidp = NULL;
    return ask(server, "batch_properties", model_name, model_version, flags);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerModelTransactionProperties(
    SERVER, const char *model_name, const int64_t model_version, uint32_t *txn_flags, void **voidp) {
    NEEDS(model_name);
    NEEDS(txn_flags);
    if (voidp != NULL)
        *voidp = NULL;
    return ask(server, "transaction_properties", model_name, model_version, txn_flags);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerMetadata(SERVER, TRITONSERVER_Message **server_metadata) {
    NEEDS(server_metadata);
    return call(server, "metadata", NULL, 0, server_metadata);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerModelMetadata(
    SERVER, const char *model_name, const int64_t model_version, TRITONSERVER_Message **model_metadata) {
    NEEDS(model_name);
    NEEDS(model_metadata);
    return call(server, "model_metadata", model_name, model_version, model_metadata);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerModelStatistics(
    SERVER, const char *model_name, const int64_t model_version, TRITONSERVER_Message **model_stats) {
    NEEDS(model_name);
    NEEDS(model_stats);
    return call(server, "statistics", model_name, model_version, model_stats);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerModelConfig(
    SERVER, const char *model_name, const int64_t model_version, const uint32_t config_version,
    TRITONSERVER_Message **model_config) {
    NEEDS(model_name);
    NEEDS(model_config);
    if (config_version != 1)
        return ta_error(
            TRITONSERVER_ERROR_INVALID_ARG, "model configuration version %u not supported, supported versions are: 1",
            config_version);
    return call(server, "config", model_name, model_version, model_config);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerModelIndex(SERVER, uint32_t flags, TRITONSERVER_Message **model_index) {
    NEEDS(model_index);
    return call(server, "index", NULL, flags, model_index);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerLoadModel(SERVER, const char *model_name) {
    NEEDS(model_name);
    return call_with(server, "load", model_name, NULL, 0);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerLoadModelWithParameters(
    SERVER, const char *model_name, const TRITONSERVER_Parameter **parameters, const uint64_t parameter_count) {
    NEEDS(model_name);
    return call_with(server, "load", model_name, parameters, parameter_count);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerUnloadModel(SERVER, const char *model_name) {
    NEEDS(model_name);
    return call(server, "unload", model_name, 0, NULL);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerUnloadModelAndDependents(SERVER, const char *model_name) {
    NEEDS(model_name);
    return call(server, "unload", model_name, 1, NULL);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerInferAsync(
    SERVER, TRITONSERVER_InferenceRequest *inference_request, TRITONSERVER_InferenceTrace *trace) {
    NEEDS(inference_request);
    TRY(ta_known(server));
    TRITONSERVER_InferenceRequest *request = inference_request;
    if (request->server != server)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "the request was made for another server");
    if (request->release == NULL)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "Missing request release callback");
    if (request->complete == NULL)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "Missing response callback");
    if (trace != NULL && trace->lent)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG,
                        "the trace of a request that is being executed is for its children alone");
    if (atomic_exchange(&request->in_flight, true))
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "the request is on its way already");
    atomic_store(&request->cancelled, false);
    atomic_fetch_add(&server->on_way, 1);
    /* While it is on its way it counts as a call. */
    TRITONSERVER_Error *error = ta_enter(server, &request->foreign);
    if (error == NULL)
        error = ta_answers_ready(server);
    if (error == NULL) {
        ta_attach_thread();
        error = server->infer->infer(server->desk, request, trace);
    }
    if (error != NULL) {
        ta_leave(request->foreign);
        request->foreign = false;
        atomic_fetch_sub(&server->on_way, 1);
        atomic_store(&request->in_flight, false);
        if (trace != NULL)
            trace->release(trace, trace->userp);
    }
    return error;
}
