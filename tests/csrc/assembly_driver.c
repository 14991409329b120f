/* Batches of unequal requests put together and taken apart again, with shapes at random, for the sanitizers. What stands
 * for a client's bytes is allocated to its exact size. */
#include "assembly.h"
#include "check.h"
#include "gather.h"

#include <string.h>

enum { REQUESTS = 6, RANK = 4 };

static unsigned long long state = 88172645463325252ULL;

static int64_t below(int64_t n) { return (int64_t)(next_random(&state) % (unsigned long long)n); }

/* A batch of a plan with one input that is padded or ragged, further ones that are made, and one output. */
typedef struct stage {
    ta_plan plan;
    ta_input_plan inputs[3];
    ta_output_plan outputs[1];
    ta_batch batch;
    ta_tensor tensors[4];
    ta_segment segments[3][REQUESTS];
    int64_t dims[REQUESTS][RANK];
    void *memory;
    ta_slab_pool *pool;
} stage;

static void begin(stage *s, int n_inputs, int n_lengths) {
    memset(s, 0, sizeof(*s));
    s->plan.n_inputs = n_inputs;
    s->plan.n_outputs = 1;
    s->plan.n_lengths = n_lengths;
    s->plan.inputs = s->inputs;
    s->plan.outputs = s->outputs;
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < TA_MAX_RANK; k++) {
            s->inputs[i].lengths[k] = s->outputs[0].lengths[k] = -1;
        }
        s->inputs[i].itemsize = 4;
        s->inputs[i].datatype = 8;
        s->tensors[i].segments = s->segments[i];
    }
    s->outputs[0].itemsize = 4;
    s->batch.inputs = s->tensors;
    s->batch.outputs = &s->tensors[3];
    s->batch.n_inputs = n_inputs;
    s->batch.n_outputs = 1;
    s->pool = ta_slab_pool_new(1 << 16);
}

/* Requests of `rank` dims behind the rows; the first `variable` of them differ. Each has its number in all elements. */
static void bring(stage *s, int requests, int rank, int variable) {
    ta_tensor *input = &s->tensors[0];
    s->batch.n_requests = input->n_segments = requests;
    input->wanted = 1;
    for (int i = 0; i < requests; i++) {
        ta_segment *segment = &s->segments[0][i];
        int64_t count = s->dims[i][0] = segment->rows = below(4);
        int32_t *data;
        for (int k = 1; k <= rank; k++) {
            s->dims[i][k] = k <= variable ? below(5) : 2;
            count *= s->dims[i][k];
        }
        data = malloc(count ? (size_t)count * 4 : 1);
        for (int64_t e = 0; e < count; e++) {
            data[e] = i + 1;
        }
        segment->data = (char *)data;
        segment->nbytes = count * 4;
        segment->dims = s->dims[i];
        segment->rank = rank + 1;
        s->batch.rows += segment->rows;
        input->nbytes += count * 4;
    }
}

static void close_batch(stage *s) {
    int64_t nbytes = ta_assembly_nbytes(&s->plan, s->batch.n_requests);
    s->memory = calloc(1, (size_t)nbytes);
    s->batch.assembly = ta_assembly_init(s->memory, &s->plan, &s->batch);
    for (int i = 0; i < s->batch.n_requests; i++) {
        s->batch.assembly->rows[i] = s->dims[i][0];
        for (int l = 0; l < s->plan.n_lengths; l++) {
            s->batch.assembly->lengths[i * s->plan.n_lengths + l] = s->dims[i][l + 1];
            if (s->batch.assembly->padded[l] < s->dims[i][l + 1]) {
                s->batch.assembly->padded[l] = s->dims[i][l + 1];
            }
        }
    }
    for (int i = 0; i < s->plan.n_inputs; i++) {
        if (i > 0) {
            s->tensors[i].wanted = s->tensors[i].n_segments = 1;
        }
        CHECK(ta_assembly_shape(&s->batch, i) == 0);
    }
}

static void end(stage *s) {
    ta_tensor_release(&s->tensors[3]);
    ta_tensor_release(&s->tensors[0]);
    ta_assembly_release(s->batch.assembly);
    ta_assembly_release(s->batch.assembly);
    ta_assembly_release(NULL);
    CHECK(s->pool->leased == 0);
    free(s->memory);
    ta_slab_pool_trim(s->pool);
    pthread_mutex_destroy(&s->pool->lock);
    free(s->pool);
}

static void forget(char *data[], int count) {
    for (int i = 0; i < count; i++) {
        free(data[i]);
    }
}

