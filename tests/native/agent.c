/* A repository agent that does what the parameter `do` of its model says, and writes down what it is called for.
 *
 * Each line of the file that the environment names AGENT_JOURNAL: the parameter `tag`, and a function or an action.
 */
#define _GNU_SOURCE
#include "triton/core/tritonrepoagent.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TRY(call)                         \
    do {                                  \
        TRITONSERVER_Error *err = (call); \
        if (err != NULL)                  \
            return err;                   \
    } while (0)

static void note(const char *who, const char *what) {
    const char *path = getenv("AGENT_JOURNAL");
    FILE *file = path == NULL ? NULL : fopen(path, "a");
    if (file == NULL)
        return;
    fprintf(file, "%s %s\n", who, what);
    fclose(file);
}

static TRITONSERVER_Error *fault(const char *text) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INVALID_ARG, text);
}

static const char *parameter(TRITONREPOAGENT_Agent *agent, TRITONREPOAGENT_AgentModel *model, const char *wanted) {
    uint32_t count = 0;
    TRITONREPOAGENT_ModelParameterCount(agent, model, &count);
    for (uint32_t i = 0; i < count; i++) {
        const char *name, *value;
        if (TRITONREPOAGENT_ModelParameter(agent, model, i, &name, &value) == NULL && strcmp(name, wanted) == 0)
            return value;
    }
    return "";
}

/* Until the file is there that the environment names AGENT_GATE. */
static void hang(const char *who) {
    note(who, "hangs");
    while (access(getenv("AGENT_GATE"), F_OK) != 0)
        usleep(20000);
}

#ifdef HANG_LOADED
__attribute__((constructor)) static void loaded(void) {
    hang("loaded");
}
#endif

TRITONSERVER_Error *TRITONREPOAGENT_Initialize(TRITONREPOAGENT_Agent *agent) {
    uint32_t major, minor;
    TRY(TRITONREPOAGENT_ApiVersion(&major, &minor));
    note("-", "Initialize");
#ifdef HANG_INITIALIZE
    hang("initialize");
#endif
#ifdef FAIL_INITIALIZE
    return fault("the agent does not want to");
#else
    return TRITONREPOAGENT_SetState(agent, (void *)"mine");
#endif
}

TRITONSERVER_Error *TRITONREPOAGENT_Finalize(TRITONREPOAGENT_Agent *agent) {
    void *state;
    TRY(TRITONREPOAGENT_State(agent, &state));
    note("-", state == NULL ? "Finalize without" : "Finalize");
    return NULL;
}

TRITONSERVER_Error *
TRITONREPOAGENT_ModelInitialize(TRITONREPOAGENT_Agent *agent, TRITONREPOAGENT_AgentModel *model) {
    TRITONSERVER_Message *config;
    const char *json;
    size_t size;
    TRY(TRITONREPOAGENT_ModelConfig(agent, model, 1, &config));
    TRY(TRITONSERVER_MessageSerializeToJson(config, &json, &size));
    note(parameter(agent, model, "tag"), strstr(json, "max_batch_size") != NULL ? "ModelInitialize" : "no config");
    TRITONSERVER_MessageDelete(config);
    if (strcmp(parameter(agent, model, "do"), "fail_model") == 0)
        return fault("the agent does not want this model");
    return NULL;
}

TRITONSERVER_Error *TRITONREPOAGENT_ModelFinalize(TRITONREPOAGENT_Agent *agent, TRITONREPOAGENT_AgentModel *model) {
    note(parameter(agent, model, "tag"), "ModelFinalize");
    return NULL;
}

