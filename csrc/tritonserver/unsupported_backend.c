/* Functions of TRITONREPOAGENT_* that are not there: each returns an error that says so.
 *
 * Without the public headers, since none of them looks at its arguments.
 */
typedef struct TRITONSERVER_Error TRITONSERVER_Error;
TRITONSERVER_Error *TRITONSERVER_ErrorNew(int code, const char *msg);

#define UNSUPPORTED(name)                                                          \
    __attribute__((visibility("default"))) TRITONSERVER_Error *name(void) {        \
        return TRITONSERVER_ErrorNew(5, #name " is not supported by this server"); \
    }

UNSUPPORTED(TRITONREPOAGENT_ModelConfig)
UNSUPPORTED(TRITONREPOAGENT_ModelParameter)
UNSUPPORTED(TRITONREPOAGENT_ModelParameterCount)
UNSUPPORTED(TRITONREPOAGENT_ModelRepositoryLocation)
UNSUPPORTED(TRITONREPOAGENT_ModelRepositoryLocationAcquire)
UNSUPPORTED(TRITONREPOAGENT_ModelRepositoryLocationRelease)
UNSUPPORTED(TRITONREPOAGENT_ModelRepositoryUpdate)
UNSUPPORTED(TRITONREPOAGENT_ModelSetState)
UNSUPPORTED(TRITONREPOAGENT_ModelState)
UNSUPPORTED(TRITONREPOAGENT_SetState)
UNSUPPORTED(TRITONREPOAGENT_State)
