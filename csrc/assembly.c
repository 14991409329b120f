#include "assembly.h"

#include "gather.h"

#include <stdint.h>
#include <string.h>

/* -- rectangles ----------------------------------------------------------------------------------- */

/* A block of `inner` dims at the beginning of one of `outer` dims. Below dimension `last` the two are alike. */
typedef struct rectangle {
    int last;
    int64_t inner[TA_MAX_RANK];
    int64_t outer[TA_MAX_RANK];
    int64_t inner_stride[TA_MAX_RANK]; /* bytes of one step */
    int64_t outer_stride[TA_MAX_RANK];
    const char *pad;
    int64_t itemsize;
} rectangle;

static void set_strides(rectangle *r, int rank, int64_t itemsize) {
    int64_t inner = itemsize, outer = itemsize;
    r->last = 0;
    r->itemsize = itemsize;
    for (int k = rank - 1; k >= 0; k--) {
        r->inner_stride[k] = inner;
        r->outer_stride[k] = outer;
        inner *= r->inner[k];
        outer *= r->outer[k];
        if (r->last == 0 && r->inner[k] != r->outer[k]) {
            r->last = k;
        }
    }
}

static void fill(char *to, int64_t nbytes, const char *element, int64_t itemsize) {
    int64_t done = itemsize;
    int same = 1;
    if (nbytes <= 0) {
        return;
    }
    for (int64_t i = 1; i < itemsize; i++) {
        same = same && element[i] == element[0];
    }
    if (same) {
        memset(to, element[0], (size_t)nbytes);
        return;
    }
    memcpy(to, element, (size_t)itemsize);
    while (done < nbytes) {
        int64_t more = done < nbytes - done ? done : nbytes - done;
        memcpy(to + done, to, (size_t)more);
        done += more;
    }
}

/* Fills the outer block at `to`: `from`, or `value` when that is NULL, and pad around it. */
static void pad(const rectangle *r, char *to, const char *from, const char *value, int k) {
    int64_t used = r->inner[k] * r->outer_stride[k];
    if (k == r->last) {
        if (from == NULL) {
            fill(to, used, value, r->itemsize);
        } else if (used > 0) {
            memcpy(to, from, (size_t)used);
        }
    } else {
        for (int64_t i = 0; i < r->inner[k]; i++) {
            pad(r, to + i * r->outer_stride[k], from == NULL ? NULL : from + i * r->inner_stride[k], value, k + 1);
        }
    }
    fill(to + used, (r->outer[k] - r->inner[k]) * r->outer_stride[k], r->pad, r->itemsize);
}

/* Copies the inner block out of the outer one at `from`. */
static void cut(const rectangle *r, char *to, const char *from, int k) {
    if (k == r->last) {
        if (r->inner[k] > 0 && r->inner_stride[k] > 0) {
            memcpy(to, from, (size_t)(r->inner[k] * r->inner_stride[k]));
        }
        return;
    }
    for (int64_t i = 0; i < r->inner[k]; i++) {
        cut(r, to + i * r->inner_stride[k], from + i * r->outer_stride[k], k + 1);
    }
}

/* -- sizes ---------------------------------------------------------------------------------------- */

/* Product of `rank` dims and `itemsize`; -1 when it does not fit. */
static int64_t product(const int64_t *dims, int rank, int64_t itemsize) {
    int64_t total = itemsize;
    for (int k = 0; k < rank; k++) {
        if (dims[k] < 0 || __builtin_mul_overflow(total, dims[k], &total)) {
            return -1;
        }
    }
    return total;
}

static int64_t length_of(const ta_assembly *assembly, int32_t request, int32_t length) {
    return assembly->lengths[(int64_t)request * assembly->plan->n_lengths + length];
}

static int64_t padded_nbytes(int64_t nbytes) { return (nbytes + 15) & ~(int64_t)15; }

