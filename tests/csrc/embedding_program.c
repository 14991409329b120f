/* A C program that has the server in it: every part of the C API that a program calls, with right and wrong calls. */
#define _GNU_SOURCE
#include "embedding.h"

#include <signal.h>
#include <unistd.h>

static Waiter waiter;
static TRITONSERVER_ResponseAllocator *allocator;

static int said(TRITONSERVER_Message *message, const char *words) {
    const char *base;
    size_t nbytes;
    GOOD(TRITONSERVER_MessageSerializeToJson(message, &base, &nbytes));
    int found = memmem(base, nbytes, words, strlen(words)) != NULL;
    if (!found)
        fprintf(stderr, "%.*s\n", (int)nbytes, base);
    GOOD(TRITONSERVER_MessageDelete(message));
    return found;
}

static void questions(TRITONSERVER_Server *server) {
    TRITONSERVER_Message *message;
    bool yes = false;
    uint32_t flags = 0;
    void *nothing = &flags;
    GOOD(TRITONSERVER_ServerIsLive(server, &yes));
    CHECK(yes);
    GOOD(TRITONSERVER_ServerIsReady(server, &yes));
    CHECK(yes);
    GOOD(TRITONSERVER_ServerModelIsReady(server, "same", 1, &yes));
    CHECK(yes);
    BAD(NOT_FOUND, "unknown model", TRITONSERVER_ServerModelIsReady(server, "none", -1, &yes));
    GOOD(TRITONSERVER_ServerModelBatchProperties(server, "same", -1, &flags, &nothing));
    CHECK(flags == TRITONSERVER_BATCH_UNKNOWN && nothing == NULL);
    GOOD(TRITONSERVER_ServerModelBatchProperties(server, "sums", -1, &flags, NULL));
    CHECK(flags == TRITONSERVER_BATCH_FIRST_DIM);
    GOOD(TRITONSERVER_ServerModelTransactionProperties(server, "count", -1, &flags, NULL));
    CHECK(flags == TRITONSERVER_TXN_DECOUPLED);
    GOOD(TRITONSERVER_ServerMetadata(server, &message));
    CHECK(said(message, "\"name\":\"embedded\""));
    GOOD(TRITONSERVER_ServerModelMetadata(server, "same", -1, &message));
    CHECK(said(message, "\"datatype\":\"FP32\""));
    GOOD(TRITONSERVER_ServerModelConfig(server, "same", -1, 1, &message));
    CHECK(said(message, "\"backend\":\"identity\""));
    BAD(INVALID_ARG, "version 2 not supported", TRITONSERVER_ServerModelConfig(server, "same", -1, 2, &message));
    GOOD(TRITONSERVER_ServerModelStatistics(server, "", -1, &message));
    CHECK(said(message, "\"model_stats\":["));
    GOOD(TRITONSERVER_ServerModelIndex(server, TRITONSERVER_INDEX_FLAG_READY, &message));
    CHECK(said(message, "\"state\":\"READY\""));
}

