/* Joins the segments of a batch's inputs into one tensor each. Instance thread, no GIL. */
#ifndef TRITON_ASYNC_GATHER_H
#define TRITON_ASYNC_GATHER_H

#include "batch.h"
#include "slab.h"

/* Makes `input` contiguous: nothing to do for one segment, else leases a slab and copies. 0, or -1 when there
 * is no memory for it. */
int ta_gather(ta_tensor *input, ta_slab_pool *pool);

/* Gives back what ta_gather or an instance leased for `tensor`; safe to call twice. */
void ta_tensor_release(ta_tensor *tensor);

/* Marks the batch failed with a printf-style message (cut at TA_ERROR_NBYTES). */
void ta_batch_fail(ta_batch *batch, int32_t code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* After execute: closes gaps in the batch's times. */
void ta_batch_close_times(ta_batch *batch);

/* End offset of BYTES element `count` elements after `offset`, or -1 when the framing is broken or ends
 * early. */
int64_t ta_bytes_skip(const char *data, int64_t nbytes, int64_t offset, int64_t count);

#endif
