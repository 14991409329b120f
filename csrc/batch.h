/* One batch as an instance thread sees it: plain memory, no Python object, usable without the GIL.
 *
 * The loop thread fills it when the batch closes; from the hand-over to the event ring only the instance
 * thread touches it; afterwards only the loop thread again. Nothing but `phase` is shared at the same time.
 */
#ifndef TRITON_ASYNC_BATCH_H
#define TRITON_ASYNC_BATCH_H

#include "event.h"
#include "memory_type.h"

#include <stdatomic.h>
#include <stdint.h>

#define TA_MAX_RANK 16
#define TA_ERROR_NBYTES 1024

/* What one request brings to one input of the batch. Bytes belong to the request. */
typedef struct ta_segment {
    const char *data;
    int64_t nbytes;
    int64_t rows; /* 1 when the model has no batch dimension */
    int32_t memory_type;
    int32_t device_id;
    const int64_t *dims; /* as the request sent them */
    int32_t rank;
} ta_segment;

/* What belongs to one request of an output that is not split by rows: bytes, from the output's first one on. */
typedef struct ta_part {
    int64_t start;
    int64_t nbytes;
} ta_part;

typedef struct ta_assembly ta_assembly; /* assembly.h */

/* Who asks for an output. */
enum ta_wanted {
    TA_NOT_WANTED = 0,
    TA_WANTED = 1,         /* some request takes it in its response: the host needs it */
    TA_WANTED_PLACED = 2,  /* only placements take it: once all are done, `data` may be NULL or stale */
    TA_WANTED_ANYWHERE = 3 /* those who take it in a response take it where it is, on a device too */
};

/* One input or output of a whole batch.
 *
 * dims are as the engine sees them: batch dimension first when the model batches, `reshape` applied.
 * BYTES elements stand in wire form: 4-byte little-endian length, then the bytes.
 *
 * Input: `data` is set when one request alone is the batch, else it is NULL and `segments` say what to gather
 * (ta_gather leases the memory and sets `owner`).
 * Output: the instance sets datatype, rank, dims, nbytes, data, memory_type, device_id and, when `data` was
 * leased from elsewhere (never NULL, also for zero bytes), owner + release; release(owner) is called once, on any
 * thread, without the GIL.
 */
typedef struct ta_tensor {
    int32_t datatype;
    int32_t rank;
    int64_t dims[TA_MAX_RANK];
    int64_t nbytes;
    char *data;
    int32_t memory_type;
    int32_t device_id;
    int32_t wanted; /* input: the requests bring it; output: ta_wanted */
    int32_t n_segments;
    ta_segment *segments;
    void *owner;
    void (*release)(void *owner);
    ta_part *parts; /* output: of each request, once it was split; NULL: by rows */
} ta_tensor;

/* What became of a placement. */
enum ta_placed {
    TA_NOT_PLACED = 0,
    TA_PLACED = 1,
    TA_TOO_SMALL = -1,   /* it does not fit, nothing was written */
    TA_COPY_FAILED = -2  /* `result` says why */
};

/* Where one request wants its rows of one output: a part of a shared memory region, which the request keeps leased.
 *
 * Filled by the loop thread, in the order of outputs, then requests. Whoever copies the rows there sets `nbytes` and
 * `placed`, when the bytes are there or refused: an instance that has the output on a device, else core (Transfer)
 * from what the instance left in `data`. An output whose takers all have placements needs no host copy. */
typedef struct ta_placement {
    char *data;
    int64_t capacity;
    int32_t memory_type;
    int32_t device_id;
    int32_t output;  /* index in the signature */
    int32_t request; /* index in the batch */
    int64_t row;     /* first row of the request in the batch; 0 when the model has no batch dimension */
    int64_t rows;    /* 0 when the model has no batch dimension: the whole output */
    int64_t nbytes;  /* written */
    int32_t placed;  /* ta_placed */
    int32_t result;  /* CUresult of a copy that failed */
} ta_placement;

/* What became of a batch that was handed to an instance. The loop takes back what has not begun. */
enum ta_phase {
    TA_HANDED = 0, /* in the mailbox */
    TA_BEGUN = 1,  /* the instance has it */
    TA_REVOKED = 2 /* the loop has taken its requests back; the instance only passes it on */
};

/* `inputs` and `outputs` follow the order of the model's signature. */
typedef struct ta_batch {
    ta_message message; /* TA_EXECUTED; the first member */
    _Atomic int32_t phase; /* ta_phase */
    int32_t by_request; /* 1: the engine answers and releases each request itself; `outputs` mean nothing */
    ta_message *told;   /* messages of such an engine that go up right before the batch, the oldest first, or NULL */
    int32_t n_inputs;
    int32_t n_outputs;
    ta_tensor *inputs;
    ta_tensor *outputs;
    int64_t rows;       /* sum of the requests' rows */
    int32_t n_requests;
    int32_t n_placements;
    ta_placement *placements;
    ta_assembly *assembly; /* of a model whose requests may differ in shape, or NULL */
    int32_t device_inputs; /* 1: some segment is in GPU memory */
    int32_t failed;     /* 0: outputs are valid; 1: error_code and error say why, outputs are ignored */
    int32_t error_code; /* Code of triton_async.errors */
    char error[TA_ERROR_NBYTES];
    /* CLOCK_MONOTONIC nanoseconds, in this order: */
    int64_t compute_start_ns;        /* instance thread took the batch */
    int64_t compute_input_end_ns;    /* inputs gathered and bound */
    int64_t compute_output_start_ns; /* engine done */
    int64_t compute_end_ns;          /* outputs readable */
    void *owner;                     /* the Batch object, borrowed: alive while the batch is out */
} ta_batch;

/* The instance has the batch from here on; 0 when the loop has revoked it. Instance thread. */
static inline int ta_batch_begin(ta_batch *batch) {
    int32_t handed = TA_HANDED;
    return atomic_compare_exchange_strong_explicit(&batch->phase, &handed, TA_BEGUN, memory_order_acq_rel,
                                                   memory_order_acquire);
}

/* Takes a batch back that has not begun; 0 when it has. Loop thread. */
static inline int ta_batch_revoke(ta_batch *batch) {
    int32_t handed = TA_HANDED;
    return atomic_compare_exchange_strong_explicit(&batch->phase, &handed, TA_REVOKED, memory_order_acq_rel,
                                                   memory_order_acquire);
}

static inline int32_t ta_batch_phase(ta_batch *batch) {
    return atomic_load_explicit(&batch->phase, memory_order_acquire);
}

#endif