static void control(TRITONSERVER_Server *server, const char *folder) {
    const char *config = "{\"backend\":\"identity\",\"input\":[{\"name\":\"IN\",\"data_type\":\"TYPE_FP32\","
                         "\"dims\":[1]}],\"output\":[{\"name\":\"OUT\",\"data_type\":\"TYPE_FP32\",\"dims\":[1]}]}";
    TRITONSERVER_Parameter *given[2] = {
        TRITONSERVER_ParameterNew("config", TRITONSERVER_PARAMETER_STRING, config),
        TRITONSERVER_ParameterBytesNew("file:1/weights", "\0\1\2", 3)};
    bool yes = true;
    GOOD(TRITONSERVER_ServerLoadModelWithParameters(server, "made", (const TRITONSERVER_Parameter **)given, 2));
    GOOD(TRITONSERVER_ServerModelIsReady(server, "made", -1, &yes));
    CHECK(yes);
    GOOD(TRITONSERVER_ServerUnloadModel(server, "made"));
    GOOD(TRITONSERVER_ServerUnloadModelAndDependents(server, "made"));
    TRITONSERVER_ParameterDelete(given[0]);
    TRITONSERVER_ParameterDelete(given[1]);
    BAD(INTERNAL, "failed to load 'none'", TRITONSERVER_ServerLoadModel(server, "none"));
    BAD(UNAVAILABLE, "polling is disabled", TRITONSERVER_ServerPollModelRepository(server));
    GOOD(TRITONSERVER_ServerRegisterModelRepository(server, folder, NULL, 0));
    BAD(ALREADY_EXISTS, "already been registered",
        TRITONSERVER_ServerRegisterModelRepository(server, folder, NULL, 0));
    GOOD(TRITONSERVER_ServerUnregisterModelRepository(server, folder));
    given[0] = TRITONSERVER_ParameterNew("same", TRITONSERVER_PARAMETER_STRING, "renamed");
    given[1] = TRITONSERVER_ParameterNew("count", TRITONSERVER_PARAMETER_STRING, "renamed");
    BAD(INVALID_ARG, "one name", TRITONSERVER_ServerRegisterModelRepository(
        server, folder, (const TRITONSERVER_Parameter **)given, 2));
    GOOD(TRITONSERVER_ServerRegisterModelRepository(server, folder, (const TRITONSERVER_Parameter **)given, 1));
    GOOD(TRITONSERVER_ServerUnregisterModelRepository(server, folder));
    TRITONSERVER_ParameterDelete(given[0]);
    TRITONSERVER_ParameterDelete(given[1]);
    BAD(NOT_FOUND, "was not registered", TRITONSERVER_ServerUnregisterModelRepository(server, folder));
    GOOD(TRITONSERVER_ServerSetExitTimeout(server, 20));
}

static void inference(TRITONSERVER_Server *server) {
    float values[4] = {1, 2, 3, 4};
    size_t nbytes;
    uint32_t count;
    const char *text;
    int64_t version;
    TRITONSERVER_InferenceRequest *request = request_for(server, "same", values, 4, &waiter, allocator);
    GOOD(TRITONSERVER_InferenceRequestSetId(request, "seven"));
    GOOD(TRITONSERVER_InferenceRequestAddRequestedOutput(request, "OUT"));
    for (int i = 0; i < 100; i++) { /* a request that was released may be sent again */
        values[0] = (float)i;
        GOOD(TRITONSERVER_ServerInferAsync(server, request, NULL));
        waiter_wait(&waiter);
        CHECK(waiter.n_responses == 1);
        CHECK(memcmp(output_of(waiter.responses[0], &nbytes), values, sizeof(values)) == 0 && nbytes == 16);
        GOOD(TRITONSERVER_InferenceResponseId(waiter.responses[0], &text));
        CHECK(strcmp(text, "seven") == 0);
        GOOD(TRITONSERVER_InferenceResponseModel(waiter.responses[0], &text, &version));
        CHECK(strcmp(text, "same") == 0 && version == 1);
        GOOD(TRITONSERVER_InferenceResponseOutputCount(waiter.responses[0], &count));
        CHECK(count == 1);
        GOOD(TRITONSERVER_InferenceResponseOutputClassificationLabel(waiter.responses[0], 0, 0, &text));
        CHECK(text == NULL);
        waiter_clear(&waiter);
    }
    /* Data in pieces; a raw input. */
    GOOD(TRITONSERVER_InferenceRequestRemoveAllInputData(request, "IN"));
    for (int i = 0; i < 4; i++)
        GOOD(TRITONSERVER_InferenceRequestAppendInputData(request, "IN", &values[i], 4, TRITONSERVER_MEMORY_CPU, 0));
    GOOD(TRITONSERVER_ServerInferAsync(server, request, NULL));
    waiter_wait(&waiter);
    CHECK(memcmp(output_of(waiter.responses[0], &nbytes), values, sizeof(values)) == 0);
    waiter_clear(&waiter);
    GOOD(TRITONSERVER_InferenceRequestRemoveAllInputs(request));
    GOOD(TRITONSERVER_InferenceRequestAddRawInput(request, "IN"));
    GOOD(TRITONSERVER_InferenceRequestAppendInputData(request, "IN", values, 12, TRITONSERVER_MEMORY_CPU, 0));
    GOOD(TRITONSERVER_ServerInferAsync(server, request, NULL));
    waiter_wait(&waiter);
    CHECK(memcmp(output_of(waiter.responses[0], &nbytes), values, 12) == 0 && nbytes == 12);
    waiter_clear(&waiter);
    GOOD(TRITONSERVER_InferenceRequestDelete(request));
}

