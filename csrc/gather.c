#include "gather.h"

#include "clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int ta_gather(ta_tensor *input, ta_slab_pool *pool) {
    if (!input->wanted || input->data != NULL) {
        return 0;
    }
    if (input->n_segments == 1) {
        input->data = (char *)input->segments[0].data;
        input->memory_type = input->segments[0].memory_type;
        input->device_id = input->segments[0].device_id;
        return 0;
    }
    ta_slab *slab = ta_slab_lease(pool, input->nbytes);
    if (slab == NULL) {
        return -1;
    }
    char *to = ta_slab_data(slab);
    input->data = to;
    input->memory_type = slab->memory_type;
    input->device_id = 0;
    input->owner = slab;
    input->release = ta_slab_return;
    for (int32_t i = 0; i < input->n_segments; i++) {
        /* A tensor without bytes has no address, which memcpy must not see. */
        if (input->segments[i].nbytes > 0) {
            memcpy(to, input->segments[i].data, (size_t)input->segments[i].nbytes);
            to += input->segments[i].nbytes;
        }
    }
    return 0;
}

void ta_tensor_release(ta_tensor *tensor) {
    void (*release)(void *) = tensor->release;
    tensor->release = NULL;
    if (release != NULL) {
        release(tensor->owner);
    }
    tensor->owner = NULL;
}

void ta_batch_fail(ta_batch *batch, int32_t code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(batch->error, sizeof(batch->error), format, arguments);
    va_end(arguments);
    batch->error_code = code;
    batch->failed = 1;
}

void ta_batch_close_times(ta_batch *batch) {
    if (batch->compute_end_ns == 0) {
        batch->compute_end_ns = ta_now_ns();
    }
    if (batch->compute_input_end_ns == 0) {
        batch->compute_input_end_ns = batch->compute_end_ns;
    }
    if (batch->compute_output_start_ns == 0) {
        batch->compute_output_start_ns = batch->compute_end_ns;
    }
}

int64_t ta_bytes_skip(const char *data, int64_t nbytes, int64_t offset, int64_t count) {
    for (; count > 0; count--) {
        uint32_t length;
        if (nbytes - offset < 4) {
            return -1;
        }
        memcpy(&length, data + offset, 4); /* little-endian, as every machine we run on */
        offset += 4;
        if (nbytes - offset < (int64_t)length) {
            return -1;
        }
        offset += length;
    }
    return offset;
}
