/* A CUDA driver over host memory, for tests without a GPU: fake_cuda.c, fake_cuda_objects.c.
 *
 * Every stream is a thread that runs what was put on it, in order. Device addresses carry a mark that makes them crash
 * when the host touches them; what a stream touches is checked against the live allocations, and anything else is an
 * illegal address, which lasts as on a GPU. Copies read and write when the stream comes to them, as with pinned
 * memory. The functions of csrc/cuda.h have the driver's names; what follows stands for the rest of the driver and for
 * the test's own wishes. Results are CUresults.
 */
#ifndef TRITON_ASYNC_TESTS_FAKE_CUDA_H
#define TRITON_ASYNC_TESTS_FAKE_CUDA_H

#include <stddef.h>
#include <stdint.h>

#define FAKE_DEVICE_MARK (1ull << 62)

typedef struct fake_stream fake_stream;
typedef struct fake_event fake_event;
typedef struct fake_graph fake_graph;
typedef struct fake_gate fake_gate;

enum {
    FAKE_INVALID_VALUE = 1,
    FAKE_OUT_OF_MEMORY = 2,
    FAKE_INVALID_HANDLE = 400,
    FAKE_NOT_READY = 600,
    FAKE_ILLEGAL_ADDRESS = 700,
    FAKE_CAPTURE_UNSUPPORTED = 900,
    FAKE_CAPTURE_INVALIDATED = 901,
    FAKE_CAPTURE_ISOLATION = 905,
    FAKE_CAPTURED_EVENT = 907,
};

/* Live objects, calls that counted and what streams have still to do. */
typedef struct fake_state {
    int64_t streams, events, graphs, allocations, pinned, gates;
    int64_t nbytes;  /* of device memory */
    int64_t calls;   /* that could have failed */
    int64_t pending; /* operations on streams */
    int64_t spinning; /* events made to be waited for busily */
} fake_state;

int fake_stream_create(int priority, fake_stream **made);
int fake_stream_destroy(fake_stream *stream);
int fake_stream_priority(const fake_stream *stream);
int fake_stream_number(const fake_stream *stream); /* as in fake_trace */
int fake_event_create(int timing, int spin, fake_event **made);
int fake_event_destroy(fake_event *event);
int fake_allocate(size_t nbytes, uint64_t *address);
int fake_free(uint64_t address);
int fake_allocate_pinned(size_t nbytes, uint64_t *address);
int fake_free_pinned(uint64_t address);
int fake_begin_capture(fake_stream *stream);
int fake_end_capture(fake_stream *stream, fake_graph **made);
int fake_destroy_graph(fake_graph *graph);

/* The kernel of csrc/gather.cu, for cuLaunchKernel. */
void *fake_gather_kernel(void);

/* Puts FP32 sums and differences of `count` elements on `stream`. `gate`, may be NULL: passed before they are made. */
int fake_add_sub(fake_stream *stream, uint64_t a, uint64_t b, uint64_t sum, uint64_t difference, size_t count,
                 fake_gate *gate);

/* A gate holds the streams that come to it, one after the other, once shut. */
fake_gate *fake_gate_new(void);
void fake_gate_free(fake_gate *gate);
void fake_gate_shut(fake_gate *gate);
void fake_gate_open(fake_gate *gate);            /* for good */
void fake_gate_let_through(fake_gate *gate, int count);
int fake_gate_await(fake_gate *gate, int arrivals, int timeout_s); /* 1: so many have come, since it was made */

/* Call number `call` from now (0: the next) fails with `result`. `lasting`: and every one after it. */
void fake_fail_at(int64_t call, int result, int lasting);
void fake_recover(void); /* a new context: nothing fails any more */
void fake_read_state(fake_state *state);

/* Kinds of the last operations run, oldest first, one letter each with the stream's number: "c3" a copy on the fourth
 * stream ever made. Bytes written. */
size_t fake_trace(char *text, size_t nbytes);
void fake_trace_clear(void);

#endif
