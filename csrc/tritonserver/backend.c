/* Backends, models and instances as a backend's library sees them. */
#define _GNU_SOURCE
#include "backend_side.h"

#include <stdlib.h>
#include <string.h>

const ta_backend_calls *ta_calls;

TRITONSERVER_Error *ta_not_a(const char *what) {
    return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "argument '%s' is no such object, or one that is gone", what);
}

/* A getter of a field. */
#define GETTER(Function, MAGIC, Object, object, type, name, value) \
    EXPORT TRITONSERVER_Error *Function(Object *object, type *name) { \
        NEEDS_A(MAGIC, object);                                       \
        NEEDS(name);                                                  \
        *name = (value);                                              \
        return NULL;                                                  \
    }

/* A getter and a setter of the pointer that is the library's own. */
#define OWN_STATE(Object_, MAGIC, Object, object)                                                 \
    GETTER(TRITONBACKEND_##Object_##State, MAGIC, Object, object, void *, state, object->state)   \
    EXPORT TRITONSERVER_Error *TRITONBACKEND_##Object_##SetState(Object *object, void *state) {   \
        NEEDS_A(MAGIC, object);                                                                   \
        object->state = state;                                                                    \
        return NULL;                                                                              \
    }

/* -- Backend */

GETTER(TRITONBACKEND_BackendName, BACKEND, TRITONBACKEND_Backend, backend, const char *, name, backend->name)
GETTER(TRITONBACKEND_BackendConfig, BACKEND, TRITONBACKEND_Backend, backend, TRITONSERVER_Message *, backend_config,
       backend->config)
GETTER(TRITONBACKEND_BackendExecutionPolicy, BACKEND, TRITONBACKEND_Backend, backend, TRITONBACKEND_ExecutionPolicy,
       policy, backend->policy)
GETTER(TRITONBACKEND_BackendMemoryManager, BACKEND, TRITONBACKEND_Backend, backend, TRITONBACKEND_MemoryManager *,
       manager, &backend->memory)
OWN_STATE(Backend, BACKEND, TRITONBACKEND_Backend, backend)

EXPORT TRITONSERVER_Error *TRITONBACKEND_BackendSetExecutionPolicy(
    TRITONBACKEND_Backend *backend, TRITONBACKEND_ExecutionPolicy policy) {
    NEEDS_A(BACKEND, backend);
    if ((unsigned)policy > TRITONBACKEND_EXECUTION_DEVICE_BLOCKING)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "unknown execution policy %d", (int)policy);
    if (!backend->initialising)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "the execution policy of backend '%s' can only be set in "
                        "TRITONBACKEND_Initialize", backend->name);
    backend->policy = policy;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_BackendArtifacts(
    TRITONBACKEND_Backend *backend, TRITONBACKEND_ArtifactType *artifact_type, const char **location) {
    NEEDS_A(BACKEND, backend);
    NEEDS(artifact_type);
    NEEDS(location);
    *artifact_type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
    *location = backend->location;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
    TRITONBACKEND_BackendAttribute *backend_attributes, const TRITONSERVER_InstanceGroupKind kind,
    const uint64_t count, const uint64_t *device_ids, const uint64_t id_count) {
    NEEDS_A(ATTRIBUTES, backend_attributes);
    if ((unsigned)kind > TRITONSERVER_INSTANCEGROUPKIND_MODEL || id_count > 4096)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "no instance group can be of kind %d on %llu devices",
                        (int)kind, (unsigned long long)id_count);
    ta_preferred_group group = {.kind = kind, .count = count};
    if (device_ids != NULL && id_count > 0) {
        group.devices = calloc(id_count, sizeof(uint64_t));
        if (group.devices == NULL)
            return ta_error(TRITONSERVER_ERROR_INTERNAL, "out of memory");
        memcpy(group.devices, device_ids, id_count * sizeof(uint64_t));
        group.n_devices = id_count;
    }
    ta_preferred_group *groups =
        realloc(backend_attributes->groups, (backend_attributes->n_groups + 1) * sizeof(group));
    if (groups == NULL) {
        free(group.devices);
        return ta_error(TRITONSERVER_ERROR_INTERNAL, "out of memory");
    }
    groups[backend_attributes->n_groups++] = group;
    backend_attributes->groups = groups;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(
    TRITONBACKEND_BackendAttribute *backend_attributes, bool enabled) {
    NEEDS_A(ATTRIBUTES, backend_attributes);
    backend_attributes->parallel_loading = enabled;
    return NULL;
}

