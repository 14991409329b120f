/* Repository agents: what their libraries see of themselves and of the models that they are asked for. Load threads, one
 * thread at a time for a model.
 */
#define _GNU_SOURCE
#include "agent_side.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { AGENT = 0x6167656e, AGENT_MODEL = 0x61676d6f, GONE = 0x676f6e65 };

struct TRITONREPOAGENT_Agent {
    uint32_t magic;
    void *state;
};

struct TRITONREPOAGENT_AgentModel {
    uint32_t magic;
    int32_t action; /* TRITONREPOAGENT_ActionType that runs, or ran last */
    TRITONREPOAGENT_ArtifactType type;
    char *location;
    char *acquired; /* a folder of its own, or NULL */
    char *config;
    uint32_t n_parameters;
    char **names, **values;
    void *state;
};

#define IS_A(MAGIC, pointer)                                                                               \
    do {                                                                                                   \
        if ((pointer) == NULL)                                                                             \
            return ta_null(#pointer);                                                                      \
        if (*(const uint32_t *)(pointer) != MAGIC)                                                         \
            return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "argument '%s' is no such object, or one that is gone", \
                            #pointer);                                                                     \
    } while (0)

#define ARGUMENTS            \
    IS_A(AGENT, agent);      \
    IS_A(AGENT_MODEL, model)

static TRITONSERVER_Error *no_memory(void) {
    return ta_error(TRITONSERVER_ERROR_INTERNAL, "out of memory");
}

/* -- For agents */

EXPORT TRITONSERVER_Error *TRITONREPOAGENT_ModelRepositoryLocation(
    TRITONREPOAGENT_Agent *agent, TRITONREPOAGENT_AgentModel *model, TRITONREPOAGENT_ArtifactType *artifact_type,
    const char **location) {
    ARGUMENTS;
    NEEDS(artifact_type);
    NEEDS(location);
    *artifact_type = model->type;
    *location = model->location;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONREPOAGENT_ModelRepositoryLocationAcquire(
    TRITONREPOAGENT_Agent *agent, TRITONREPOAGENT_AgentModel *model, const TRITONREPOAGENT_ArtifactType artifact_type,
    const char **location) {
    ARGUMENTS;
    NEEDS(location);
    if (artifact_type != TRITONREPOAGENT_ARTIFACT_FILESYSTEM)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG,
                        "Unexpected artifact type, expects 'TRITONREPOAGENT_ARTIFACT_FILESYSTEM'");
    if (model->acquired == NULL) {
        const char *folder = getenv("TMPDIR");
        char *path;
        if (asprintf(&path, "%s/triton_async_agent_XXXXXX", folder == NULL || *folder == 0 ? "/tmp" : folder) < 0)
            return no_memory();
        if (mkdtemp(path) == NULL) {
            free(path);
            return ta_error(TRITONSERVER_ERROR_INTERNAL, "a temporary folder can not be made");
        }
        model->acquired = path;
    }
    *location = model->acquired;
    return NULL;
}

static int remove_all(int parent, const char *name);

/* What is in an open folder, which it closes. The number of those that are left. */
static int remove_entries(int folder) {
    DIR *entries = fdopendir(folder);
    int left = 0;
    if (entries == NULL) {
        close(folder);
        return 1;
    }
    for (struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            left += remove_all(folder, entry->d_name);
    closedir(entries);
    return left;
}

/* A file, or a folder with all that is in it, follows no links, and goes on where something can not be removed. Models
 * are copied with their permissions: of folders that forbid it, the owner is let in first. The number of what is left. */
static int remove_all(int parent, const char *name) {
    struct stat found;
    if (fstatat(parent, name, &found, AT_SYMLINK_NOFOLLOW) != 0)
        return 1;
    if (!S_ISDIR(found.st_mode))
        return unlinkat(parent, name, 0) != 0;
    if ((found.st_mode & S_IRWXU) != S_IRWXU)
        (void)!fchmodat(parent, name, (found.st_mode & 07777) | S_IRWXU, 0);
    int folder = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int left = folder < 0 ? 0 : remove_entries(folder);
    return left + (unlinkat(parent, name, AT_REMOVEDIR) != 0);
}

static TRITONSERVER_Error *release(TRITONREPOAGENT_AgentModel *model) {
    int left = remove_all(AT_FDCWD, model->acquired);
    free(model->acquired);
    model->acquired = NULL;
    return left == 0 ? NULL
                     : ta_error(TRITONSERVER_ERROR_INTERNAL, "a folder that was acquired can not be removed whole");
}

EXPORT TRITONSERVER_Error *TRITONREPOAGENT_ModelRepositoryLocationRelease(
    TRITONREPOAGENT_Agent *agent, TRITONREPOAGENT_AgentModel *model, const char *location) {
    ARGUMENTS;
    NEEDS(location);
    if (model->acquired == NULL || strcmp(model->acquired, location) != 0)
        return ta_error(TRITONSERVER_ERROR_UNAVAILABLE, "No mutable location to be deleted");
    return release(model);
}

EXPORT TRITONSERVER_Error *TRITONREPOAGENT_ModelRepositoryUpdate(
    TRITONREPOAGENT_Agent *agent, TRITONREPOAGENT_AgentModel *model, const TRITONREPOAGENT_ArtifactType artifact_type,
    const char *location) {
    ARGUMENTS;
    NEEDS(location);
    if (model->action != TRITONREPOAGENT_ACTION_LOAD)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG,
                        "location can only be updated during TRITONREPOAGENT_ACTION_LOAD");
    if ((unsigned)artifact_type > TRITONREPOAGENT_ARTIFACT_REMOTE_FILESYSTEM)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "unknown artifact type %d", (int)artifact_type);
    char *copy = strdup(location);
    if (copy == NULL)
        return no_memory();
    free(model->location);
    model->location = copy;
    model->type = artifact_type;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONREPOAGENT_ModelParameterCount(
    TRITONREPOAGENT_Agent *agent, TRITONREPOAGENT_AgentModel *model, uint32_t *count) {
    ARGUMENTS;
    NEEDS(count);
    *count = model->n_parameters;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONREPOAGENT_ModelParameter(
    TRITONREPOAGENT_Agent *agent, TRITONREPOAGENT_AgentModel *model, const uint32_t index, const char **parameter_name,
    const char **parameter_value) {
    ARGUMENTS;
    NEEDS(parameter_name);
    NEEDS(parameter_value);
    if (index >= model->n_parameters)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "index out of range for model parameters");
    *parameter_name = model->names[index];
    *parameter_value = model->values[index];
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONREPOAGENT_ModelConfig(
    TRITONREPOAGENT_Agent *agent, TRITONREPOAGENT_AgentModel *model, const uint32_t config_version,
    TRITONSERVER_Message **model_config) {
    ARGUMENTS;
    NEEDS(model_config);
    if (config_version != 1)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG,
                        "model configuration version %u not supported, supported versions are: 1", config_version);
    *model_config = ta_message_new(model->config, strlen(model->config));
    return *model_config == NULL ? no_memory() : NULL;
}

EXPORT TRITONSERVER_Error *TRITONREPOAGENT_ModelState(TRITONREPOAGENT_AgentModel *model, void **state) {
    IS_A(AGENT_MODEL, model);
    NEEDS(state);
    *state = model->state;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONREPOAGENT_ModelSetState(TRITONREPOAGENT_AgentModel *model, void *state) {
    IS_A(AGENT_MODEL, model);
    model->state = state;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONREPOAGENT_State(TRITONREPOAGENT_Agent *agent, void **state) {
    IS_A(AGENT, agent);
    NEEDS(state);
    *state = agent->state;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONREPOAGENT_SetState(TRITONREPOAGENT_Agent *agent, void *state) {
    IS_A(AGENT, agent);
    agent->state = state;
    return NULL;
}

/* -- For the server */

EXPORT TRITONREPOAGENT_Agent *ta_agent_new(void) {
    TRITONREPOAGENT_Agent *agent = calloc(1, sizeof(*agent));
    if (agent != NULL)
        agent->magic = AGENT;
    return agent;
}

EXPORT void ta_agent_free(TRITONREPOAGENT_Agent *agent) {
    agent->magic = GONE;
    free(agent);
}

EXPORT TRITONREPOAGENT_AgentModel *ta_agent_model_new(
    const char *location, int32_t type, const char *config, uint32_t count, const char *const *names,
    const char *const *values) {
    TRITONREPOAGENT_AgentModel *model = calloc(1, sizeof(*model));
    if (model == NULL)
        return NULL;
    model->magic = AGENT_MODEL;
    model->action = TRITONREPOAGENT_ACTION_LOAD;
    model->type = (TRITONREPOAGENT_ArtifactType)type;
    model->location = strdup(location);
    model->config = strdup(config);
    model->names = calloc((size_t)count + 1, sizeof(char *));
    model->values = calloc((size_t)count + 1, sizeof(char *));
    int whole = model->location != NULL && model->config != NULL && model->names != NULL && model->values != NULL;
    for (uint32_t i = 0; whole && i < count; i++) {
        model->names[i] = strdup(names[i]);
        model->values[i] = strdup(values[i]);
        model->n_parameters = i + 1;
        whole = model->names[i] != NULL && model->values[i] != NULL;
    }
    if (whole)
        return model;
    TRITONSERVER_ErrorDelete(ta_agent_model_free(model));
    return NULL;
}

EXPORT void ta_agent_model_begin(TRITONREPOAGENT_AgentModel *model, int32_t action) {
    model->action = action;
}

EXPORT const char *ta_agent_model_location(const TRITONREPOAGENT_AgentModel *model, int32_t *type) {
    *type = (int32_t)model->type;
    return model->location;
}

EXPORT TRITONSERVER_Error *ta_agent_model_free(TRITONREPOAGENT_AgentModel *model) {
    TRITONSERVER_Error *error = model->acquired == NULL ? NULL : release(model);
    for (uint32_t i = 0; i < model->n_parameters; i++) {
        free(model->names[i]);
        free(model->values[i]);
    }
    free(model->names);
    free(model->values);
    free(model->location);
    free(model->config);
    model->magic = GONE;
    free(model);
    return error;
}