static void wrong_requests(TRITONSERVER_Server *server) {
    float values[2] = {1, 2};
    int64_t shape[2] = {1, 2};
    uint64_t number;
    const char *text;
    TRITONSERVER_InferenceRequest *request;
    BAD(NOT_FOUND, "unknown model", TRITONSERVER_InferenceRequestNew(&request, server, "none", -1));
    BAD(INVALID_ARG, "NULL", TRITONSERVER_InferenceRequestNew(&request, NULL, "same", -1));
    request = request_for(server, "same", values, 2, &waiter, allocator);
    BAD(INVALID_ARG, "already exists",
        TRITONSERVER_InferenceRequestAddInput(request, "IN", TRITONSERVER_TYPE_FP32, shape, 2));
    BAD(INVALID_ARG, "'X' does not exist", TRITONSERVER_InferenceRequestRemoveInput(request, "X"));
    BAD(INVALID_ARG, "'X' does not exist", TRITONSERVER_InferenceRequestRemoveRequestedOutput(request, "X"));
    BAD(INVALID_ARG, "flags", TRITONSERVER_InferenceRequestSetFlags(request, 8));
    GOOD(TRITONSERVER_InferenceRequestSetCorrelationIdString(request, "a"));
    BAD(INVALID_ARG, "is a string", TRITONSERVER_InferenceRequestCorrelationId(request, &number));
    GOOD(TRITONSERVER_InferenceRequestSetCorrelationId(request, 0));
    BAD(INVALID_ARG, "unsigned int", TRITONSERVER_InferenceRequestCorrelationIdString(request, &text));
    GOOD(TRITONSERVER_InferenceRequestAddRequestedOutput(request, "NONE"));
    BAD(INVALID_ARG, "unexpected inference output 'NONE'", TRITONSERVER_ServerInferAsync(server, request, NULL));
    GOOD(TRITONSERVER_InferenceRequestRemoveAllRequestedOutputs(request));
    GOOD(TRITONSERVER_InferenceRequestRemoveInput(request, "IN"));
    BAD(INVALID_ARG, "expected 1 inputs but got 0", TRITONSERVER_ServerInferAsync(server, request, NULL));
    GOOD(TRITONSERVER_InferenceRequestAddInput(request, "IN", TRITONSERVER_TYPE_FP32, shape, 2));
    BAD(INVALID_ARG, "unexpected shape", TRITONSERVER_ServerInferAsync(server, request, NULL));
    GOOD(TRITONSERVER_InferenceRequestRemoveAllInputs(request));
    GOOD(TRITONSERVER_InferenceRequestAddInput(request, "IN", TRITONSERVER_TYPE_INVALID, shape, 1));
    BAD(INVALID_ARG, "invalid datatype", TRITONSERVER_ServerInferAsync(server, request, NULL));
    BAD(INVALID_ARG, "NULL", TRITONSERVER_ServerInferAsync(server, NULL, NULL));
    GOOD(TRITONSERVER_InferenceRequestDelete(request));
    GOOD(TRITONSERVER_InferenceRequestNew(&request, server, "same", -1));
    BAD(INVALID_ARG, "release callback", TRITONSERVER_ServerInferAsync(server, request, NULL));
    GOOD(TRITONSERVER_InferenceRequestDelete(request));
    GOOD(TRITONSERVER_InferenceRequestDelete(NULL));
}

static void streams_and_cancellation(TRITONSERVER_Server *server) {
    float values[1] = {2};
    bool yes;
    TRITONSERVER_Error *error;
    TRITONSERVER_InferenceRequest *request = request_for(server, "count", values, 1, &waiter, allocator);
    GOOD(TRITONSERVER_ServerInferAsync(server, request, NULL));
    waiter_wait(&waiter);
    CHECK(waiter.n_responses == 2 && waiter.n_empty == 1);
    waiter_clear(&waiter);
    GOOD(TRITONSERVER_InferenceRequestDelete(request));
    values[0] = 60;
    request = request_for(server, "slow", values, 1, &waiter, allocator);
    GOOD(TRITONSERVER_ServerInferAsync(server, request, NULL));
    BAD(INVALID_ARG, "before it was released", TRITONSERVER_InferenceRequestDelete(request));
    BAD(INVALID_ARG, "before it was released", TRITONSERVER_InferenceRequestSetId(request, "x"));
    BAD(INVALID_ARG, "on its way", TRITONSERVER_ServerInferAsync(server, request, NULL));
    usleep(50000);
    GOOD(TRITONSERVER_InferenceRequestCancel(request));
    waiter_wait(&waiter);
    GOOD(TRITONSERVER_InferenceRequestIsCancelled(request, &yes));
    CHECK(yes && waiter.n_responses == 1);
    error = TRITONSERVER_InferenceResponseError(waiter.responses[0]);
    CHECK(error != NULL && TRITONSERVER_ErrorCode(error) == TRITONSERVER_ERROR_CANCELLED);
    TRITONSERVER_ErrorDelete(error); /* the response has its own */
    waiter_clear(&waiter);
    GOOD(TRITONSERVER_InferenceRequestCancel(request)); /* too late, and no error */
    GOOD(TRITONSERVER_InferenceRequestDelete(request));
}

