/* How the engine makes and frees backends, models and instances, and the table by which it reaches the library. */
#define _GNU_SOURCE
#include "backend_side.h"

#include <stdlib.h>
#include <string.h>

static void register_calls(const ta_backend_calls *calls) {
    ta_calls = calls;
}

static TRITONSERVER_Message *message_of(const char *json) {
    return ta_message_new(json, strlen(json));
}

static void backend_free(TRITONBACKEND_Backend *backend) {
    if (backend == NULL)
        return;
    for (uint32_t i = 0; i < backend->attributes.n_groups; i++)
        free(backend->attributes.groups[i].devices);
    free(backend->attributes.groups);
    free(backend->name);
    free(backend->location);
    free(backend->config);
    backend->magic = backend->attributes.magic = TA_MAGIC_GONE;
    free(backend);
}

static TRITONBACKEND_Backend *backend_new(const char *name, const char *location, const char *config) {
    TRITONBACKEND_Backend *backend = calloc(1, sizeof(*backend));
    if (backend == NULL)
        return NULL;
    backend->magic = TA_MAGIC_BACKEND;
    backend->attributes.magic = TA_MAGIC_ATTRIBUTES;
    backend->memory.backend = backend;
    backend->name = strdup(name);
    backend->location = strdup(location);
    backend->config = message_of(config);
    if (backend->name != NULL && backend->location != NULL && backend->config != NULL)
        return backend;
    backend_free(backend);
    return NULL;
}

static void free_specs(ta_spec *specs, int32_t count) {
    for (int32_t i = 0; specs != NULL && i < count; i++)
        free(specs[i].name);
    free(specs);
}

static void model_drop(TRITONBACKEND_Model *model) {
    if (atomic_fetch_sub(&model->refs, 1) != 1)
        return;
    free_specs(model->inputs, model->n_inputs);
    free_specs(model->outputs, model->n_outputs);
    free(model->name);
    free(model->location);
    free(model->config);
    free(model);
}

static void model_free(TRITONBACKEND_Model *model) {
    if (model == NULL)
        return;
    model->magic = TA_MAGIC_GONE;
    model_drop(model);
}

static TRITONBACKEND_Model *model_new(TRITONBACKEND_Backend *backend, const char *name, uint64_t version,
                                      const char *location, const char *config, int auto_complete) {
    TRITONBACKEND_Model *model = calloc(1, sizeof(*model));
    if (model == NULL)
        return NULL;
    model->magic = TA_MAGIC_MODEL;
    model->refs = 1;
    model->backend = backend;
    model->version = version;
    model->auto_complete = auto_complete;
    model->name = strdup(name);
    model->location = strdup(location);
    model->config = message_of(config);
    if (model->name != NULL && model->location != NULL && model->config != NULL)
        return model;
    model_free(model);
    return NULL;
}

static int model_set_config(TRITONBACKEND_Model *model, const char *config) {
    TRITONSERVER_Message *message = message_of(config);
    if (message == NULL)
        return -1;
    free(model->config);
    model->config = message;
    return 0;
}

/* Room for what the engine fills. */
static int model_set_specs(TRITONBACKEND_Model *model, int32_t n_inputs, int32_t n_outputs) {
    model->inputs = calloc((size_t)n_inputs + 1, sizeof(ta_spec));
    model->outputs = calloc((size_t)n_outputs + 1, sizeof(ta_spec));
    if (model->inputs == NULL || model->outputs == NULL)
        return -1;
    model->n_inputs = n_inputs;
    model->n_outputs = n_outputs;
    return 0;
}

static void free_strings(char **strings, uint32_t count) {
    for (uint32_t i = 0; strings != NULL && i < count; i++)
        free(strings[i]);
    free(strings);
}

void ta_instance_drop(TRITONBACKEND_ModelInstance *instance) {
    if (atomic_fetch_sub(&instance->refs, 1) != 1)
        return;
    ta_executions_free(instance);
    free_strings(instance->profiles, instance->n_profiles);
    free_strings(instance->secondary_kinds, instance->n_secondary);
    free(instance->secondary_ids);
    free(instance->name);
    free(instance->host_policy);
    pthread_mutex_destroy(&instance->lock);
    model_drop(instance->model);
    free(instance);
}

static void instance_free(TRITONBACKEND_ModelInstance *instance) {
    if (instance == NULL)
        return;
    ta_executions_abandon(instance);
    instance->magic = TA_MAGIC_GONE;
    ta_instance_drop(instance);
}

static TRITONBACKEND_ModelInstance *instance_new(TRITONBACKEND_Model *model, const char *name, int32_t kind,
                                                 int32_t device_id, const char *host_policy) {
    TRITONBACKEND_ModelInstance *instance = calloc(1, sizeof(*instance));
    if (instance == NULL)
        return NULL;
    instance->magic = TA_MAGIC_INSTANCE;
    instance->refs = 1;
    instance->model = model;
    atomic_fetch_add(&model->refs, 1);
    instance->kind = kind;
    instance->device_id = device_id;
    pthread_mutex_init(&instance->lock, NULL);
    instance->name = strdup(name);
    instance->host_policy = message_of(host_policy);
    if (instance->name != NULL && instance->host_policy != NULL)
        return instance;
    instance_free(instance);
    return NULL;
}

static char **copies(const char *const *strings, uint32_t count) {
    char **made = calloc((size_t)count + 1, sizeof(char *));
    for (uint32_t i = 0; made != NULL && i < count; i++) {
        made[i] = strdup(strings[i]);
        if (made[i] == NULL) {
            free_strings(made, i);
            return NULL;
        }
    }
    return made;
}

static int instance_set_lists(TRITONBACKEND_ModelInstance *instance, const char *const *profiles, uint32_t n_profiles,
                              const char *const *kinds, const int64_t *ids, uint32_t n_secondary) {
    instance->profiles = copies(profiles, n_profiles);
    instance->n_profiles = instance->profiles == NULL ? 0 : n_profiles;
    instance->secondary_kinds = copies(kinds, n_secondary);
    instance->n_secondary = instance->secondary_kinds == NULL ? 0 : n_secondary;
    instance->secondary_ids = calloc((size_t)n_secondary + 1, sizeof(int64_t));
    if (instance->profiles == NULL || instance->secondary_kinds == NULL || instance->secondary_ids == NULL)
        return -1;
    memcpy(instance->secondary_ids, ids, n_secondary * sizeof(int64_t));
    return 0;
}

EXPORT const ta_backend_side *ta_backend_side_table(void) {
    static const ta_backend_side TABLE = {
        .register_calls = register_calls,
        .backend_new = backend_new,
        .backend_free = backend_free,
        .model_new = model_new,
        .model_set_config = model_set_config,
        .model_set_specs = model_set_specs,
        .model_free = model_free,
        .instance_new = instance_new,
        .instance_set_lists = instance_set_lists,
        .instance_free = instance_free,
        .begin = ta_execution_begin,
        .end = ta_execution_end,
        .flush = ta_execution_flush,
        .response_free = ta_response_free,
        .lease_drop = ta_lease_drop,
        .error_new = TRITONSERVER_ErrorNew,
        .error_delete = TRITONSERVER_ErrorDelete,
        .parameter_new = TRITONSERVER_ParameterNew,
        .trace_of = ta_trace_of,
        .peek_new = ta_peek_new,
        .peek_clear = ta_peek_clear,
        .peek_free = ta_peek_free,
    };
    return &TABLE;
}
