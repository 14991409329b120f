#include "fake_cuda.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define TRACE_NBYTES 65536
#define GATHER_MARK ((void *)0x6a7)

typedef struct piece { /* of csrc/gather.cu */
    uint64_t from;
    uint64_t offset;
    uint64_t nbytes;
} piece;

typedef enum { OP_COPY, OP_SET, OP_WAIT, OP_RECORD, OP_HOST, OP_GATHER, OP_ADD_SUB, OP_GRAPH } op_kind;

typedef struct op {
    struct op *next;
    op_kind kind;
    uint64_t to, from, third, fourth;
    size_t nbytes;
    int value;
    fake_event *event;
    uint64_t version;
    void (*function)(void *);
    void *argument;
    fake_gate *gate;
    fake_graph *graph;
} op;

struct fake_graph {
    op *first, *last;
    int64_t in_use; /* launches that have not run */
};

struct fake_event {
    uint64_t recorded, reached; /* versions */
    int64_t time_ns;
    int timing, spin, captured, dead;
    int64_t in_use;
};

struct fake_stream {
    pthread_t thread;
    op *first, *last;
    int ending, busy, priority, number;
    int capturing, invalidated;
    fake_graph *capture;
    pthread_cond_t filled;
};

struct fake_gate {
    int shut, passes, arrivals;
};

typedef struct allocation {
    struct allocation *next;
    uint64_t start;
    size_t nbytes;
    int pinned;
} allocation;

/* One lock for everything: what matters here is order. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER; /* an event reached, a stream idle, a gate changed */
static fake_state state;
static allocation *allocations;
static int64_t fail_in = -1;
static int fail_result, fail_lasting;
static int broken; /* the error that lasts */
static int streams_made;
static char trace[TRACE_NBYTES];
static size_t traced;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* With the lock, at the start of every call that can fail. */
static int enter(void) {
    state.calls++;
    if (broken) {
        return broken;
    }
    if (fail_in >= 0 && fail_in-- == 0) {
        if (fail_lasting) {
            broken = fail_result;
        }
        return fail_result;
    }
    return 0;
}

static int begin(void) {
    pthread_mutex_lock(&lock);
    int result = enter();
    if (result != 0) {
        pthread_mutex_unlock(&lock);
    }
    return result;
}

static int finish(int result) {
    pthread_mutex_unlock(&lock);
    return result;
}

/* -- memory ------------------------------------------------------------------------------------- */

/* Where the host finds device memory; NULL when it is no live allocation. Host addresses are themselves. With the
 * lock. */
static char *translate(uint64_t address, size_t nbytes) {
    if ((address & FAKE_DEVICE_MARK) == 0) {
        return (char *)address;
    }
    uint64_t plain = address & ~FAKE_DEVICE_MARK;
    for (allocation *at = allocations; at != NULL; at = at->next) {
        if (!at->pinned && plain >= at->start && nbytes <= at->nbytes && plain - at->start <= at->nbytes - nbytes) {
            return (char *)plain;
        }
    }
    return NULL;
}

static int allocate(size_t nbytes, int pinned, uint64_t *address) {
    if (nbytes == 0 || nbytes > (1ull << 40)) {
        return FAKE_OUT_OF_MEMORY;
    }
    void *memory;
    allocation *made = malloc(sizeof(*made));
    if (made == NULL || posix_memalign(&memory, 256, (nbytes + 255) & ~(size_t)255) != 0) {
        free(made);
        return FAKE_OUT_OF_MEMORY;
    }
    memset(memory, 0xCD, nbytes);
    made->start = (uint64_t)memory;
    made->nbytes = nbytes;
    made->pinned = pinned;
    made->next = allocations;
    allocations = made;
    *address = made->start | (pinned ? 0 : FAKE_DEVICE_MARK);
    return 0;
}

