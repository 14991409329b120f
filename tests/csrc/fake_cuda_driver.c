/* The fake CUDA driver under several threads, as instances use it, for the sanitizers: copies, runs and copies on
 * streams of their own, joined by events; graphs; errors that last. */
#include "check.h"
#include "fake_cuda.h"

#include <pthread.h>
#include <string.h>

#define THREADS 4
#define ROUNDS 300
#define COUNT_OF 64

int cuMemcpyAsync(uint64_t to, uint64_t from, size_t nbytes, fake_stream *stream);
int cuMemcpy(uint64_t to, uint64_t from, size_t nbytes);
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t nbytes, fake_stream *stream);
int cuStreamWaitEvent(fake_stream *stream, fake_event *event, unsigned flags);
int cuStreamSynchronize(fake_stream *stream);
int cuEventRecord(fake_event *event, fake_stream *stream);
int cuEventSynchronize(fake_event *event);
int cuEventQuery(fake_event *event);
int cuEventElapsedTime(float *ms, fake_event *start, fake_event *end);
int cuLaunchHostFunc(fake_stream *stream, void (*function)(void *), void *argument);
int cuGraphLaunch(fake_graph *graph, fake_stream *stream);

static void count_up(void *argument) { ++*(int *)argument; }

static void *run(void *argument) {
    float seed = (float)*(int *)argument;
    fake_stream *streams[3];
    fake_event *events[3];
    uint64_t memory[4], host;
    float ms;
    int calls = 0;
    for (int i = 0; i < 3; i++) {
        CHECK(fake_stream_create(i, &streams[i]) == 0);
        CHECK(fake_event_create(1, 0, &events[i]) == 0);
    }
    for (int i = 0; i < 4; i++) {
        CHECK(fake_allocate(COUNT_OF * sizeof(float), &memory[i]) == 0);
    }
    CHECK(fake_allocate_pinned(4 * COUNT_OF * sizeof(float), &host) == 0);
    float *numbers = (float *)host;
    fake_graph *graph;
    CHECK(fake_begin_capture(streams[1]) == 0);
    CHECK(fake_add_sub(streams[1], memory[0], memory[1], memory[2], memory[3], COUNT_OF, NULL) == 0);
    CHECK(fake_end_capture(streams[1], &graph) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < 2 * COUNT_OF; i++) {
            numbers[i] = seed + (float)(round + i);
        }
        CHECK(cuMemcpyAsync(memory[0], host, COUNT_OF * sizeof(float), streams[0]) == 0);
        CHECK(cuMemcpyAsync(memory[1], host + COUNT_OF * sizeof(float), COUNT_OF * sizeof(float), streams[0]) == 0);
        CHECK(cuEventRecord(events[0], streams[0]) == 0);
        CHECK(cuStreamWaitEvent(streams[1], events[0], 0) == 0);
        if (round % 2) {
            CHECK(cuGraphLaunch(graph, streams[1]) == 0);
        } else {
            CHECK(fake_add_sub(streams[1], memory[0], memory[1], memory[2], memory[3], COUNT_OF, NULL) == 0);
        }
        CHECK(cuLaunchHostFunc(streams[1], count_up, &calls) == 0);
        CHECK(cuEventRecord(events[1], streams[1]) == 0);
        CHECK(cuStreamWaitEvent(streams[2], events[1], 0) == 0);
        CHECK(cuMemcpyAsync(host + 2 * COUNT_OF * sizeof(float), memory[2], COUNT_OF * sizeof(float), streams[2]) == 0);
        CHECK(cuMemcpyAsync(host + 3 * COUNT_OF * sizeof(float), memory[3], COUNT_OF * sizeof(float), streams[2]) == 0);
        CHECK(cuEventRecord(events[2], streams[2]) == 0);
        CHECK(cuEventSynchronize(events[2]) == 0);
        CHECK(cuEventQuery(events[2]) == 0);
        CHECK(cuEventElapsedTime(&ms, events[0], events[2]) == 0 && ms >= 0);
        CHECK(calls == round + 1);
        for (int i = 0; i < COUNT_OF; i++) {
            CHECK(numbers[2 * COUNT_OF + i] == numbers[i] + numbers[COUNT_OF + i]);
            CHECK(numbers[3 * COUNT_OF + i] == numbers[i] - numbers[COUNT_OF + i]);
        }
    }
    CHECK(cuMemsetD8Async(memory[0], 0, COUNT_OF * sizeof(float), streams[0]) == 0);
    CHECK(cuStreamSynchronize(streams[0]) == 0);
    CHECK(cuMemcpy(host, memory[0], sizeof(float)) == 0 && numbers[0] == 0);
    CHECK(fake_destroy_graph(graph) == 0);
    for (int i = 0; i < 3; i++) {
        CHECK(fake_event_destroy(events[i]) == 0);
        CHECK(fake_stream_destroy(streams[i]) == 0);
    }
    for (int i = 0; i < 4; i++) {
        CHECK(fake_free(memory[i]) == 0);
    }
    CHECK(fake_free_pinned(host) == 0);
    return NULL;
}

/* What a GPU refuses, so must the fake. */
static void check_errors(void) {
    fake_stream *stream;
    fake_event *event;
    fake_graph *graph;
    uint64_t memory;
    char host[8];
    CHECK(fake_stream_create(0, &stream) == 0 && fake_event_create(0, 0, &event) == 0);
    CHECK(fake_allocate(4, &memory) == 0);
    CHECK(cuMemcpyAsync(memory, memory, 4, NULL) == FAKE_INVALID_HANDLE);
    /* Under capture: no waiting for the stream, nothing of other streams, no event that is seen outside. */
    CHECK(fake_begin_capture(stream) == 0);
    CHECK(cuEventRecord(event, stream) == 0 && cuEventQuery(event) == FAKE_CAPTURED_EVENT);
    CHECK(cuStreamSynchronize(stream) == FAKE_CAPTURE_UNSUPPORTED);
    CHECK(cuMemcpyAsync(memory, memory, 4, stream) == FAKE_CAPTURE_INVALIDATED);
    CHECK(fake_end_capture(stream, &graph) == FAKE_CAPTURE_INVALIDATED);
    CHECK(cuStreamSynchronize(stream) == 0);
    /* One call, then every call. */
    fake_fail_at(1, FAKE_OUT_OF_MEMORY, 0);
    CHECK(cuStreamSynchronize(stream) == 0 && cuStreamSynchronize(stream) == FAKE_OUT_OF_MEMORY);
    CHECK(cuStreamSynchronize(stream) == 0);
    /* Beyond the allocation, which lasts. */
    CHECK(cuMemcpyAsync((uint64_t)host, memory, 8, stream) == 0);
    CHECK(cuStreamSynchronize(stream) == FAKE_ILLEGAL_ADDRESS);
    CHECK(cuEventRecord(event, stream) == FAKE_ILLEGAL_ADDRESS);
    fake_recover();
    CHECK(fake_event_destroy(event) == 0 && fake_stream_destroy(stream) == 0 && fake_free(memory) == 0);
}

int main(void) {
    pthread_t threads[THREADS];
    int seeds[THREADS];
    fake_state state;
    for (int i = 0; i < THREADS; i++) {
        seeds[i] = 1000 * i;
        CHECK(pthread_create(&threads[i], NULL, run, &seeds[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    check_errors();
    fake_read_state(&state);
    CHECK(state.streams == 0 && state.events == 0 && state.graphs == 0 && state.allocations == 0);
    CHECK(state.pinned == 0 && state.pending == 0 && state.nbytes == 0);
    return 0;
}
