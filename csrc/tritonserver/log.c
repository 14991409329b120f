/* The log: lines of native code, and the callback that a program may have for all lines. Any thread. */
#define _GNU_SOURCE
#include "bridge.h"
#include "server.h"

#include <time.h>

static const ta_process_calls *_Atomic process;
/* Until the server's side says otherwise, as that has it: all but verbose ones. */
static _Atomic uint32_t log_levels = 1 << TRITONSERVER_LOG_INFO | 1 << TRITONSERVER_LOG_WARN | 1 << TRITONSERVER_LOG_ERROR;
static _Atomic int32_t writing; /* threads that are in a call of `process` */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    TRITONSERVER_LogCallbackFn_t call;
    void *userp;
} callback;

EXPORT void ta_register_process(const ta_process_calls *calls) {
    atomic_store(&process, calls);
    if (calls == NULL)
        while (atomic_load(&writing) != 0)
            nanosleep(&(struct timespec){0, 50000}, NULL);
}

EXPORT void ta_set_log_levels(uint32_t levels) {
    atomic_store_explicit(&log_levels, levels, memory_order_relaxed);
}

EXPORT bool ta_call_back_log(int32_t level, const char *file, int32_t line, uint64_t unix_us, const char *text) {
    pthread_mutex_lock(&lock);
    TRITONSERVER_LogCallbackFn_t call = callback.call;
    void *userp = callback.userp;
    pthread_mutex_unlock(&lock);
    if (call == NULL)
        return false;
    call((TRITONSERVER_LogLevel)level, file, line, unix_us, text, userp);
    return true;
}

/* The process's, not the options': it is in force at once, and until it is replaced. */
EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetLogCallback(
    TRITONSERVER_ServerOptions *options, TRITONSERVER_LogCallbackFn_t log_callback, void *userp) {
    (void)options;
    pthread_mutex_lock(&lock);
    callback.call = log_callback;
    callback.userp = userp;
    pthread_mutex_unlock(&lock);
    return NULL;
}

EXPORT bool TRITONSERVER_LogIsEnabled(TRITONSERVER_LogLevel level) {
    return (unsigned)level < 32 && (atomic_load_explicit(&log_levels, memory_order_relaxed) >> level & 1) != 0;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_LogMessage(
    TRITONSERVER_LogLevel level, const char *filename, const int line, const char *msg) {
    NEEDS(msg);
    if ((unsigned)level > TRITONSERVER_LOG_VERBOSE)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "unknown logging level '%d'", (int)level);
    if (!TRITONSERVER_LogIsEnabled(level))
        return NULL;
    const char *file = filename == NULL ? "" : filename;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (ta_call_back_log(level, file, line, (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000, msg))
        return NULL;
    atomic_fetch_add(&writing, 1);
    const ta_process_calls *calls = atomic_load(&process);
    if (calls != NULL)
        calls->log(level, file, line, msg);
    atomic_fetch_sub(&writing, 1);
    return NULL;
}
