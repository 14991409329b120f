/* What the two files of the fake CUDA driver share. All of it is used with the lock. */
#ifndef TRITON_ASYNC_TESTS_FAKE_CUDA_INTERNAL_H
#define TRITON_ASYNC_TESTS_FAKE_CUDA_INTERNAL_H

#include "fake_cuda.h"

#include <pthread.h>

#define EXPORT __attribute__((visibility("default")))

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

extern pthread_mutex_t fake_lock;
extern pthread_cond_t fake_moved; /* an event reached, a stream idle, a gate changed */
extern fake_state fake_live;
extern int fake_broken; /* the error that lasts */

int fake_enter(void);                         /* at the start of a call that can fail: its result so far */
int fake_begin(void);                         /* the same; takes the lock, and keeps it for a result of 0 */
int fake_begin_on(fake_stream *stream);       /* the same of a call on a stream */
int fake_finish(int result);                  /* gives the lock back, and the result */
int fake_refuse_capture(fake_stream *stream, int result); /* `result`, when the stream captures, which it ends */
int fake_put(fake_stream *stream, op one);    /* at the end of the stream's work, or of its graph */
void *fake_stream_main(void *stream);         /* the thread of a stream */

#endif