/* Parameters, flags and sequences reach the model, and its parameters come back. */
static void what_requests_say(TRITONSERVER_Server *server) {
    const char element[5] = {1, 0, 0, 0, 'x'};
    int64_t shape[1] = {1};
    uint32_t count;
    size_t nbytes;
    const char *name;
    const void *value;
    TRITONSERVER_ParameterType type;
    TRITONSERVER_InferenceRequest *request;
    GOOD(TRITONSERVER_InferenceRequestNew(&request, server, "tells", 1));
    GOOD(TRITONSERVER_InferenceRequestAddInput(request, "IN", TRITONSERVER_TYPE_BYTES, shape, 1));
    GOOD(TRITONSERVER_InferenceRequestAppendInputData(request, "IN", element, 5, TRITONSERVER_MEMORY_CPU, 0));
    GOOD(TRITONSERVER_InferenceRequestSetReleaseCallback(request, on_release, &waiter));
    GOOD(TRITONSERVER_InferenceRequestSetResponseCallback(request, allocator, NULL, on_response, &waiter));
    GOOD(TRITONSERVER_InferenceRequestSetId(request, "r"));
    GOOD(TRITONSERVER_InferenceRequestSetCorrelationId(request, 9));
    GOOD(TRITONSERVER_InferenceRequestSetFlags(request, TRITONSERVER_REQUEST_FLAG_SEQUENCE_START));
    GOOD(TRITONSERVER_InferenceRequestSetPriorityUInt64(request, 0));
    GOOD(TRITONSERVER_InferenceRequestSetTimeoutMicroseconds(request, 10000000));
    GOOD(TRITONSERVER_InferenceRequestSetStringParameter(request, "text", "t"));
    GOOD(TRITONSERVER_InferenceRequestSetIntParameter(request, "number", 41));
    GOOD(TRITONSERVER_InferenceRequestSetIntParameter(request, "number", 42));
    GOOD(TRITONSERVER_InferenceRequestSetBoolParameter(request, "truth", true));
    GOOD(TRITONSERVER_InferenceRequestSetDoubleParameter(request, "half", 0.5));
    GOOD(TRITONSERVER_ServerInferAsync(server, request, NULL));
    waiter_wait(&waiter);
    const char *told = (const char *)output_of(waiter.responses[0], &nbytes) + 4;
    nbytes -= 4;
    CHECK(strncmp(told, "r|9|1|", 6) == 0);
    CHECK(memmem(told, nbytes, "42", 2) != NULL && memmem(told, nbytes, "0.5", 3) != NULL);
    GOOD(TRITONSERVER_InferenceResponseParameterCount(waiter.responses[0], &count));
    CHECK(count == 1);
    GOOD(TRITONSERVER_InferenceResponseParameter(waiter.responses[0], 0, &name, &type, &value));
    CHECK(strcmp(name, "seen") == 0 && type == TRITONSERVER_PARAMETER_INT && *(const int64_t *)value == 1);
    BAD(INVALID_ARG, "out of bounds index 1",
        TRITONSERVER_InferenceResponseParameter(waiter.responses[0], 1, &name, &type, &value));
    waiter_clear(&waiter);
    GOOD(TRITONSERVER_InferenceRequestDelete(request));
}

static int activities[16], traces_released;
static const float *traced_values;