/* The engine's output is its input, in memory of its exact size. */
static char *echo(stage *s) {
    ta_tensor *input = &s->tensors[0], *output = &s->tensors[3];
    CHECK(ta_gather(input, s->pool) == 0);
    output->wanted = 1;
    output->rank = input->rank;
    memcpy(output->dims, input->dims, sizeof(output->dims));
    output->nbytes = input->nbytes;
    output->data = malloc(output->nbytes ? (size_t)output->nbytes : 1);
    if (output->nbytes) {
        memcpy(output->data, input->data, (size_t)output->nbytes);
    }
    return output->data;
}

static void check_parts(const stage *s) {
    const ta_tensor *output = &s->tensors[3];
    for (int i = 0; i < s->batch.n_requests; i++) {
        const ta_part *part = &output->parts[i];
        int64_t dims[TA_MAX_RANK], count = 1;
        int32_t rank = ta_part_dims(&s->batch, 0, i, dims);
        for (int k = 0; k < rank; k++) {
            CHECK(dims[k] == s->dims[i][k]);
            count *= dims[k];
        }
        CHECK(part->nbytes == count * 4 && part->start >= 0 && part->start + part->nbytes <= output->nbytes);
        for (int64_t e = 0; e < count; e++) {
            int32_t value;
            memcpy(&value, output->data + part->start + e * 4, 4);
            CHECK(value == i + 1);
        }
    }
}

static void padded_batches_come_apart_as_they_were(int rank, int variable) {
    static const int32_t pad = 0x01020304;
    stage s;
    char *sent[REQUESTS], *given;
    int32_t failed;
    int requests = 1 + (int)below(REQUESTS);
    begin(&s, 3, variable);
    s.inputs[0].kind = TA_INPUT_PADDED;
    s.inputs[1].kind = TA_INPUT_MASK;
    s.inputs[2].kind = TA_INPUT_LENGTHS;
    s.outputs[0].kind = TA_OUTPUT_CUT;
    s.inputs[0].rank = s.inputs[1].rank = s.outputs[0].rank = rank;
    for (int k = 0; k < rank; k++) {
        s.inputs[0].lengths[k] = s.inputs[1].lengths[k] = s.outputs[0].lengths[k] = k < variable ? k : -1;
        s.inputs[1].dims[k] = 2;
    }
    memcpy(s.inputs[0].pad, &pad, 4);
    memcpy(s.inputs[1].value, &(int32_t){1}, 4);
    bring(&s, requests, rank, variable);
    for (int i = 0; i < requests; i++) {
        sent[i] = (char *)s.segments[0][i].data;
    }
    close_batch(&s);
    CHECK(ta_assemble(&s.batch, s.pool, &failed) == 0);
    CHECK(ta_assemble(&s.batch, s.pool, &failed) == 0); /* nothing is made twice */
    given = echo(&s);
    for (int64_t e = 0; e < s.tensors[0].nbytes / 4; e++) {
        int32_t value, real;
        memcpy(&value, s.tensors[0].data + e * 4, 4);
        memcpy(&real, s.segments[1][0].data + e * 4, 4);
        CHECK(real ? value >= 1 && value <= requests : value == pad);
    }
    CHECK(ta_split_output(&s.batch, 0) == 0);
    check_parts(&s);
    end(&s);
    free(given);
    forget(sent, requests);
}

static void ragged_batches_come_apart_as_they_were(void) {
    stage s;
    char *sent[REQUESTS], *given;
    int32_t failed, rank = 1 + (int)below(3), requests = 1 + (int)below(REQUESTS);
    begin(&s, 3, 0);
    s.inputs[0].kind = TA_INPUT_RAGGED;
    s.inputs[1].kind = TA_INPUT_ELEMENT_COUNT + (int)below(4);
    s.inputs[2].kind = TA_INPUT_ITEM_SHAPE + (int)below(2);
    s.outputs[0].kind = TA_OUTPUT_SCATTERED;
    s.outputs[0].rank = rank + 1;
    memset(s.outputs[0].dims, 0xFF, sizeof(s.outputs[0].dims));
    bring(&s, requests, rank, rank);
    for (int i = 0; i < requests; i++) {
        sent[i] = (char *)s.segments[0][i].data;
    }
    close_batch(&s);
    CHECK(ta_assemble(&s.batch, s.pool, &failed) == 0);
    given = echo(&s);
    CHECK(ta_split_output(&s.batch, 0) == 0);
    check_parts(&s);
    s.tensors[3].dims[0]++;
    CHECK(ta_split_output(&s.batch, 0) == TA_OTHER_SHAPE);
    end(&s);
    free(given);
    forget(sent, requests);
}

int main(void) {
    for (int round = 0; round < 2000; round++) {
        padded_batches_come_apart_as_they_were(1 + round % 3, 1 + (int)below(1 + round % 3));
        ragged_batches_come_apart_as_they_were();
    }
    return 0;
}
