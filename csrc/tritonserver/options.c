/* TRITONSERVER_ServerOptions: a list of options of the command line, which the server's own parser reads. Any thread, one
 * at a time. */
#define _GNU_SOURCE
#include "server.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct TRITONSERVER_ServerOptions {
    size_t n_texts, room;
    ta_text *texts; /* `--name=value`, or a word for what the command line has no option for */
};

TRITONSERVER_Error *ta_no_memory(void) {
    return ta_error(TRITONSERVER_ERROR_INTERNAL, "out of memory");
}

bool ta_room(void *array, size_t *room, size_t count, size_t nbytes) {
    void **place = array;
    if (count < *room)
        return true;
    size_t more = *room == 0 ? 4 : *room * 2;
    void *grown = realloc(*place, more * nbytes);
    if (grown == NULL)
        return false;
    *place = grown;
    *room = more;
    return true;
}

__attribute__((format(printf, 2, 3))) static TRITONSERVER_Error *
add(TRITONSERVER_ServerOptions *options, const char *format, ...) {
    NEEDS(options);
    char *text;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    OUT_OF_MEMORY_IF(length < 0);
    if (!ta_room(&options->texts, &options->room, options->n_texts, sizeof(ta_text))) {
        free(text);
        return ta_no_memory();
    }
    options->texts[options->n_texts++] = (ta_text){text, (uint64_t)length};
    return NULL;
}

static TRITONSERVER_Error *refuse(const TRITONSERVER_ServerOptions *options, const char *what) {
    NEEDS(options);
    return ta_error(TRITONSERVER_ERROR_UNSUPPORTED, "%s is not supported by this server", what);
}

TRITONSERVER_Error *
ta_options_texts(const TRITONSERVER_ServerOptions *options, const ta_text **texts, uint64_t *count) {
    NEEDS(options);
    *texts = options->texts;
    *count = options->n_texts;
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsNew(TRITONSERVER_ServerOptions **options) {
    NEEDS(options);
    *options = calloc(1, sizeof(**options));
    OUT_OF_MEMORY_IF(*options == NULL);
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsDelete(TRITONSERVER_ServerOptions *options) {
    if (options == NULL)
        return NULL;
    for (size_t i = 0; i < options->n_texts; i++)
        free((char *)options->texts[i].data);
    free(options->texts);
    free(options);
    return NULL;
}

#define TEXT(Name, option)                                                               \
    EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSet##Name(                      \
        TRITONSERVER_ServerOptions *options, const char *value) {                        \
        NEEDS(value);                                                                    \
        return add(options, "--" option "=%s", value);                                   \
    }
#define TRUTH(Name, option, constant)                                                    \
    EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSet##Name(                      \
        TRITONSERVER_ServerOptions *options, constant bool value) {                      \
        return add(options, "--" option "=%s", value ? "true" : "false");                \
    }
#define NUMBER(Name, option, type)                                                       \
    EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSet##Name(                      \
        TRITONSERVER_ServerOptions *options, type value) {                               \
        return add(options, "--" option "=%llu", (unsigned long long)value);             \
    }