int64_t ta_assembly_nbytes(const ta_plan *plan, int64_t n_requests) {
    int64_t split = 0;
    for (int32_t i = 0; i < plan->n_outputs; i++) {
        split += plan->outputs[i].kind != TA_OUTPUT_PLAIN;
    }
    return padded_nbytes((int64_t)sizeof(ta_assembly)) + padded_nbytes(plan->n_inputs * (int64_t)sizeof(ta_slab *)) +
           padded_nbytes(n_requests * (1 + plan->n_lengths) * (int64_t)sizeof(int64_t)) +
           split * n_requests * (int64_t)sizeof(ta_part);
}

ta_assembly *ta_assembly_init(void *memory, const ta_plan *plan, ta_batch *batch) {
    char *at = memory;
    ta_assembly *assembly = memory;
    assembly->plan = plan;
    assembly->n_inputs = plan->n_inputs;
    at += padded_nbytes((int64_t)sizeof(ta_assembly));
    assembly->made = (ta_slab **)at;
    at += padded_nbytes(plan->n_inputs * (int64_t)sizeof(ta_slab *));
    assembly->rows = (int64_t *)at;
    assembly->lengths = assembly->rows + batch->n_requests;
    at += padded_nbytes(batch->n_requests * (int64_t)(1 + plan->n_lengths) * (int64_t)sizeof(int64_t));
    for (int32_t i = 0; i < plan->n_outputs; i++) {
        if (plan->outputs[i].kind != TA_OUTPUT_PLAIN) {
            batch->outputs[i].parts = (ta_part *)at;
            at += batch->n_requests * (int64_t)sizeof(ta_part);
        }
    }
    return assembly;
}

/* Elements that a request brings to an input. */
static int64_t count_of(const ta_segment *segment) { return product(segment->dims, segment->rank, 1); }

static int64_t total_or_most(const ta_tensor *source, int most) {
    int64_t found = 0;
    for (int32_t i = 0; i < source->n_segments; i++) {
        int64_t count = count_of(&source->segments[i]);
        if (count < 0 || (!most && __builtin_add_overflow(found, count, &count))) {
            return -1;
        }
        found = most && found > count ? found : count;
    }
    return found;
}

/* Rows and dims behind them of a batch_input that tells shapes. The first dimension of each request is its rows. */
static int64_t item_rows(const ta_tensor *source) {
    int64_t rows = 0;
    for (int32_t i = 0; i < source->n_segments; i++) {
        rows += source->segments[i].rank > 0 ? source->segments[i].dims[0] : 0;
    }
    return rows;
}

static int64_t item_rank(const ta_tensor *source) {
    return source->n_segments && source->segments[0].rank > 0 ? source->segments[0].rank - 1 : 0;
}

int ta_assembly_shape(ta_batch *batch, int32_t index) {
    const ta_assembly *assembly = batch->assembly;
    const ta_input_plan *plan = &assembly->plan->inputs[index];
    ta_tensor *input = &batch->inputs[index];
    const ta_tensor *source = &batch->inputs[plan->source];
    input->rank = 1;
    switch (plan->kind) {
    case TA_INPUT_RAGGED:
        input->dims[0] = total_or_most(input, 0);
        return input->dims[0] < 0 ? -1 : 0; /* its bytes are those of the segments */
    case TA_INPUT_ELEMENT_COUNT:
    case TA_INPUT_ACCUMULATED:
        input->dims[0] = source->n_segments;
        break;
    case TA_INPUT_ACCUMULATED_WITH_ZERO:
        input->dims[0] = source->n_segments + 1;
        break;
    case TA_INPUT_MAX_COUNT_AS_SHAPE:
        input->dims[0] = total_or_most(source, 1);
        break;
    case TA_INPUT_ITEM_SHAPE:
        input->rank = 2;
        input->dims[0] = item_rows(source);
        input->dims[1] = item_rank(source);
        break;
    case TA_INPUT_ITEM_SHAPE_FLATTEN:
        input->dims[0] = item_rows(source) * item_rank(source);
        break;
    default: /* padded, masks, lengths */
        input->rank = plan->rank + 1;
        input->dims[0] = batch->rows;
        for (int k = 0; k < plan->rank; k++) {
            if (plan->lengths[k] >= 0) {
                input->dims[k + 1] = assembly->padded[plan->lengths[k]];
            } else {
                input->dims[k + 1] = plan->kind == TA_INPUT_PADDED ? input->segments[0].dims[k + 1] : plan->dims[k];
            }
        }
    }
    input->nbytes = product(input->dims, input->rank, plan->itemsize);
    return input->nbytes < 0 ? -1 : 0;
}