static void on_tensor(
    TRITONSERVER_InferenceTrace *trace, TRITONSERVER_InferenceTraceActivity activity, const char *name,
    TRITONSERVER_DataType datatype, const void *base, size_t nbytes, const int64_t *shape, uint64_t dim_count,
    TRITONSERVER_MemoryType memory_type, int64_t memory_type_id, void *userp) {
    (void)trace;
    (void)memory_type_id;
    (void)userp;
    CHECK(strcmp(name, activity == TRITONSERVER_TRACE_TENSOR_BACKEND_OUTPUT ? "OUT" : "IN") == 0);
    CHECK(datatype == TRITONSERVER_TYPE_FP32 && memory_type == TRITONSERVER_MEMORY_CPU);
    CHECK(dim_count == 1 && shape[0] == 2 && nbytes == 8 && memcmp(base, traced_values, 8) == 0);
    activities[activity]++;
}

static void on_activity(
    TRITONSERVER_InferenceTrace *trace, TRITONSERVER_InferenceTraceActivity activity, uint64_t ns, void *userp) {
    (void)trace;
    (void)userp;
    CHECK(ns != 0);
    activities[activity]++;
}

static void on_trace_release(TRITONSERVER_InferenceTrace *trace, void *userp) {
    const char *model;
    (void)userp;
    GOOD(TRITONSERVER_InferenceTraceModelName(trace, &model));
    CHECK(strcmp(model, "same") == 0);
    GOOD(TRITONSERVER_InferenceTraceDelete(trace));
    __atomic_add_fetch(&traces_released, 1, __ATOMIC_SEQ_CST);
}

static void traces(TRITONSERVER_Server *server) {
    float values[2] = {2, 3}, expected[2] = {2, 3};
    const TRITONSERVER_InferenceTraceLevel both =
        (TRITONSERVER_InferenceTraceLevel)(TRITONSERVER_TRACE_LEVEL_TIMESTAMPS | TRITONSERVER_TRACE_LEVEL_TENSORS);
    TRITONSERVER_InferenceTrace *trace;
    TRITONSERVER_InferenceRequest *request = request_for(server, "same", values, 2, &waiter, allocator);
    BAD(INVALID_ARG, "NULL",
        TRITONSERVER_InferenceTraceTensorNew(&trace, both, 0, on_activity, NULL, on_trace_release, NULL));
    GOOD(TRITONSERVER_InferenceTraceTensorNew(&trace, both, 0, on_activity, on_tensor, on_trace_release, NULL));
    traced_values = expected;
    GOOD(TRITONSERVER_ServerInferAsync(server, request, trace));
    waiter_wait(&waiter);
    values[0] = values[1] = 0; /* the request is the program's again: the trace has what was sent */
    waiter_clear(&waiter);
    for (int i = 0; i < 2000 && __atomic_load_n(&traces_released, __ATOMIC_SEQ_CST) == 0; i++)
        usleep(1000);
    CHECK(traces_released == 1);
    for (int i = TRITONSERVER_TRACE_REQUEST_START; i <= TRITONSERVER_TRACE_TENSOR_BACKEND_OUTPUT; i++)
        CHECK(activities[i] == 1);
    GOOD(TRITONSERVER_InferenceRequestDelete(request));
}

