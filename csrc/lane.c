#include "lane.h"

#include <string.h>

#define PADDED(nbytes) \
    (((uint64_t)(nbytes) + sizeof(uint32_t) + TA_LANE_ALIGNMENT - 1) & ~(uint64_t)(TA_LANE_ALIGNMENT - 1))

_Static_assert(sizeof(ta_lane_header) == 128, "a cache line for each side");

void ta_lane_open(ta_lane *lane, char *memory, int64_t nbytes) {
    uint64_t capacity = TA_LANE_ALIGNMENT;
    while (2 * capacity <= (uint64_t)nbytes - sizeof(ta_lane_header)) {
        capacity *= 2;
    }
    lane->header = (ta_lane_header *)memory;
    lane->data = memory + sizeof(ta_lane_header);
    lane->capacity = capacity;
    lane->at = lane->published = lane->other = 0;
}

static void copy_in(ta_lane *lane, uint64_t position, const void *source, uint64_t nbytes) {
    uint64_t offset = position & (lane->capacity - 1);
    uint64_t first = lane->capacity - offset < nbytes ? lane->capacity - offset : nbytes;
    memcpy(lane->data + offset, source, first);
    memcpy(lane->data, (const char *)source + first, nbytes - first);
}

static void copy_out(const ta_lane *lane, uint64_t position, void *to, uint64_t nbytes) {
    uint64_t offset = position & (lane->capacity - 1);
    uint64_t first = lane->capacity - offset < nbytes ? lane->capacity - offset : nbytes;
    memcpy(to, lane->data + offset, first);
    memcpy((char *)to + first, lane->data, nbytes - first);
}

/* What the reader says that it has read. 0: it can not have. */
static int look_at_head(ta_lane *lane) {
    uint64_t head = atomic_load_explicit(&lane->header->head, memory_order_seq_cst);
    if (head - lane->other > lane->published - lane->other) {
        return 0;
    }
    lane->other = head;
    return 1;
}

int64_t ta_lane_put(ta_lane *lane, const char *data, uint32_t nbytes) {
    uint64_t needed = PADDED(nbytes);
    uint64_t position = lane->at;
    if (lane->capacity - (lane->at - lane->other) < needed) {
        if (!look_at_head(lane)) {
            return TA_LANE_BROKEN;
        }
        if (lane->capacity - (lane->at - lane->other) < needed) {
            return TA_LANE_FULL;
        }
    }
    copy_in(lane, position, &nbytes, sizeof(nbytes));
    copy_in(lane, position + sizeof(nbytes), data, nbytes);
    lane->at = position + needed;
    return (int64_t)position;
}

int ta_lane_patch(ta_lane *lane, int64_t position, uint32_t at, unsigned char bits) {
    uint64_t where = (uint64_t)position + sizeof(uint32_t) + at;
    if (where < lane->published || where >= lane->at) {
        return 0;
    }
    lane->data[where & (lane->capacity - 1)] |= (char)bits;
    return 1;
}

int ta_lane_publish(ta_lane *lane) {
    if (lane->published == lane->at) {
        return 0;
    }
    lane->published = lane->at;
    /* Either this sees that the reader sleeps, or that sees the messages before it does: both order their accesses. */
    atomic_store_explicit(&lane->header->tail, lane->at, memory_order_seq_cst);
    return atomic_load_explicit(&lane->header->asleep, memory_order_seq_cst) != 0 &&
           atomic_exchange_explicit(&lane->header->asleep, 0, memory_order_seq_cst) != 0;
}

int ta_lane_wait_for_room(ta_lane *lane, uint32_t nbytes) {
    atomic_store_explicit(&lane->header->wants_room, 1, memory_order_seq_cst);
    if (!look_at_head(lane) || lane->capacity - (lane->at - lane->other) < PADDED(nbytes)) {
        return 0;
    }
    atomic_store_explicit(&lane->header->wants_room, 0, memory_order_relaxed);
    return 1;
}

int64_t ta_lane_take(ta_lane *lane, char *to, int64_t most, uint32_t longest) {
    uint64_t tail = atomic_load_explicit(&lane->header->tail, memory_order_acquire);
    uint64_t there = tail - lane->at;
    uint64_t whole = 0;
    if (there > lane->capacity) {
        return TA_LANE_BROKEN;
    }
    uint64_t copied = there < (uint64_t)most ? there : (uint64_t)most;
    copy_out(lane, lane->at, to, copied);
    while (whole < copied) {
        uint32_t nbytes;
        if (copied - whole < sizeof(nbytes)) {
            break;
        }
        memcpy(&nbytes, to + whole, sizeof(nbytes));
        if (nbytes == 0 || nbytes > longest || PADDED(nbytes) > there - whole) {
            return TA_LANE_BROKEN;
        }
        if (PADDED(nbytes) > copied - whole) {
            break;
        }
        whole += PADDED(nbytes);
    }
    if (whole == 0 && there > 0) {
        return TA_LANE_BROKEN;
    }
    lane->at += whole;
    if (whole > 0) {
        atomic_store_explicit(&lane->header->head, lane->at, memory_order_seq_cst);
    }
    return (int64_t)whole;
}

int ta_lane_is_awaited(ta_lane *lane) {
    return atomic_load_explicit(&lane->header->wants_room, memory_order_seq_cst) != 0 &&
           atomic_exchange_explicit(&lane->header->wants_room, 0, memory_order_seq_cst) != 0;
}

void ta_lane_stay_awake(ta_lane *lane) { atomic_store_explicit(&lane->header->asleep, 0, memory_order_relaxed); }

int ta_lane_may_sleep(ta_lane *lane) {
    atomic_store_explicit(&lane->header->asleep, 1, memory_order_seq_cst);
    return atomic_load_explicit(&lane->header->tail, memory_order_seq_cst) != lane->at;
}
