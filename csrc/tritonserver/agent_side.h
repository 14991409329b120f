/* What the server asks of a repository agent's library, through libtritonserver.so (triton_async.core.native_agents). */
#ifndef TRITON_ASYNC_AGENT_SIDE_H
#define TRITON_ASYNC_AGENT_SIDE_H

#include "internal.h"
#include "triton/core/tritonrepoagent.h"

/* NULL without memory. */
TRITONREPOAGENT_Agent *ta_agent_new(void);
void ta_agent_free(TRITONREPOAGENT_Agent *agent);

/* A model, for one agent and one load of it. `type`: TRITONREPOAGENT_ArtifactType. Copies all that it is given. NULL
 * without memory. */
TRITONREPOAGENT_AgentModel *ta_agent_model_new(
    const char *location, int32_t type, const char *config, uint32_t count, const char *const *names,
    const char *const *values);
/* ModelAction is called next. */
void ta_agent_model_begin(TRITONREPOAGENT_AgentModel *model, int32_t action);
/* Where its files are now. */
const char *ta_agent_model_location(const TRITONREPOAGENT_AgentModel *model, int32_t *type);
/* Removes the folder that the agent has acquired and not released, too: an error when it cannot be removed. */
TRITONSERVER_Error *ta_agent_model_free(TRITONREPOAGENT_AgentModel *model);

#endif