static int release(uint64_t address, int pinned) {
    for (allocation **at = &allocations; *at != NULL; at = &(*at)->next) {
        allocation *found = *at;
        if (found->start == (address & ~FAKE_DEVICE_MARK) && found->pinned == pinned) {
            *at = found->next;
            if (pinned) {
                state.pinned--;
            } else {
                state.allocations--;
                state.nbytes -= (int64_t)found->nbytes;
            }
            memset((void *)found->start, 0xDD, found->nbytes);
            free((void *)found->start);
            free(found);
            return 0;
        }
    }
    return FAKE_INVALID_VALUE;
}

EXPORT int fake_allocate(size_t nbytes, uint64_t *address) {
    int result = begin();
    if (result != 0) {
        return result;
    }
    result = allocate(nbytes, 0, address);
    state.allocations += result == 0;
    state.nbytes += result == 0 ? (int64_t)nbytes : 0;
    return finish(result);
}

EXPORT int fake_allocate_pinned(size_t nbytes, uint64_t *address) {
    int result = begin();
    if (result != 0) {
        return result;
    }
    result = allocate(nbytes, 1, address);
    state.pinned += result == 0;
    return finish(result);
}

/* Freeing works in a broken context too, as far as the counts of the tests go. */
EXPORT int fake_free(uint64_t address) {
    pthread_mutex_lock(&lock);
    return finish(release(address, 0));
}

EXPORT int fake_free_pinned(uint64_t address) {
    pthread_mutex_lock(&lock);
    return finish(release(address, 1));
}

/* -- what a stream does --------------------------------------------------------------------------- */

static void note(char kind, int number) {
    if (traced + 12 < TRACE_NBYTES) {
        traced += (size_t)snprintf(trace + traced, 12, "%c%d ", kind, number);
    }
}

static void pass(fake_gate *gate) {
    gate->arrivals++;
    pthread_cond_broadcast(&moved);
    while (gate->shut && gate->passes == 0) {
        pthread_cond_wait(&moved, &lock);
    }
    if (gate->shut) {
        gate->passes--;
    }
}

/* With the lock, which it gives up where the operation is not its own. */
static int run(op *self, fake_stream *stream) {
    switch (self->kind) {
    case OP_WAIT:
        while (self->event->reached < self->version) {
            pthread_cond_wait(&moved, &lock);
        }
        self->event->in_use--;
        return 0;
    case OP_RECORD:
        if (self->event->reached < self->version) {
            self->event->reached = self->version;
            self->event->time_ns = now_ns();
        }
        self->event->in_use--;
        pthread_cond_broadcast(&moved);
        return 0;
    case OP_HOST:
        note('h', stream->number);
        pthread_mutex_unlock(&lock);
        self->function(self->argument);
        pthread_mutex_lock(&lock);
        return 0;
    case OP_COPY: {
        char *to = translate(self->to, self->nbytes);
        char *from = translate(self->from, self->nbytes);
        note('c', stream->number);
        if (to == NULL || from == NULL) {
            return FAKE_ILLEGAL_ADDRESS;
        }
        pthread_mutex_unlock(&lock);
        memmove(to, from, self->nbytes);
        pthread_mutex_lock(&lock);
        return 0;
    }
    case OP_SET: {
        char *to = translate(self->to, self->nbytes);
        note('s', stream->number);
        if (to == NULL) {
            return FAKE_ILLEGAL_ADDRESS;
        }
        memset(to, self->value, self->nbytes);
        return 0;
    }
    case OP_GATHER: {
        const piece *pieces = (const piece *)self->from;
        note('g', stream->number);
        for (size_t i = 0; i < self->nbytes; i++) {
            char *to = translate(self->to + pieces[i].offset, pieces[i].nbytes);
            char *from = translate(pieces[i].from, pieces[i].nbytes);
            if (to == NULL || from == NULL) {
                return FAKE_ILLEGAL_ADDRESS;
            }
            memcpy(to, from, pieces[i].nbytes);
        }
        return 0;
    }
    case OP_ADD_SUB: {
        note('k', stream->number);
        if (self->gate != NULL) {
            pass(self->gate);
        }
        size_t nbytes = self->nbytes * sizeof(float);
        const float *a = (const float *)translate(self->to, nbytes);
        const float *b = (const float *)translate(self->from, nbytes);
        float *sum = (float *)translate(self->third, nbytes);
        float *difference = (float *)translate(self->fourth, nbytes);
        if (a == NULL || b == NULL || sum == NULL || difference == NULL) {
            return FAKE_ILLEGAL_ADDRESS;
        }
        for (size_t i = 0; i < self->nbytes; i++) {
            float left = a[i], right = b[i];
            sum[i] = left + right;
            difference[i] = left - right;
        }
        return 0;
    }
    case OP_GRAPH:
        note('G', stream->number);
        for (op *each = self->graph->first; each != NULL; each = each->next) {
            int result = run(each, stream);
            if (result != 0) {
                return result;
            }
        }
        return 0;
    }
    return FAKE_INVALID_VALUE;
}