/* -- inputs --------------------------------------------------------------------------------------- */

enum { DATATYPE_INT32 = 8, DATATYPE_INT64 = 9 }; /* else FP32 */

static int put_number(char **to, int32_t datatype, int64_t number) {
    if (datatype == DATATYPE_INT64) {
        memcpy(*to, &number, sizeof(number));
        *to += sizeof(number);
        return 0;
    }
    if (datatype == DATATYPE_INT32) {
        int32_t small = (int32_t)number;
        if (number > INT32_MAX) {
            return TA_TOO_MANY;
        }
        memcpy(*to, &small, sizeof(small));
    } else {
        float real = (float)number;
        memcpy(*to, &real, sizeof(real));
    }
    *to += 4;
    return 0;
}

static int put_counts(const ta_input_plan *plan, const ta_tensor *source, char *to) {
    int64_t number = 0;
    if (plan->kind == TA_INPUT_ACCUMULATED_WITH_ZERO) {
        put_number(&to, plan->datatype, 0);
    }
    for (int32_t i = 0; i < source->n_segments; i++) {
        int64_t count = count_of(&source->segments[i]);
        number = plan->kind == TA_INPUT_ELEMENT_COUNT ? count : number + count;
        if (put_number(&to, plan->datatype, number) < 0) {
            return TA_TOO_MANY;
        }
    }
    return 0;
}

static int put_shapes(const ta_input_plan *plan, const ta_tensor *source, char *to) {
    for (int32_t i = 0; i < source->n_segments; i++) {
        const ta_segment *segment = &source->segments[i];
        for (int64_t row = 0; segment->rank > 0 && row < segment->dims[0]; row++) {
            for (int k = 1; k < segment->rank; k++) {
                if (put_number(&to, plan->datatype, segment->dims[k]) < 0) {
                    return TA_TOO_MANY;
                }
            }
        }
    }
    return 0;
}

static int put_lengths(const ta_batch *batch, const ta_input_plan *plan, char *to) {
    for (int32_t i = 0; i < batch->n_requests; i++) {
        for (int64_t row = 0; row < batch->assembly->rows[i]; row++) {
            if (put_number(&to, plan->datatype, length_of(batch->assembly, i, plan->length)) < 0) {
                return TA_TOO_MANY;
            }
        }
    }
    return 0;
}

/* Padded rows of all requests: theirs, or a value in their place. */
static void put_rows(const ta_batch *batch, const ta_input_plan *plan, const ta_tensor *input, char *to) {
    const ta_assembly *assembly = batch->assembly;
    rectangle r;
    r.pad = plan->pad;
    for (int32_t i = 0; i < batch->n_requests; i++) {
        r.inner[0] = r.outer[0] = assembly->rows[i];
        for (int k = 1; k < input->rank; k++) {
            int32_t length = plan->lengths[k - 1];
            r.outer[k] = input->dims[k];
            r.inner[k] = length < 0 ? input->dims[k] : length_of(assembly, i, length);
        }
        set_strides(&r, input->rank, plan->itemsize);
        pad(&r, to, plan->kind == TA_INPUT_PADDED ? input->segments[i].data : NULL, plan->value, 0);
        to += r.outer[0] * r.outer_stride[0];
    }
}

/* Whether all requests are as long as the batch is padded to: their bytes are the batch's. */
static int is_even(const ta_batch *batch, const ta_input_plan *plan) {
    for (int k = 0; k < plan->rank; k++) {
        if (plan->lengths[k] < 0) {
            continue;
        }
        for (int32_t i = 0; i < batch->n_requests; i++) {
            if (length_of(batch->assembly, i, plan->lengths[k]) != batch->assembly->padded[plan->lengths[k]]) {
                return 0;
            }
        }
    }
    return 1;
}