/* A copy of the model elsewhere, of which the config says another thing. */
static TRITONSERVER_Error *move(TRITONREPOAGENT_Agent *agent, TRITONREPOAGENT_AgentModel *model) {
    TRITONREPOAGENT_ArtifactType type;
    const char *from, *to;
    char command[4096];
    TRY(TRITONREPOAGENT_ModelRepositoryLocation(agent, model, &type, &from));
    if (type != TRITONREPOAGENT_ARTIFACT_FILESYSTEM)
        return fault("the model is elsewhere");
    TRITONSERVER_Error *error = TRITONREPOAGENT_ModelRepositoryLocationAcquire(
        agent, model, TRITONREPOAGENT_ARTIFACT_REMOTE_FILESYSTEM, &to);
    note(parameter(agent, model, "tag"), error == NULL ? "remote" : TRITONSERVER_ErrorMessage(error));
    TRITONSERVER_ErrorDelete(error);
    TRY(TRITONREPOAGENT_ModelRepositoryLocationAcquire(agent, model, TRITONREPOAGENT_ARTIFACT_FILESYSTEM, &to));
    note(parameter(agent, model, "tag"), to);
    snprintf(command, sizeof(command), "cp -r '%s/.' '%s' && sed -i 's/max_batch_size: 4/max_batch_size: 7/' '%s/config.pbtxt'",
             from, to, to);
    if (system(command) != 0)
        return fault("the copy failed");
    return TRITONREPOAGENT_ModelRepositoryUpdate(agent, model, TRITONREPOAGENT_ARTIFACT_FILESYSTEM, to);
}

TRITONSERVER_Error *TRITONREPOAGENT_ModelAction(
    TRITONREPOAGENT_Agent *agent, TRITONREPOAGENT_AgentModel *model, const TRITONREPOAGENT_ActionType action) {
    static const char *const NAMES[] = {"LOAD", "LOAD_COMPLETE", "LOAD_FAIL", "UNLOAD", "UNLOAD_COMPLETE"};
    const char *what = parameter(agent, model, "do"), *tag = parameter(agent, model, "tag");
    note(tag, NAMES[action]);
    if (strcmp(what, "hang") == 0 && strcmp(parameter(agent, model, "at"), NAMES[action]) == 0)
        hang(tag);
    if (action != TRITONREPOAGENT_ACTION_LOAD) {
        TRITONSERVER_Error *error =
            TRITONREPOAGENT_ModelRepositoryUpdate(agent, model, TRITONREPOAGENT_ARTIFACT_FILESYSTEM, "/tmp");
        if (error == NULL)
            note(tag, "moved too late");
        TRITONSERVER_ErrorDelete(error);
        return strcmp(what, "complain") == 0 ? fault("it always complains") : NULL;
    }
    if (strcmp(what, "refuse") == 0)
        return fault("the agent refuses the model");
    if (strcmp(what, "move") == 0)
        return move(agent, model);
    if (strcmp(what, "nowhere") == 0)
        return TRITONREPOAGENT_ModelRepositoryUpdate(
            agent, model, TRITONREPOAGENT_ARTIFACT_FILESYSTEM, "/there/is/nothing");
    if (strcmp(what, "bucket") == 0)
        return TRITONREPOAGENT_ModelRepositoryUpdate(
            agent, model, TRITONREPOAGENT_ARTIFACT_REMOTE_FILESYSTEM, parameter(agent, model, "where"));
    if (strcmp(what, "release") == 0) {
        const char *to;
        TRY(TRITONREPOAGENT_ModelRepositoryLocationAcquire(agent, model, TRITONREPOAGENT_ARTIFACT_FILESYSTEM, &to));
        char *copy = strdup(to);
        TRY(TRITONREPOAGENT_ModelRepositoryLocationRelease(agent, model, to));
        note(tag, access(copy, F_OK) == 0 ? "left behind" : "removed");
        TRITONSERVER_Error *error = TRITONREPOAGENT_ModelRepositoryLocationRelease(agent, model, copy);
        note(tag, error == NULL ? "released twice" : TRITONSERVER_ErrorMessage(error));
        TRITONSERVER_ErrorDelete(error);
        free(copy);
    }
    return NULL;
}
