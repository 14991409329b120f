#include "fake_cuda_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TRACE_NBYTES 65536
#define GATHER_MARK ((void *)0x6a7)

typedef struct piece { /* of csrc/gather.cu */
    uint64_t from;
    uint64_t offset;
    uint64_t nbytes;
} piece;

typedef struct allocation {
    struct allocation *next;
    uint64_t start;
    size_t nbytes;
    int pinned;
} allocation;

/* One lock for everything: what matters here is order. */
pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t fake_moved = PTHREAD_COND_INITIALIZER; /* an event reached, a stream idle, a gate changed */
fake_state fake_live;
static allocation *allocations;
static int64_t fail_in = -1;
static int fail_result, fail_lasting;
int fake_broken; /* the error that lasts */
static char trace[TRACE_NBYTES];
static size_t traced;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* With the lock, at the start of every call that can fail. */
int fake_enter(void) {
    fake_live.calls++;
    if (fake_broken) {
        return fake_broken;
    }
    if (fail_in >= 0 && fail_in-- == 0) {
        if (fail_lasting) {
            fake_broken = fail_result;
        }
        return fail_result;
    }
    return 0;
}

int fake_begin(void) {
    pthread_mutex_lock(&fake_lock);
    int result = fake_enter();
    if (result != 0) {
        pthread_mutex_unlock(&fake_lock);
    }
    return result;
}

int fake_finish(int result) {
    pthread_mutex_unlock(&fake_lock);
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
                fake_live.pinned--;
            } else {
                fake_live.allocations--;
                fake_live.nbytes -= (int64_t)found->nbytes;
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
    int result = fake_begin();
    if (result != 0) {
        return result;
    }
    result = allocate(nbytes, 0, address);
    fake_live.allocations += result == 0;
    fake_live.nbytes += result == 0 ? (int64_t)nbytes : 0;
    return fake_finish(result);
}

EXPORT int fake_allocate_pinned(size_t nbytes, uint64_t *address) {
    int result = fake_begin();
    if (result != 0) {
        return result;
    }
    result = allocate(nbytes, 1, address);
    fake_live.pinned += result == 0;
    return fake_finish(result);
}

/* Freeing works in a broken context too, as far as the counts of the tests go. */
EXPORT int fake_free(uint64_t address) {
    pthread_mutex_lock(&fake_lock);
    return fake_finish(release(address, 0));
}

EXPORT int fake_free_pinned(uint64_t address) {
    pthread_mutex_lock(&fake_lock);
    return fake_finish(release(address, 1));
}

/* -- what a stream does --------------------------------------------------------------------------- */

static void note(char kind, int number) {
    if (traced + 12 < TRACE_NBYTES) {
        traced += (size_t)snprintf(trace + traced, 12, "%c%d ", kind, number);
    }
}

static void pass(fake_gate *gate) {
    gate->arrivals++;
    pthread_cond_broadcast(&fake_moved);
    while (gate->shut && gate->passes == 0) {
        pthread_cond_wait(&fake_moved, &fake_lock);
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
            pthread_cond_wait(&fake_moved, &fake_lock);
        }
        self->event->in_use--;
        return 0;
    case OP_RECORD:
        if (self->event->reached < self->version) {
            self->event->reached = self->version;
            self->event->time_ns = now_ns();
        }
        self->event->in_use--;
        pthread_cond_broadcast(&fake_moved);
        return 0;
    case OP_HOST:
        note('h', stream->number);
        pthread_mutex_unlock(&fake_lock);
        self->function(self->argument);
        pthread_mutex_lock(&fake_lock);
        return 0;
    case OP_COPY: {
        char *to = translate(self->to, self->nbytes);
        char *from = translate(self->from, self->nbytes);
        note('c', stream->number);
        if (to == NULL || from == NULL) {
            return FAKE_ILLEGAL_ADDRESS;
        }
        /* With the lock: once an error lasts, calls no longer wait, and what is copied here may be freed. */
        memmove(to, from, self->nbytes);
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

void *fake_stream_main(void *argument) {
    fake_stream *stream = argument;
    pthread_mutex_lock(&fake_lock);
    while (1) {
        while (stream->first == NULL && !stream->ending) {
            pthread_cond_wait(&stream->filled, &fake_lock);
        }
        op *next = stream->first;
        if (next == NULL) {
            break;
        }
        stream->first = next->next;
        stream->busy = 1;
        /* In a broken context nothing runs any more; events still come, so that nothing waits for ever. */
        if (!fake_broken || next->kind == OP_WAIT || next->kind == OP_RECORD) {
            int result = run(next, stream);
            if (result != 0) {
                fake_broken = result;
            }
        }
        if (next->kind == OP_GRAPH) {
            next->graph->in_use--;
        }
        free(next);
        fake_live.pending--;
        stream->busy = 0;
        pthread_cond_broadcast(&fake_moved);
    }
    pthread_mutex_unlock(&fake_lock);
    return NULL;
}

int fake_put(fake_stream *stream, op one) {
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
        fake_live.pending++;
        pthread_cond_signal(&stream->filled);
    }
    return 0;
}

/* `stream` cannot do this while it captures. */
int fake_refuse_capture(fake_stream *stream, int result) {
    if (stream->capturing) {
        stream->invalidated = 1;
        return result;
    }
    return 0;
}

int fake_begin_on(fake_stream *stream) {
    int result = fake_begin();
    if (result == 0 && stream == NULL) {
        return fake_finish(FAKE_INVALID_HANDLE); /* never the default stream */
    }
    if (result == 0 && stream->capturing && stream->invalidated) {
        return fake_finish(FAKE_CAPTURE_INVALIDATED);
    }
    return result;
}

EXPORT int cuMemcpyAsync(uint64_t to, uint64_t from, size_t nbytes, fake_stream *stream) {
    int result = fake_begin_on(stream);
    return result != 0 ? result : fake_finish(fake_put(stream, (op){.kind = OP_COPY, .to = to, .from = from, .nbytes = nbytes}));
}

EXPORT int cuMemsetD8Async(uint64_t to, unsigned char value, size_t nbytes, fake_stream *stream) {
    int result = fake_begin_on(stream);
    return result != 0 ? result : fake_finish(fake_put(stream, (op){.kind = OP_SET, .to = to, .value = value, .nbytes = nbytes}));
}

EXPORT int cuLaunchHostFunc(fake_stream *stream, void (*function)(void *), void *argument) {
    int result = fake_begin_on(stream);
    return result != 0 ? result
                       : fake_finish(fake_put(stream, (op){.kind = OP_HOST, .function = function, .argument = argument}));
}

EXPORT int fake_add_sub(fake_stream *stream, uint64_t a, uint64_t b, uint64_t sum, uint64_t difference, size_t count,
                        fake_gate *gate) {
    int result = fake_begin_on(stream);
    op one = {.kind = OP_ADD_SUB, .to = a, .from = b, .third = sum, .fourth = difference, .nbytes = count, .gate = gate};
    return result != 0 ? result : fake_finish(fake_put(stream, one));
}

EXPORT void *fake_gather_kernel(void) { return GATHER_MARK; }

EXPORT int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                          unsigned block_y, unsigned block_z, unsigned shared_nbytes, fake_stream *stream,
                          void **arguments, void **extra) {
    int result = fake_begin_on(stream);
    if (result != 0) {
        return result;
    }
    if (function != GATHER_MARK || grid_x == 0 || grid_y == 0 || grid_y > 65535 || grid_z != 1 || block_y != 1 ||
        block_z != 1 || block_x == 0 || block_x > 1024 || shared_nbytes != 0 || extra != NULL) {
        return fake_finish(FAKE_INVALID_VALUE);
    }
    op one = {.kind = OP_GATHER, .to = *(uint64_t *)arguments[0], .from = *(uint64_t *)arguments[1], .nbytes = grid_x};
    return fake_finish(fake_put(stream, one));
}

