/* How batches of requests that differ in shape are put together, and their outputs taken apart. No Python, no GIL.
 *
 * A plan belongs to a model's signature and never changes. A batch of such a model has an assembly: lengths that the
 * loop thread wrote down when the batch closed, and the memory that the instance thread leases for what it makes.
 */
#ifndef TRITON_ASYNC_ASSEMBLY_H
#define TRITON_ASYNC_ASSEMBLY_H

#include "batch.h"
#include "slab.h"

#define TA_MAX_LENGTHS 8   /* of one model: dimensions that are padded independently of each other */
#define TA_VALUE_NBYTES 8  /* the largest element */

/* How an input of the batch comes about. Those from TA_INPUT_MASK on are made by the server. */
enum ta_input_kind {
    TA_INPUT_PLAIN = 0,  /* rows of one shape behind each other */
    TA_INPUT_RAGGED = 1, /* all elements of all requests behind each other, in one dimension */
    TA_INPUT_PADDED = 2, /* rows of the longest shape; what a request does not have is `pad` */
    TA_INPUT_MASK = 3,   /* `value` where a row has elements, `pad` where it was padded */
    TA_INPUT_LENGTHS = 4, /* for each row, how long it is */
    /* batch_input of a config, from the shapes of `source`. The first three have an element for each request: */
    TA_INPUT_ELEMENT_COUNT = 5,
    TA_INPUT_ACCUMULATED = 6,
    TA_INPUT_ACCUMULATED_WITH_ZERO = 7, /* and one more in front */
    TA_INPUT_MAX_COUNT_AS_SHAPE = 8,    /* one dimension, as long as the request with most elements; zeros */
    TA_INPUT_ITEM_SHAPE = 9,            /* for each row, its dimensions */
    TA_INPUT_ITEM_SHAPE_FLATTEN = 10
};

/* How an output of the batch is given to its requests. */
enum ta_output_kind {
    TA_OUTPUT_PLAIN = 0,     /* by rows */
    TA_OUTPUT_SCATTERED = 1, /* one behind the other, each of its own shape */
    TA_OUTPUT_CUT = 2        /* by rows, without what belongs to padding */
};

typedef struct ta_input_plan {
    int32_t kind;
    int32_t datatype;
    int32_t itemsize; /* 0: BYTES */
    int32_t source;   /* input whose shapes a batch_input tells */
    int32_t length;   /* TA_INPUT_LENGTHS: which */
    int32_t rank;     /* behind the rows: of padded ones, masks and lengths */
    int64_t dims[TA_MAX_RANK];    /* of masks and lengths; -1 where `lengths` says */
    int32_t lengths[TA_MAX_RANK]; /* which length a dimension has; -1: none, it is the same for all */
    char value[TA_VALUE_NBYTES];  /* one element each */
    char pad[TA_VALUE_NBYTES];
} ta_input_plan;

typedef struct ta_output_plan {
    int32_t kind;
    int32_t itemsize; /* 0: BYTES */
    int32_t source; /* TA_OUTPUT_SCATTERED: input whose dimensions stand for -1 */
    int32_t rank;   /* scattered: with rows; cut: behind the rows */
    int64_t dims[TA_MAX_RANK];
    int32_t lengths[TA_MAX_RANK];
} ta_output_plan;

typedef struct ta_plan {
    int32_t n_lengths;
    int32_t n_inputs;
    int32_t n_outputs;
    ta_input_plan *inputs;
    ta_output_plan *outputs;
    void *owner; /* the BatchPlan */
} ta_plan;

struct ta_assembly {
    const ta_plan *plan;
    ta_slab_pool *pool;              /* of what is made; set by ta_assemble */
    int64_t *rows;                   /* of each request */
    int64_t *lengths;                /* plan->n_lengths for each request */
    int64_t padded[TA_MAX_LENGTHS];  /* what the batch is padded to */
    ta_slab **made;                  /* for each input, or NULL */
    int32_t n_inputs;
};

enum ta_assembly_result {
    TA_ASSEMBLED = 0,
    TA_NO_MEMORY = -1,
    TA_TOO_MANY = -2,     /* a count does not fit its data type */
    TA_OTHER_SHAPE = -3,  /* an output has not the shape that the inputs ask for */
    TA_BAD_STRINGS = -4
};

/* Bytes that an assembly with its arrays and the parts of its outputs take. */
int64_t ta_assembly_nbytes(const ta_plan *plan, int64_t n_requests);
/* Lays an assembly out in zeroed memory, and gives the batch's outputs their parts. Loop thread. */
ta_assembly *ta_assembly_init(void *memory, const ta_plan *plan, ta_batch *batch);
/* Sets rank, dims and nbytes of input `index`, whose segments and the assembly's rows and lengths are there. 0, or -1
 * when they overflow. Loop thread. */
int ta_assembly_shape(ta_batch *batch, int32_t index);
/* Makes the bytes of every input that is not just what requests sent, which it leaves to the engine. What it makes has
 * one segment. The first input that could not be made goes to `failed`. Instance thread, before the engine. */
int ta_assemble(ta_batch *batch, ta_slab_pool *pool, int32_t *failed);
/* The shape of a request's part of an output; returns its rank. */
int32_t ta_part_dims(const ta_batch *batch, int32_t index, int32_t request, int64_t *dims);
/* Finds the parts of an output that the engine has filled, in host memory, and takes padding out where it stands between
 * what is to stay. Once; not for one that is split by rows. */
int ta_split_output(ta_batch *batch, int32_t index);
/* Gives back what was leased for inputs. Safe to call twice, and with NULL. */
void ta_assembly_release(ta_assembly *assembly);

#endif