static int make_bytes(const ta_batch *batch, const ta_input_plan *plan, const ta_tensor *input, char *to) {
    const ta_tensor *source = &batch->inputs[plan->source];
    switch (plan->kind) {
    case TA_INPUT_ELEMENT_COUNT:
    case TA_INPUT_ACCUMULATED:
    case TA_INPUT_ACCUMULATED_WITH_ZERO:
        return put_counts(plan, source, to);
    case TA_INPUT_MAX_COUNT_AS_SHAPE:
        memset(to, 0, (size_t)input->nbytes); /* never what another batch left there */
        return 0;
    case TA_INPUT_ITEM_SHAPE:
    case TA_INPUT_ITEM_SHAPE_FLATTEN:
        return put_shapes(plan, source, to);
    case TA_INPUT_LENGTHS:
        return put_lengths(batch, plan, to);
    default:
        put_rows(batch, plan, input, to);
        return 0;
    }
}

static int make_input(ta_batch *batch, int32_t index) {
    ta_assembly *assembly = batch->assembly;
    ta_tensor *input = &batch->inputs[index];
    ta_slab *slab = ta_slab_lease(assembly->pool, input->nbytes);
    int result;
    if (slab == NULL) {
        return TA_NO_MEMORY;
    }
    assembly->made[index] = slab;
    result = make_bytes(batch, &assembly->plan->inputs[index], input, ta_slab_data(slab));
    if (result < 0) {
        return result;
    }
    ta_tensor_release(input); /* a copy that was made of bytes on a device */
    input->data = NULL;
    input->n_segments = 1;
    input->segments[0].data = ta_slab_data(slab);
    input->segments[0].nbytes = input->nbytes;
    input->segments[0].rows = batch->rows;
    input->segments[0].memory_type = slab->memory_type;
    input->segments[0].device_id = 0;
    return 0;
}

int ta_assemble(ta_batch *batch, ta_slab_pool *pool, int32_t *failed) {
    ta_assembly *assembly = batch->assembly;
    assembly->pool = pool;
    for (int32_t i = 0; i < batch->n_inputs; i++) {
        const ta_input_plan *plan = &assembly->plan->inputs[i];
        int result = 0;
        if (!batch->inputs[i].wanted || plan->kind == TA_INPUT_PLAIN || plan->kind == TA_INPUT_RAGGED ||
            assembly->made[i] != NULL || (plan->kind == TA_INPUT_PADDED && is_even(batch, plan))) {
            continue;
        }
        result = make_input(batch, i);
        if (result < 0) {
            *failed = i;
            return result;
        }
    }
    return 0;
}

void ta_assembly_release(ta_assembly *assembly) {
    if (assembly == NULL) {
        return;
    }
    for (int32_t i = 0; i < assembly->n_inputs; i++) {
        if (assembly->made[i] != NULL) {
            ta_slab_return(assembly->made[i]);
            assembly->made[i] = NULL;
        }
    }
}

/* -- outputs -------------------------------------------------------------------------------------- */

int32_t ta_part_dims(const ta_batch *batch, int32_t index, int32_t request, int64_t *dims) {
    const ta_assembly *assembly = batch->assembly;
    const ta_output_plan *plan = &assembly->plan->outputs[index];
    const ta_tensor *output = &batch->outputs[index];
    if (plan->kind == TA_OUTPUT_SCATTERED) {
        const ta_segment *segment = &batch->inputs[plan->source].segments[request];
        for (int k = 0; k < plan->rank; k++) {
            dims[k] = plan->dims[k] < 0 ? segment->dims[k] : plan->dims[k];
        }
        return plan->rank;
    }
    dims[0] = assembly->rows[request];
    for (int k = 1; k < output->rank; k++) {
        int32_t length = plan->lengths[k - 1];
        dims[k] = length < 0 ? output->dims[k] : length_of(assembly, request, length);
    }
    return output->rank;
}