TEXT(ServerId, "id")
TEXT(ModelRepositoryPath, "model-repository")
TEXT(StartupModel, "load-model")
TEXT(BackendDirectory, "backend-directory")
TEXT(LogFile, "log-file")
TRUTH(ExitOnError, "exit-on-error", )
TRUTH(StrictReadiness, "strict-readiness", )
TRUTH(ModelNamespacing, "model-namespacing", )
TRUTH(EnablePeerAccess, "enable-peer-access", const)
TRUTH(GpuMetrics, "allow-gpu-metrics", )
TRUTH(CpuMetrics, "allow-cpu-metrics", )
NUMBER(PinnedMemoryPoolByteSize, "pinned-memory-pool-byte-size", uint64_t)
NUMBER(ResponseCacheByteSize, "response-cache-byte-size", uint64_t)
NUMBER(ExitTimeout, "exit-timeout-secs", unsigned int)
NUMBER(ModelLoadThreadCount, "model-load-thread-count", unsigned int)
NUMBER(ModelLoadRetryCount, "model-load-retry-count", unsigned int)
NUMBER(MetricsInterval, "metrics-interval-ms", uint64_t)

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetModelConfigName(
    TRITONSERVER_ServerOptions *options, const char *model_config_name) {
    NEEDS(options);
    /* perf_analyzer and others hand the empty name on, which means none. */
    return model_config_name == NULL || *model_config_name == 0
               ? NULL
               : add(options, "--model-config-name=%s", model_config_name);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetModelControlMode(
    TRITONSERVER_ServerOptions *options, TRITONSERVER_ModelControlMode mode) {
    static const char *const NAMES[] = {"none", "poll", "explicit"};
    if ((unsigned)mode > TRITONSERVER_MODEL_CONTROL_EXPLICIT)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "unknown control mode '%d'", (int)mode);
    return add(options, "--model-control-mode=%s", NAMES[mode]);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetStrictModelConfig(
    TRITONSERVER_ServerOptions *options, bool strict) {
    NEEDS(options);
    return add(options, "strict-model-config=%s", strict ? "true" : "false");
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetRateLimiterMode(
    TRITONSERVER_ServerOptions *options, TRITONSERVER_RateLimitMode mode) {
    if ((unsigned)mode > TRITONSERVER_RATE_LIMIT_EXEC_COUNT)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "unknown rate limit mode '%d'", (int)mode);
    return add(options, "--rate-limit=%s", mode == TRITONSERVER_RATE_LIMIT_OFF ? "off" : "execution_count");
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsAddRateLimiterResource(
    TRITONSERVER_ServerOptions *options, const char *resource_name, const size_t resource_count, const int device) {
    NEEDS(resource_name);
    if (device == -1)
        return add(options, "--rate-limit-resource=%s:%zu", resource_name, resource_count);
    return add(options, "--rate-limit-resource=%s:%zu:%d", resource_name, resource_count, device);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetCudaMemoryPoolByteSize(
    TRITONSERVER_ServerOptions *options, int gpu_device, uint64_t size) {
    return add(options, "--cuda-memory-pool-byte-size=%d:%llu", gpu_device, (unsigned long long)size);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetCudaVirtualAddressSize(
    TRITONSERVER_ServerOptions *options, int gpu_device, size_t cuda_virtual_address_size) {
    (void)gpu_device;
    (void)cuda_virtual_address_size;
    return refuse(options, "a size of CUDA virtual addresses, which this server does not reserve,");
}

/* `{"size": "1000", ...}`: taken apart by the control module, which knows JSON. */
EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetCacheConfig(
    TRITONSERVER_ServerOptions *options, const char *cache_name, const char *config_json) {
    NEEDS(cache_name);
    NEEDS(config_json);
    return add(options, "cache-config=%s,%s", cache_name, config_json);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetCacheDirectory(
    TRITONSERVER_ServerOptions *options, const char *cache_dir) {
    NEEDS(cache_dir);
    return add(options, "cache-directory=%s", cache_dir);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetRepoAgentDirectory(
    TRITONSERVER_ServerOptions *options, const char *repoagent_dir) {
    NEEDS(repoagent_dir);
    return add(options, "repoagent-directory=%s", repoagent_dir);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetMinSupportedComputeCapability(
    TRITONSERVER_ServerOptions *options, double cc) {
    return add(options, "--min-supported-compute-capability=%.6f", cc);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetBufferManagerThreadCount(
    TRITONSERVER_ServerOptions *options, unsigned int thread_count) {
    NEEDS(options);
    (void)thread_count; /* as on the command line: copies are made by the threads of instances */
    return NULL;
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetModelLoadDeviceLimit(
    TRITONSERVER_ServerOptions *options, const TRITONSERVER_InstanceGroupKind kind, const int device_id,
    const double fraction) {
    if (kind != TRITONSERVER_INSTANCEGROUPKIND_GPU)
        return ta_error(
            TRITONSERVER_ERROR_INVALID_ARG, "a load limit is for kind GPU, not %s",
            TRITONSERVER_InstanceGroupKindString(kind));
    return add(options, "--model-load-gpu-limit=%d:%.6f", device_id, fraction);
}

/* Without options it is said of the servers that are there, at once: so front-ends change the log of a running one. */
static TRITONSERVER_Error *set_log(TRITONSERVER_ServerOptions *options, const char *name, const char *value) {
    if (options != NULL)
        return add(options, "--%s=%s", name, value);
    if (!ta_has_servers())
        return ta_null("options");
    ta_text texts[] = {{name, strlen(name)}, {value, strlen(value)}};
    bool foreign;
    TRY(ta_enter(NULL, &foreign));
    TRITONSERVER_Error *error = ta_control->call(0, "log", texts, 2, NULL);
    ta_leave(foreign);
    return error;
}

#define LOGGED(Name, option)                                                             \
    EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetLog##Name(                   \
        TRITONSERVER_ServerOptions *options, bool log) {                                 \
        return set_log(options, option, log ? "true" : "false");                         \
    }

LOGGED(Info, "log-info")
LOGGED(Warn, "log-warning")
LOGGED(Error, "log-error")

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetLogFormat(
    TRITONSERVER_ServerOptions *options, const TRITONSERVER_LogFormat format) {
    if ((unsigned)format > TRITONSERVER_LOG_ISO8601)
        return ta_error(TRITONSERVER_ERROR_INVALID_ARG, "unknown log format '%d'", (int)format);
    return set_log(options, "log-format", format == TRITONSERVER_LOG_DEFAULT ? "default" : "ISO8601");
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetLogVerbose(TRITONSERVER_ServerOptions *options, int level) {
    char number[16];
    snprintf(number, sizeof(number), "%d", level < 0 ? 0 : level);
    return set_log(options, "log-verbose", number);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetMetrics(TRITONSERVER_ServerOptions *options, bool metrics) {
    return add(options, "metrics=%s", metrics ? "true" : "false");
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetMetricsConfig(
    TRITONSERVER_ServerOptions *options, const char *name, const char *setting, const char *value) {
    NEEDS(setting);
    NEEDS(value);
    if (name == NULL || *name == 0)
        return add(options, "--metrics-config=%s=%s", setting, value);
    return add(options, "--metrics-config=%s,%s=%s", name, setting, value);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetBackendConfig(
    TRITONSERVER_ServerOptions *options, const char *backend_name, const char *setting, const char *value) {
    NEEDS(setting);
    NEEDS(value);
    if (backend_name == NULL || *backend_name == 0)
        return add(options, "--backend-config=%s=%s", setting, value);
    return add(options, "--backend-config=%s,%s=%s", backend_name, setting, value);
}

EXPORT TRITONSERVER_Error *TRITONSERVER_ServerOptionsSetHostPolicy(
    TRITONSERVER_ServerOptions *options, const char *policy_name, const char *setting, const char *value) {
    NEEDS(policy_name);
    NEEDS(setting);
    NEEDS(value);
    return add(options, "--host-policy=%s,%s=%s", policy_name, setting, value);
}
