/* The server as models of backends have it (TRITONBACKEND_ModelServer): it takes requests and questions, and is neither
 * stopped nor deleted by them. One for each model, made and ended by the engine `capi`.
 */
#include "server.h"

#include <stdlib.h>

static TRITONSERVER_Server *inner_new(
    const ta_control_calls *control, const ta_infer_calls *infer, uint64_t number, void *desk) {
    TRITONSERVER_Server *server = calloc(1, sizeof(*server));
    if (server == NULL)
        return NULL;
    server->inner = true;
    server->control = control;
    server->infer = infer;
    server->number = number;
    server->desk = desk;
    ta_answers_prepare(server);
    ta_enlist(server);
    return server;
}

/* From here on it is unknown to whoever uses it. */
static void inner_close(TRITONSERVER_Server *server) {
    ta_forget(server);
}

/* Behind the last of its requests. Waits for its callbacks. */
static void inner_free(TRITONSERVER_Server *server) {
    ta_answers_stop(server);
    free(server);
}

EXPORT const ta_inner_side *ta_inner_side_table(void) {
    static const ta_inner_side TABLE = {inner_new, ta_answers_await, inner_close, inner_free};
    return &TABLE;
}