static void metrics(TRITONSERVER_Server *server) {
    TRITONSERVER_MetricFamily *family, *times;
    TRITONSERVER_Metric *metric, *time;
    TRITONSERVER_MetricArgs *args;
    TRITONSERVER_Metrics *page;
    const double buckets[2] = {1, 10}, wrong[2] = {2, 1};
    const char *base;
    double value;
    size_t nbytes;
    const TRITONSERVER_Parameter *labels[1] = {
        TRITONSERVER_ParameterNew("kind", TRITONSERVER_PARAMETER_STRING, "a\"b")};
    GOOD(TRITONSERVER_MetricFamilyNew(&family, TRITONSERVER_METRIC_KIND_COUNTER, "my_counter", "What I count"));
    BAD(INVALID_ARG, "no name of a metric",
        TRITONSERVER_MetricFamilyNew(&times, TRITONSERVER_METRIC_KIND_GAUGE, "7x", ""));
    GOOD(TRITONSERVER_MetricFamilyNew(&times, TRITONSERVER_METRIC_KIND_HISTOGRAM, "my_times", "What I time"));
    GOOD(TRITONSERVER_MetricNew(&metric, family, labels, 1));
    BAD(INVALID_ARG, "not set for histogram", TRITONSERVER_MetricNew(&time, times, NULL, 0));
    GOOD(TRITONSERVER_MetricArgsNew(&args));
    BAD(INVALID_ARG, "must ascend", TRITONSERVER_MetricArgsSetHistogram(args, wrong, 2));
    GOOD(TRITONSERVER_MetricArgsSetHistogram(args, buckets, 2));
    GOOD(TRITONSERVER_MetricNewWithArgs(&time, times, NULL, 0, args));
    GOOD(TRITONSERVER_MetricArgsDelete(args));
    GOOD(TRITONSERVER_MetricIncrement(metric, 2.5));
    BAD(INVALID_ARG, "monotonically", TRITONSERVER_MetricIncrement(metric, -1));
    BAD(UNSUPPORTED, "do not support Set", TRITONSERVER_MetricSet(metric, 1));
    GOOD(TRITONSERVER_MetricValue(metric, &value));
    CHECK(value == 2.5);
    GOOD(TRITONSERVER_MetricObserve(time, 5));
    GOOD(TRITONSERVER_ServerMetrics(server, &page));
    GOOD(TRITONSERVER_MetricsFormatted(page, TRITONSERVER_METRIC_PROMETHEUS, &base, &nbytes));
    CHECK(memmem(base, nbytes, "nv_inference_count{", 19) != NULL);
    CHECK(memmem(base, nbytes, "my_counter{kind=\"a\\\"b\"} 2.5\n", 27) != NULL);
    CHECK(memmem(base, nbytes, "my_times_bucket{le=\"10\"} 1\n", 27) != NULL);
    GOOD(TRITONSERVER_MetricsDelete(page));
    BAD(INTERNAL, "dependent metrics", TRITONSERVER_MetricFamilyDelete(family));
    GOOD(TRITONSERVER_MetricDelete(metric));
    BAD(INVALID_ARG, "deleted before", TRITONSERVER_MetricDelete(metric));
    GOOD(TRITONSERVER_MetricDelete(time));
    GOOD(TRITONSERVER_MetricFamilyDelete(family));
    GOOD(TRITONSERVER_MetricFamilyDelete(times));
    TRITONSERVER_ParameterDelete((TRITONSERVER_Parameter *)labels[0]);
}

static int lines;

static void on_line(
    TRITONSERVER_LogLevel level, const char *file, int line, uint64_t unix_us, const char *text, void *userp) {
    CHECK(userp == &lines && file != NULL && line >= 0 && unix_us > UINT64_C(1600000000000000) && text != NULL);
    CHECK(level <= TRITONSERVER_LOG_VERBOSE);
    __atomic_add_fetch(&lines, 1, __ATOMIC_SEQ_CST);
}

/* Lines of the program and of the server go to the callback, once they are wanted. */
static void log_lines(TRITONSERVER_Server *server) {
    GOOD(TRITONSERVER_ServerOptionsSetLogCallback(NULL, on_line, &lines));
    lines = 0;
    CHECK(!TRITONSERVER_LogIsEnabled(TRITONSERVER_LOG_INFO));
    GOOD(TRITONSERVER_LogMessage(TRITONSERVER_LOG_INFO, "program.c", 1, "not wanted"));
    CHECK(lines == 0);
    GOOD(TRITONSERVER_ServerOptionsSetLogInfo(NULL, true));
    GOOD(TRITONSERVER_ServerOptionsSetLogVerbose(NULL, 1));
    GOOD(TRITONSERVER_ServerOptionsSetLogFormat(NULL, TRITONSERVER_LOG_ISO8601));
    GOOD(TRITONSERVER_LogMessage(TRITONSERVER_LOG_INFO, "program.c", 1, "wanted"));
    GOOD(TRITONSERVER_LogMessage(TRITONSERVER_LOG_VERBOSE, NULL, 1, "wanted"));
    CHECK(lines >= 2);
    int before = lines;
    GOOD(TRITONSERVER_ServerUnloadModel(server, "sums"));
    GOOD(TRITONSERVER_ServerLoadModel(server, "sums"));
    CHECK(__atomic_load_n(&lines, __ATOMIC_SEQ_CST) > before);
    GOOD(TRITONSERVER_ServerOptionsSetLogInfo(NULL, false));
    GOOD(TRITONSERVER_ServerOptionsSetLogVerbose(NULL, 0));
    GOOD(TRITONSERVER_ServerOptionsSetLogCallback(NULL, NULL, NULL));
}