EXPORT int cuInit(unsigned flags) { return flags == 0 ? 0 : FAKE_INVALID_VALUE; }

EXPORT int cuMemcpy(uint64_t to, uint64_t from, size_t nbytes) {
    int result = fake_begin();
    if (result != 0) {
        return result;
    }
    char *target = translate(to, nbytes);
    char *source = translate(from, nbytes);
    if (target == NULL || source == NULL) {
        fake_broken = FAKE_ILLEGAL_ADDRESS;
        return fake_finish(fake_broken);
    }
    memmove(target, source, nbytes);
    return fake_finish(0);
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
    pthread_mutex_lock(&fake_lock);
    fake_live.gates++;
    pthread_mutex_unlock(&fake_lock);
    return gate;
}

EXPORT void fake_gate_free(fake_gate *gate) {
    pthread_mutex_lock(&fake_lock);
    fake_live.gates--;
    pthread_mutex_unlock(&fake_lock);
    free(gate);
}

EXPORT void fake_gate_shut(fake_gate *gate) {
    pthread_mutex_lock(&fake_lock);
    gate->shut = 1;
    pthread_mutex_unlock(&fake_lock);
}

EXPORT void fake_gate_open(fake_gate *gate) {
    pthread_mutex_lock(&fake_lock);
    gate->shut = 0;
    pthread_cond_broadcast(&fake_moved);
    pthread_mutex_unlock(&fake_lock);
}

EXPORT void fake_gate_let_through(fake_gate *gate, int count) {
    pthread_mutex_lock(&fake_lock);
    gate->passes += count;
    pthread_cond_broadcast(&fake_moved);
    pthread_mutex_unlock(&fake_lock);
}

EXPORT int fake_gate_await(fake_gate *gate, int arrivals, int timeout_s) {
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += timeout_s;
    pthread_mutex_lock(&fake_lock);
    while (gate->arrivals < arrivals && pthread_cond_timedwait(&fake_moved, &fake_lock, &end) == 0) {
    }
    return fake_finish(gate->arrivals >= arrivals);
}

EXPORT void fake_fail_at(int64_t call, int result, int lasting) {
    pthread_mutex_lock(&fake_lock);
    fail_in = call;
    fail_result = result;
    fail_lasting = lasting;
    pthread_mutex_unlock(&fake_lock);
}

EXPORT void fake_recover(void) {
    pthread_mutex_lock(&fake_lock);
    fail_in = -1;
    fake_broken = 0;
    pthread_mutex_unlock(&fake_lock);
}

EXPORT void fake_read_state(fake_state *target) {
    pthread_mutex_lock(&fake_lock);
    *target = fake_live;
    pthread_mutex_unlock(&fake_lock);
}

EXPORT size_t fake_trace(char *text, size_t nbytes) {
    pthread_mutex_lock(&fake_lock);
    size_t count = traced < nbytes ? traced : nbytes;
    memcpy(text, trace, count);
    pthread_mutex_unlock(&fake_lock);
    return count;
}

EXPORT void fake_trace_clear(void) {
    pthread_mutex_lock(&fake_lock);
    traced = 0;
    pthread_mutex_unlock(&fake_lock);
}