static int scatter(ta_batch *batch, int32_t index) {
    ta_tensor *output = &batch->outputs[index];
    int64_t dims[TA_MAX_RANK];
    int64_t itemsize = batch->assembly->plan->outputs[index].itemsize;
    int64_t start = 0, count, total = 0;
    for (int32_t i = 0; i < batch->n_requests; i++) {
        int32_t rank = ta_part_dims(batch, index, i, dims);
        count = product(dims, rank, 1);
        if (count < 0 || __builtin_add_overflow(total, count, &total)) {
            return TA_OTHER_SHAPE;
        }
        output->parts[i].start = count; /* for now */
    }
    if (product(output->dims, output->rank, 1) != total) {
        return TA_OTHER_SHAPE;
    }
    for (int32_t i = 0; i < batch->n_requests; i++) {
        int64_t end;
        count = output->parts[i].start;
        if (itemsize) {
            end = start + count * itemsize;
        } else {
            end = ta_bytes_skip(output->data, output->nbytes, start, count);
        }
        if (end < 0 || end > output->nbytes) {
            return TA_BAD_STRINGS;
        }
        output->parts[i].start = start;
        output->parts[i].nbytes = end - start;
        start = end;
    }
    return 0;
}

/* Whether an output has the shape of its batch: rows, and what was padded. */
static int is_padded_shape(const ta_batch *batch, const ta_output_plan *plan, const ta_tensor *output) {
    if (output->rank != plan->rank + 1 || output->dims[0] != batch->rows) {
        return 0;
    }
    for (int k = 0; k < plan->rank; k++) {
        if (plan->lengths[k] >= 0 && output->dims[k + 1] != batch->assembly->padded[plan->lengths[k]]) {
            return 0;
        }
    }
    return 1;
}

static void set_rectangle(const ta_batch *batch, int32_t index, int32_t request, rectangle *r) {
    const ta_tensor *output = &batch->outputs[index];
    ta_part_dims(batch, index, request, r->inner);
    memcpy(r->outer, output->dims, sizeof(r->outer));
    r->outer[0] = r->inner[0];
    set_strides(r, output->rank, batch->assembly->plan->outputs[index].itemsize);
}

/* What is to stay of a request is in one piece where nothing was cut, or only the end of a single block. */
static int is_one_piece(const rectangle *r) {
    for (int k = 0; k < r->last; k++) {
        if (r->inner[k] > 1) {
            return 0;
        }
    }
    return 1;
}

static int cut_output(ta_batch *batch, int32_t index) {
    ta_tensor *output = &batch->outputs[index];
    rectangle r;
    ta_slab *slab;
    char *to;
    int64_t at = 0, total = 0;
    int whole = 1;
    r.pad = NULL;
    if (!is_padded_shape(batch, &batch->assembly->plan->outputs[index], output)) {
        return TA_OTHER_SHAPE;
    }
    for (int32_t i = 0; i < batch->n_requests; i++) {
        set_rectangle(batch, index, i, &r);
        whole = whole && is_one_piece(&r);
        output->parts[i].start = at;
        output->parts[i].nbytes = r.inner[0] * r.inner_stride[0];
        at += r.outer[0] * r.outer_stride[0];
        total += output->parts[i].nbytes;
    }
    if (whole) {
        return 0;
    }
    slab = ta_slab_lease(batch->assembly->pool, total);
    if (slab == NULL) {
        return TA_NO_MEMORY;
    }
    to = ta_slab_data(slab);
    at = 0;
    for (int32_t i = 0; i < batch->n_requests; i++) {
        set_rectangle(batch, index, i, &r);
        cut(&r, to + at, output->data + output->parts[i].start, 0);
        output->parts[i].start = at;
        at += output->parts[i].nbytes;
    }
    ta_tensor_release(output);
    output->data = to;
    output->nbytes = total;
    output->owner = slab;
    output->release = ta_slab_return;
    output->memory_type = slab->memory_type;
    output->device_id = 0;
    return 0;
}

int ta_split_output(ta_batch *batch, int32_t index) {
    return batch->assembly->plan->outputs[index].kind == TA_OUTPUT_SCATTERED ? scatter(batch, index)
                                                                             : cut_output(batch, index);
}
