/* A ring of bytes in memory that two processes share: one writes messages, the other reads them.
 *
 * A message is a u32 with its length and so many bytes, padded to LANE_ALIGNMENT. What the writer has put is seen by the
 * reader once it is published: many messages, one store and at most one wake-up.
 *
 * Neither side believes the other: positions are kept in private memory, what the other side says of its own is copied
 * once and checked against them. LANE_BROKEN: it can not be true, and nothing of the ring may be used any more.
 */
#ifndef TRITON_ASYNC_LANE_H
#define TRITON_ASYNC_LANE_H

#include <stdatomic.h>
#include <stdint.h>

#define TA_LANE_ALIGNMENT 8
#define TA_LANE_FULL (-1)
#define TA_LANE_BROKEN (-2)

/* In front of the bytes. A cache line for each side. */
typedef struct ta_lane_header {
    _Atomic uint64_t tail;        /* bytes that were published, ever; the writer's */
    _Atomic uint32_t wants_room;  /* the writer waits until something was read */
    char writers[52]; /* its cache line */
    _Atomic uint64_t head;        /* bytes that were read, ever; the reader's */
    _Atomic uint32_t asleep;      /* the reader has to be woken */
    char readers[52];
} ta_lane_header;

/* One side of it. `capacity`: a power of two. */
typedef struct ta_lane {
    ta_lane_header *header;
    char *data;
    uint64_t capacity;
    uint64_t at;        /* own position: what was put, or read, so far */
    uint64_t published; /* of it, what the other side may know */
    uint64_t other;     /* the other side's position, as it was seen last */
} ta_lane;

/* Over `nbytes` bytes at `memory`, zeros at first: a header and the rest of them. */
void ta_lane_open(ta_lane *lane, char *memory, int64_t nbytes);

/* -- the writer. Its position of the message, or TA_LANE_FULL, or TA_LANE_BROKEN. */
int64_t ta_lane_put(ta_lane *lane, const char *data, uint32_t nbytes);
/* Sets bits of the byte `at` of a message that was put at `position`. 0: it is published already. */
int ta_lane_patch(ta_lane *lane, int64_t position, uint32_t at, unsigned char bits);
/* 1: the reader sleeps, and is to be woken. */
int ta_lane_publish(ta_lane *lane);
/* Something is to be put that has no room: whether it has by now, else the reader will wake this side. */
int ta_lane_wait_for_room(ta_lane *lane, uint32_t nbytes);

/* -- the reader. Copies whole messages, with their lengths and padding, at most `most` bytes of them, `most` being room
 * for any message; bytes, or TA_LANE_BROKEN. `longest`: of a message. */
int64_t ta_lane_take(ta_lane *lane, char *to, int64_t most, uint32_t longest);
/* 1: the writer waits for the room that there is now, and is to be woken. */
int ta_lane_is_awaited(ta_lane *lane);
/* From here on the writer does not wake it; does. 1: something was put meanwhile. */
void ta_lane_stay_awake(ta_lane *lane);
int ta_lane_may_sleep(ta_lane *lane);

#endif
