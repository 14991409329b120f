/* What crosses from other threads to the loop, as messages on one ring: the three events of instances, and errands.
 *
 * A message is part of what it tells of, so that telling takes no memory and cannot fail. Whoever pushes it gives a
 * reference of its owner away with it; the loop takes that over. Each object is on the ring at most once at a time.
 */
#ifndef TRITON_ASYNC_EVENT_H
#define TRITON_ASYNC_EVENT_H

#include <stdint.h>

enum ta_event {
    TA_EXECUTED = 1, /* a Batch is done: its instance may run another. Of a native engine it brings all answers along */
    TA_RESPONSE = 2, /* an InferResponse of a request, final or not */
    TA_RELEASED = 3, /* the inputs of an InferRequest are free again: the engine reads them no more */
    TA_ERRAND = 4    /* something of core's own that another thread has for the loop */
};

typedef struct ta_message {
    struct ta_message *next; /* link of the ring */
    void *owner;             /* the Python object that this is part of */
    int32_t event;           /* ta_event */
} ta_message;

#endif