/* -- Memory */

EXPORT TRITONSERVER_Error *TRITONBACKEND_MemoryManagerAllocate(
    TRITONBACKEND_MemoryManager *manager, void **buffer, const TRITONSERVER_MemoryType memory_type,
    const int64_t memory_type_id, const uint64_t byte_size) {
    NEEDS(manager);
    NEEDS(buffer);
    if (memory_type == TRITONSERVER_MEMORY_CPU) {
        *buffer = malloc(byte_size == 0 ? 1 : byte_size);
        return *buffer != NULL ? NULL
                               : ta_error(TRITONSERVER_ERROR_UNAVAILABLE, "cannot allocate %llu bytes of CPU memory",
                                          (unsigned long long)byte_size);
    }
    return ta_calls->allocate(manager->backend, buffer, memory_type, memory_type_id, byte_size);
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_MemoryManagerFree(
    TRITONBACKEND_MemoryManager *manager, void *buffer, const TRITONSERVER_MemoryType memory_type,
    const int64_t memory_type_id) {
    (void)memory_type_id;
    NEEDS(manager);
    if (memory_type == TRITONSERVER_MEMORY_CPU) {
        free(buffer);
        return NULL;
    }
    return buffer == NULL ? NULL : ta_calls->free(manager->backend, buffer, memory_type);
}

/* -- Model */

GETTER(TRITONBACKEND_ModelName, MODEL, TRITONBACKEND_Model, model, const char *, name, model->name)
GETTER(TRITONBACKEND_ModelVersion, MODEL, TRITONBACKEND_Model, model, uint64_t, version, model->version)
GETTER(TRITONBACKEND_ModelBackend, MODEL, TRITONBACKEND_Model, model, TRITONBACKEND_Backend *, backend,
       model->backend)
GETTER(TRITONBACKEND_ModelAutoCompleteConfig, MODEL, TRITONBACKEND_Model, model, bool, auto_complete_config,
       model->auto_complete != 0)
OWN_STATE(Model, MODEL, TRITONBACKEND_Model, model)

EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelRepository(
    TRITONBACKEND_Model *model, TRITONBACKEND_ArtifactType *artifact_type, const char **location) {
    NEEDS_A(MODEL, model);
    NEEDS(artifact_type);
    NEEDS(location);
    *artifact_type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
    *location = model->location;
    return NULL;
}

static TRITONSERVER_Error *check_config_version(uint32_t config_version) {
    return config_version == 1 ? NULL
                               : ta_error(TRITONSERVER_ERROR_INVALID_ARG,
                                          "model configuration version %u not supported, supported versions are: 1",
                                          config_version);
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelConfig(
    TRITONBACKEND_Model *model, const uint32_t config_version, TRITONSERVER_Message **model_config) {
    NEEDS_A(MODEL, model);
    NEEDS(model_config);
    TRITONSERVER_Error *error = check_config_version(config_version);
    if (error != NULL)
        return error;
    *model_config = ta_message_new(model->config->json, model->config->nbytes);
    return *model_config == NULL ? ta_error(TRITONSERVER_ERROR_INTERNAL, "out of memory") : NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelSetConfig(
    TRITONBACKEND_Model *model, const uint32_t config_version, TRITONSERVER_Message *model_config) {
    NEEDS_A(MODEL, model);
    NEEDS(model_config);
    TRITONSERVER_Error *error = check_config_version(config_version);
    if (error != NULL)
        return error;
    if (!model->initialising)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "the configuration of model '%s' can only be set in "
                        "TRITONBACKEND_ModelInitialize", model->name);
    return ta_calls->set_config(model, model_config->json, model_config->nbytes);
}

GETTER(TRITONBACKEND_ModelServer, MODEL, TRITONBACKEND_Model, model, TRITONSERVER_Server *, server, model->server)

EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelReportMemoryUsage(
    TRITONBACKEND_Model *model, TRITONSERVER_BufferAttributes **usage, uint32_t usage_size) {
    NEEDS_A(MODEL, model);
    if (usage_size > 0)
        NEEDS(usage);
    ta_calls->memory_usage(model, NULL, usage, usage_size);
    return NULL;
}

/* -- Instance */

#define INSTANCE_GETTER(Name, type, name, value) \
    GETTER(TRITONBACKEND_ModelInstance##Name, INSTANCE, TRITONBACKEND_ModelInstance, instance, type, name, value)

INSTANCE_GETTER(Name, const char *, name, instance->name)
INSTANCE_GETTER(Kind, TRITONSERVER_InstanceGroupKind, kind, (TRITONSERVER_InstanceGroupKind)instance->kind)
INSTANCE_GETTER(DeviceId, int32_t, device_id, instance->device_id)
INSTANCE_GETTER(HostPolicy, TRITONSERVER_Message *, host_policy, instance->host_policy)
INSTANCE_GETTER(IsPassive, bool, is_passive, instance->passive != 0)
INSTANCE_GETTER(ProfileCount, uint32_t, count, instance->n_profiles)
INSTANCE_GETTER(SecondaryDeviceCount, uint32_t, count, instance->n_secondary)
INSTANCE_GETTER(Model, TRITONBACKEND_Model *, model, instance->model)
OWN_STATE(ModelInstance, INSTANCE, TRITONBACKEND_ModelInstance, instance)

static TRITONSERVER_Error *out_of_range(const char *what, uint32_t index, uint32_t count) {
    return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "out of bounds index %u, %u %s are defined", index, count, what);
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelInstanceProfileName(
    TRITONBACKEND_ModelInstance *instance, const uint32_t index, const char **profile_name) {
    NEEDS_A(INSTANCE, instance);
    NEEDS(profile_name);
    if (index >= instance->n_profiles)
        return out_of_range("profiles", index, instance->n_profiles);
    *profile_name = instance->profiles[index];
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelInstanceSecondaryDeviceProperties(
    TRITONBACKEND_ModelInstance *instance, uint32_t index, const char **kind, int64_t *id) {
    NEEDS_A(INSTANCE, instance);
    NEEDS(kind);
    NEEDS(id);
    if (index >= instance->n_secondary)
        return out_of_range("secondary devices", index, instance->n_secondary);
    *kind = instance->secondary_kinds[index];
    *id = instance->secondary_ids[index];
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelInstanceReportMemoryUsage(
    TRITONBACKEND_ModelInstance *instance, TRITONSERVER_BufferAttributes **usage, uint32_t usage_size) {
    NEEDS_A(INSTANCE, instance);
    if (usage_size > 0)
        NEEDS(usage);
    ta_calls->memory_usage(instance->model, instance, usage, usage_size);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelInstanceReportStatistics(
    TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request *request, const bool success,
    const uint64_t exec_start_ns, const uint64_t compute_start_ns, const uint64_t compute_end_ns,
    const uint64_t exec_end_ns) {
    (void)success; /* as its response says */
    (void)exec_start_ns;
    (void)exec_end_ns;
    NEEDS_A(INSTANCE, instance);
    NEEDS_A(REQUEST, request);
    /* The times of a request are those of its batch, which a backend reports behind its requests. */
    if (success && atomic_load_explicit(&instance->compute_start_ns, memory_order_relaxed) == 0) {
        atomic_store_explicit(&instance->compute_start_ns, (int64_t)compute_start_ns, memory_order_relaxed);
        atomic_store_explicit(&instance->compute_end_ns, (int64_t)compute_end_ns, memory_order_relaxed);
    }
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONBACKEND_ModelInstanceReportBatchStatistics(
    TRITONBACKEND_ModelInstance *instance, const uint64_t batch_size, const uint64_t exec_start_ns,
    const uint64_t compute_start_ns, const uint64_t compute_end_ns, const uint64_t exec_end_ns) {
    (void)batch_size;
    (void)exec_start_ns;
    (void)exec_end_ns;
    NEEDS_A(INSTANCE, instance);
    atomic_store_explicit(&instance->compute_start_ns, (int64_t)compute_start_ns, memory_order_relaxed);
    atomic_store_explicit(&instance->compute_end_ns, (int64_t)compute_end_ns, memory_order_relaxed);
    return NULL;
}