static void *stream_main(void *argument) {
    fake_stream *stream = argument;
    pthread_mutex_lock(&lock);
    while (1) {
        while (stream->first == NULL && !stream->ending) {
            pthread_cond_wait(&stream->filled, &lock);
        }
        op *next = stream->first;
        if (next == NULL) {
            break;
        }
        stream->first = next->next;
        stream->busy = 1;
        /* In a broken context nothing runs any more; events still come, so that nothing waits for ever. */
        if (!broken || next->kind == OP_WAIT || next->kind == OP_RECORD) {
            int result = run(next, stream);
            if (result != 0) {
                broken = result;
            }
        }
        if (next->kind == OP_GRAPH) {
            next->graph->in_use--;
        }
        free(next);
        state.pending--;
        stream->busy = 0;
        pthread_cond_broadcast(&moved);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static int put(fake_stream *stream, op one) {
    op *made = malloc(sizeof(*made));
    if (made == NULL) {
        return FAKE_OUT_OF_MEMORY;
    }
    *made = one;
    made->next = NULL;
    op **first = stream->capturing ? &stream->capture->first : &stream->first;
    op **last = stream->capturing ? &stream->capture->last : &stream->last;
    if (*first == NULL) {
        *first = made;
    } else {
        (*last)->next = made;
    }
    *last = made;
    if (!stream->capturing) {
        state.pending++;
        pthread_cond_signal(&stream->filled);
    }
    return 0;
}

/* `stream` cannot do this while it captures. */
static int refuse_capture(fake_stream *stream, int result) {
    if (stream->capturing) {
        stream->invalidated = 1;
        return result;
    }
    return 0;
}

static int begin_on(fake_stream *stream) {
    int result = begin();
    if (result == 0 && stream == NULL) {
        return finish(FAKE_INVALID_HANDLE); /* never the default stream */
    }
    if (result == 0 && stream->capturing && stream->invalidated) {
        return finish(FAKE_CAPTURE_INVALIDATED);
    }
    return result;
}

EXPORT int cuMemcpyAsync(uint64_t to, uint64_t from, size_t nbytes, fake_stream *stream) {
    int result = begin_on(stream);
    return result != 0 ? result : finish(put(stream, (op){.kind = OP_COPY, .to = to, .from = from, .nbytes = nbytes}));
}

EXPORT int cuMemsetD8Async(uint64_t to, unsigned char value, size_t nbytes, fake_stream *stream) {
    int result = begin_on(stream);
    return result != 0 ? result : finish(put(stream, (op){.kind = OP_SET, .to = to, .value = value, .nbytes = nbytes}));
}

EXPORT int cuLaunchHostFunc(fake_stream *stream, void (*function)(void *), void *argument) {
    int result = begin_on(stream);
    return result != 0 ? result
                       : finish(put(stream, (op){.kind = OP_HOST, .function = function, .argument = argument}));
}

EXPORT int fake_add_sub(fake_stream *stream, uint64_t a, uint64_t b, uint64_t sum, uint64_t difference, size_t count,
                        fake_gate *gate) {
    int result = begin_on(stream);
    op one = {.kind = OP_ADD_SUB, .to = a, .from = b, .third = sum, .fourth = difference, .nbytes = count, .gate = gate};
    return result != 0 ? result : finish(put(stream, one));
}

EXPORT void *fake_gather_kernel(void) { return GATHER_MARK; }

EXPORT int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                          unsigned block_y, unsigned block_z, unsigned shared_nbytes, fake_stream *stream,
                          void **arguments, void **extra) {
    int result = begin_on(stream);
    if (result != 0) {
        return result;
    }
    if (function != GATHER_MARK || grid_x == 0 || grid_y == 0 || grid_y > 65535 || grid_z != 1 || block_y != 1 ||
        block_z != 1 || block_x == 0 || block_x > 1024 || shared_nbytes != 0 || extra != NULL) {
        return finish(FAKE_INVALID_VALUE);
    }
    op one = {.kind = OP_GATHER, .to = *(uint64_t *)arguments[0], .from = *(uint64_t *)arguments[1], .nbytes = grid_x};
    return finish(put(stream, one));
}

/* -- streams, events, graphs ---------------------------------------------------------------------- */

EXPORT int cuInit(unsigned flags) { return flags == 0 ? 0 : FAKE_INVALID_VALUE; }

EXPORT int fake_stream_create(int priority, fake_stream **made) {
    int result = begin();
    if (result != 0) {
        return result;
    }
    fake_stream *stream = calloc(1, sizeof(*stream));
    if (stream == NULL) {
        return finish(FAKE_OUT_OF_MEMORY);
    }
    stream->priority = priority;
    stream->number = streams_made++;
    pthread_cond_init(&stream->filled, NULL);
    if (pthread_create(&stream->thread, NULL, stream_main, stream) != 0) {
        pthread_cond_destroy(&stream->filled);
        free(stream);
        return finish(FAKE_OUT_OF_MEMORY);
    }
    state.streams++;
    *made = stream;
    return finish(0);
}

static void free_ops(op *first) {
    while (first != NULL) {
        op *next = first->next;
        free(first);
        first = next;
    }
}

EXPORT int fake_stream_destroy(fake_stream *stream) {
    pthread_mutex_lock(&lock);
    stream->ending = 1;
    pthread_cond_signal(&stream->filled);
    pthread_mutex_unlock(&lock);
    pthread_join(stream->thread, NULL);
    if (stream->capture != NULL) {
        free_ops(stream->capture->first);
        free(stream->capture);
    }
    pthread_cond_destroy(&stream->filled);
    free(stream);
    pthread_mutex_lock(&lock);
    state.streams--;
    return finish(0);
}

EXPORT int fake_stream_priority(const fake_stream *stream) { return stream->priority; }

EXPORT int fake_stream_number(const fake_stream *stream) { return stream->number; }

EXPORT int cuStreamSynchronize(fake_stream *stream) {
    int result = begin_on(stream);
    if (result != 0) {
        return result;
    }
    result = refuse_capture(stream, FAKE_CAPTURE_UNSUPPORTED);
    while (result == 0 && (stream->first != NULL || stream->busy)) {
        pthread_cond_wait(&moved, &lock);
    }
    return finish(result != 0 ? result : broken);
}

EXPORT int fake_event_create(int timing, int spin, fake_event **made) {
    int result = begin();
    if (result != 0) {
        return result;
    }
    fake_event *event = calloc(1, sizeof(*event));
    if (event == NULL) {
        return finish(FAKE_OUT_OF_MEMORY);
    }
    event->timing = timing;
    event->spin = spin;
    state.events++;
    state.spinning += spin;
    *made = event;
    return finish(0);
}

EXPORT int fake_event_destroy(fake_event *event) {
    pthread_mutex_lock(&lock);
    while (event->in_use > 0) {
        pthread_cond_wait(&moved, &lock);
    }
    state.events--;
    state.spinning -= event->spin;
    free(event);
    return finish(0);
}

EXPORT int cuStreamWaitEvent(fake_stream *stream, fake_event *event, unsigned flags) {
    int result = begin_on(stream);
    if (result != 0) {
        return result;
    }
    if (event == NULL || flags != 0) {
        return finish(FAKE_INVALID_VALUE);
    }
    result = refuse_capture(stream, FAKE_CAPTURE_ISOLATION);
    if (result != 0 || event->reached >= event->recorded) {
        return finish(result);
    }
    event->in_use++;
    return finish(put(stream, (op){.kind = OP_WAIT, .event = event, .version = event->recorded}));
}

EXPORT int cuEventRecord(fake_event *event, fake_stream *stream) {
    int result = begin_on(stream);
    if (result != 0) {
        return result;
    }
    if (event == NULL) {
        return finish(FAKE_INVALID_HANDLE);
    }
    if (stream->capturing) {
        event->captured = 1; /* not visible outside of the graph */
        return finish(0);
    }
    event->captured = 0;
    event->in_use++;
    return finish(put(stream, (op){.kind = OP_RECORD, .event = event, .version = ++event->recorded}));
}

EXPORT int cuEventSynchronize(fake_event *event) {
    int result = begin();
    if (result != 0) {
        return result;
    }
    uint64_t version = event->recorded;
    if (event->captured) {
        return finish(FAKE_CAPTURED_EVENT);
    }
    event->in_use++;
    while (event->reached < version) {
        pthread_cond_wait(&moved, &lock);
    }
    event->in_use--;
    pthread_cond_broadcast(&moved);
    return finish(broken);
}

EXPORT int cuEventQuery(fake_event *event) {
    int result = begin();
    if (result != 0) {
        return result;
    }
    if (event->captured) {
        return finish(FAKE_CAPTURED_EVENT);
    }
    return finish(event->reached < event->recorded ? FAKE_NOT_READY : 0);
}

EXPORT int cuEventElapsedTime(float *ms, fake_event *start, fake_event *end) {
    int result = begin();
    if (result != 0) {
        return result;
    }
    if (!start->timing || !end->timing || start->reached == 0 || end->reached == 0) {
        return finish(FAKE_INVALID_HANDLE);
    }
    if (start->reached < start->recorded || end->reached < end->recorded) {
        return finish(FAKE_NOT_READY);
    }
    *ms = (float)((double)(end->time_ns - start->time_ns) / 1e6);
    return finish(0);
}

EXPORT int fake_begin_capture(fake_stream *stream) {
    int result = begin_on(stream);
    if (result != 0) {
        return result;
    }
    result = refuse_capture(stream, FAKE_INVALID_VALUE);
    if (result == 0) {
        stream->capture = calloc(1, sizeof(*stream->capture));
        stream->capturing = stream->capture != NULL;
        result = stream->capturing ? 0 : FAKE_OUT_OF_MEMORY;
    }
    return finish(result);
}

/* Ends the capture also when it fails. */
EXPORT int fake_end_capture(fake_stream *stream, fake_graph **made) {
    pthread_mutex_lock(&lock);
    int result = enter();
    if (!stream->capturing) {
        return finish(FAKE_INVALID_VALUE);
    }
    if (result == 0 && stream->invalidated) {
        result = FAKE_CAPTURE_INVALIDATED;
    }
    if (result == 0) {
        *made = stream->capture;
        state.graphs++;
    } else {
        free_ops(stream->capture->first);
        free(stream->capture);
    }
    stream->capture = NULL;
    stream->capturing = stream->invalidated = 0;
    return finish(result);
}

EXPORT int fake_destroy_graph(fake_graph *graph) {
    pthread_mutex_lock(&lock);
    while (graph->in_use > 0 && broken) {
        pthread_cond_wait(&moved, &lock); /* until the streams have thrown it away */
    }
    int result = graph->in_use > 0 ? FAKE_INVALID_VALUE : 0; /* a mistake that a test should see */
    if (result == 0) {
        free_ops(graph->first);
        free(graph);
        state.graphs--;
    }
    return finish(result);
}

EXPORT int cuGraphLaunch(fake_graph *graph, fake_stream *stream) {
    int result = begin_on(stream);
    if (result != 0) {
        return result;
    }
    graph->in_use++;
    return finish(put(stream, (op){.kind = OP_GRAPH, .graph = graph}));
}

EXPORT int cuMemcpy(uint64_t to, uint64_t from, size_t nbytes) {
    int result = begin();
    if (result != 0) {
        return result;
    }
    char *target = translate(to, nbytes);
    char *source = translate(from, nbytes);
    if (target == NULL || source == NULL) {
        broken = FAKE_ILLEGAL_ADDRESS;
        return finish(broken);
    }
    memmove(target, source, nbytes);
    return finish(0);
}

EXPORT int cuGetErrorName(int result, const char **name) {
    const char *known = result == FAKE_ILLEGAL_ADDRESS    ? "CUDA_ERROR_ILLEGAL_ADDRESS"
                        : result == FAKE_OUT_OF_MEMORY    ? "CUDA_ERROR_OUT_OF_MEMORY"
                        : result == FAKE_INVALID_VALUE    ? "CUDA_ERROR_INVALID_VALUE"
                        : result == FAKE_INVALID_HANDLE   ? "CUDA_ERROR_INVALID_HANDLE"
                        : result >= FAKE_CAPTURE_UNSUPPORTED ? "CUDA_ERROR_STREAM_CAPTURE"
                                                             : NULL;
    *name = known;
    return known == NULL ? FAKE_INVALID_VALUE : 0;
}

EXPORT int cuGetErrorString(int result, const char **text) {
    *text = result == FAKE_ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : "as the test wished";
    return 0;
}

/* -- the test's own ------------------------------------------------------------------------------- */

EXPORT fake_gate *fake_gate_new(void) {
    fake_gate *gate = calloc(1, sizeof(*gate));
    pthread_mutex_lock(&lock);
    state.gates++;
    pthread_mutex_unlock(&lock);
    return gate;
}

EXPORT void fake_gate_free(fake_gate *gate) {
    pthread_mutex_lock(&lock);
    state.gates--;
    pthread_mutex_unlock(&lock);
    free(gate);
}

EXPORT void fake_gate_shut(fake_gate *gate) {
    pthread_mutex_lock(&lock);
    gate->shut = 1;
    pthread_mutex_unlock(&lock);
}

EXPORT void fake_gate_open(fake_gate *gate) {
    pthread_mutex_lock(&lock);
    gate->shut = 0;
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&lock);
}