static void wrong_options(void) {
    TRITONSERVER_Server *server;
    TRITONSERVER_ServerOptions *options;
    BAD(INVALID_ARG, "NULL", TRITONSERVER_ServerNew(&server, NULL));
    GOOD(TRITONSERVER_ServerOptionsNew(&options));
    BAD(INVALID_ARG, "--model-repository must be specified", TRITONSERVER_ServerNew(&server, options));
    BAD(INVALID_ARG, "NULL", TRITONSERVER_ServerOptionsSetServerId(options, NULL));
    BAD(INVALID_ARG, "NULL", TRITONSERVER_ServerOptionsSetServerId(NULL, "x"));
    BAD(INVALID_ARG, "NULL", TRITONSERVER_ServerOptionsSetLogInfo(NULL, true));
    BAD(INVALID_ARG, "unknown log format", TRITONSERVER_ServerOptionsSetLogFormat(options, (TRITONSERVER_LogFormat)2));
    BAD(UNSUPPORTED, "virtual addresses", TRITONSERVER_ServerOptionsSetCudaVirtualAddressSize(options, 0, 1));
    GOOD(TRITONSERVER_ServerOptionsSetModelRepositoryPath(options, "/not/there"));
    GOOD(TRITONSERVER_ServerOptionsSetHostPolicy(options, "cpu", "numa-knot", "0"));
    BAD(INVALID_ARG, "--host-policy", TRITONSERVER_ServerNew(&server, options));
    GOOD(TRITONSERVER_ServerOptionsDelete(options));
    GOOD(TRITONSERVER_ServerOptionsDelete(NULL));
}

static void signals_are_as_before(void) {
    const int numbers[] = {SIGINT, SIGTERM, SIGPIPE, SIGHUP, SIGCHLD};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        struct sigaction action;
        /* Or ignored, as whoever started this had it. */
        CHECK(sigaction(numbers[i], NULL, &action) == 0);
        CHECK(action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN);
    }
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    waiter_init(&waiter);
    wrong_options();
    GOOD(TRITONSERVER_ResponseAllocatorNew(&allocator, on_alloc, on_free, NULL));
    TRITONSERVER_ServerOptions *options = options_for(argv[1]);
    const char *const models[] = {"same", "count", "slow", "tells", "sums"};
    for (int i = 0; i < 5; i++)
        GOOD(TRITONSERVER_ServerOptionsSetStartupModel(options, models[i]));
    GOOD(TRITONSERVER_ServerOptionsSetServerId(options, "embedded"));
    GOOD(TRITONSERVER_ServerOptionsSetCacheConfig(options, "local", "{\"size\": \"1048576\"}"));
    for (int i = 0; i < 2; i++) {
        TRITONSERVER_Server *server;
        GOOD(TRITONSERVER_ServerNew(&server, options));
        questions(server);
        inference(server);
        wrong_requests(server);
        streams_and_cancellation(server);
        what_requests_say(server);
        traces_released = 0;
        memset(activities, 0, sizeof(activities));
        traces(server);
        metrics(server);
        log_lines(server);
        control(server, argv[2]);
        /* A server may be deleted while a request is on its way: it is answered first. */
        float values[1] = {0.2f};
        TRITONSERVER_InferenceRequest *request = request_for(server, "slow", values, 1, &waiter, allocator);
        GOOD(TRITONSERVER_ServerInferAsync(server, request, NULL));
        if (i == 0)
            GOOD(TRITONSERVER_ServerStop(server));
        GOOD(TRITONSERVER_ServerDelete(server));
        waiter_wait(&waiter);
        waiter_clear(&waiter);
        GOOD(TRITONSERVER_InferenceRequestDelete(request));
        BAD(INVALID_ARG, "deleted before", TRITONSERVER_ServerDelete(server));
        BAD(INVALID_ARG, "deleted before", TRITONSERVER_ServerStop(server));
    }
    GOOD(TRITONSERVER_ServerOptionsDelete(options));
    GOOD(TRITONSERVER_ResponseAllocatorDelete(allocator));
    signals_are_as_before();
    return 0;
}