EXPORT void fake_gate_let_through(fake_gate *gate, int count) {
    pthread_mutex_lock(&lock);
    gate->passes += count;
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&lock);
}

EXPORT int fake_gate_await(fake_gate *gate, int arrivals, int timeout_s) {
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += timeout_s;
    pthread_mutex_lock(&lock);
    while (gate->arrivals < arrivals && pthread_cond_timedwait(&moved, &lock, &end) == 0) {
    }
    return finish(gate->arrivals >= arrivals);
}

EXPORT void fake_fail_at(int64_t call, int result, int lasting) {
    pthread_mutex_lock(&lock);
    fail_in = call;
    fail_result = result;
    fail_lasting = lasting;
    pthread_mutex_unlock(&lock);
}

EXPORT void fake_recover(void) {
    pthread_mutex_lock(&lock);
    fail_in = -1;
    broken = 0;
    pthread_mutex_unlock(&lock);
}

EXPORT void fake_read_state(fake_state *target) {
    pthread_mutex_lock(&lock);
    *target = state;
    pthread_mutex_unlock(&lock);
}

EXPORT size_t fake_trace(char *text, size_t nbytes) {
    pthread_mutex_lock(&lock);
    size_t count = traced < nbytes ? traced : nbytes;
    memcpy(text, trace, count);
    pthread_mutex_unlock(&lock);
    return count;
}

EXPORT void fake_trace_clear(void) {
    pthread_mutex_lock(&lock);
    traced = 0;
    pthread_mutex_unlock(&lock);
}
