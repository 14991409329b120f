/* The ring between two processes: messages arrive whole and in order whatever sleeps and fills up, and what a hostile
 * other side writes into the header or the bytes is found, without a look outside of the ring. */
#include "check.h"
#include "lane.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define RING (4096 + 128)
#define LONGEST 700
#define MESSAGES 20000

static char *memory;
static _Atomic int writer_woken, reader_woken;

static unsigned next(unsigned *state) { return *state = *state * 1664525u + 1013904223u; }

static void wait_for(_Atomic int *woken) {
    while (!atomic_exchange(woken, 0)) {
        sched_yield();
    }
}

static void *write_all(void *unused) {
    ta_lane lane;
    char message[LONGEST];
    unsigned state = 1;
    ta_lane_open(&lane, memory, RING);
    for (int i = 0; i < MESSAGES; i++) {
        uint32_t nbytes = 5 + next(&state) % (LONGEST - 5);
        int64_t position;
        memset(message, i & 127, nbytes);
        memcpy(message, &i, sizeof(i));
        while ((position = ta_lane_put(&lane, message, nbytes)) == TA_LANE_FULL) {
            if (ta_lane_publish(&lane)) {
                atomic_store(&reader_woken, 1);
            }
            if (!ta_lane_wait_for_room(&lane, nbytes)) {
                wait_for(&writer_woken);
            }
        }
        CHECK(position >= 0);
        if (i % 3 == 0) {
            CHECK(ta_lane_patch(&lane, position, 4, 0x80));
        }
        if (i % 7 == 0 || i == MESSAGES - 1) {
            if (ta_lane_publish(&lane)) {
                atomic_store(&reader_woken, 1);
            }
            CHECK(!ta_lane_patch(&lane, position, 4, 0x80));
        }
    }
    return unused;
}

static void *read_all(void *unused) {
    ta_lane lane;
    char inbox[2048];
    unsigned state = 1;
    int count = 0;
    ta_lane_open(&lane, memory, RING);
    while (count < MESSAGES) {
        int64_t nbytes = ta_lane_take(&lane, inbox, sizeof(inbox), LONGEST);
        CHECK(nbytes >= 0);
        for (int64_t at = 0; at < nbytes;) {
            uint32_t length;
            int number;
            memcpy(&length, inbox + at, 4);
            memcpy(&number, inbox + at + 4, 4);
            CHECK(length == 5 + next(&state) % (LONGEST - 5));
            CHECK(number == count);
            CHECK(((unsigned char)inbox[at + 8] & 0x80) == (count % 3 == 0 ? 0x80 : 0));
            for (uint32_t i = 5; i < length; i++) {
                CHECK(inbox[at + 4 + i] == (count & 127));
            }
            at += (length + 4 + 7) / 8 * 8;
            count++;
        }
        if (ta_lane_is_awaited(&lane)) {
            atomic_store(&writer_woken, 1);
        }
        if (nbytes == 0 && !ta_lane_may_sleep(&lane)) {
            wait_for(&reader_woken);
            ta_lane_stay_awake(&lane);
        }
    }
    return unused;
}

/* Bytes around the ring show a write behind it to the sanitizer: it is allocated to its size. */
static void try_nonsense(unsigned seed) {
    unsigned state = seed;
    char inbox[2048];
    char message[LONGEST] = {0};
    ta_lane writer, reader;
    memset(memory, 0, RING);
    ta_lane_open(&writer, memory, RING);
    ta_lane_open(&reader, memory, RING);
    for (int i = 0; i < 20; i++) {
        CHECK(ta_lane_put(&writer, message, 1 + next(&state) % 300) != TA_LANE_BROKEN);
        ta_lane_publish(&writer);
        CHECK(ta_lane_take(&reader, inbox, sizeof(inbox), LONGEST) >= 0);
    }
    ta_lane_put(&writer, message, 100);
    ta_lane_publish(&writer);
    switch (next(&state) % 3) {
    case 0:
        atomic_store(&reader.header->tail, next(&state) | (uint64_t)next(&state) << 32);
        break;
    case 1:
        atomic_store(&writer.header->head, next(&state) | (uint64_t)next(&state) << 32);
        break;
    default:
        for (uint64_t i = 0; i < reader.capacity; i++) {
            reader.data[i] = (char)next(&state);
        }
    }
    for (int i = 0; i < 30; i++) {
        ta_lane_put(&writer, message, 1 + next(&state) % 600);
        ta_lane_take(&reader, inbox, sizeof(inbox), LONGEST);
    }
}

static void nonsense_is_found(void) {
    char inbox[2048];
    char message[LONGEST] = {0};
    uint32_t length;
    ta_lane writer, reader;
    memset(memory, 0, RING);
    ta_lane_open(&writer, memory, RING);
    ta_lane_open(&reader, memory, RING);
    ta_lane_put(&writer, message, LONGEST);
    ta_lane_publish(&writer);
    length = LONGEST + 1; /* one more than the longest; that itself is fine */
    memcpy(reader.data, &length, 4);
    CHECK(ta_lane_take(&reader, inbox, sizeof(inbox), LONGEST) == TA_LANE_BROKEN);
    length = LONGEST;
    memcpy(reader.data, &length, 4);
    CHECK(ta_lane_take(&reader, inbox, sizeof(inbox), LONGEST) > 0);
    atomic_store(&reader.header->tail, reader.at + reader.capacity + 1);
    CHECK(ta_lane_take(&reader, inbox, sizeof(inbox), LONGEST) == TA_LANE_BROKEN);
    /* The reader has read more than was published. */
    atomic_store(&writer.header->head, writer.at + 8);
    while ((length = 0, ta_lane_put(&writer, message, LONGEST)) >= 0) {
    }
    CHECK(ta_lane_put(&writer, message, LONGEST) == TA_LANE_BROKEN);
}

int main(void) {
    pthread_t writer, reader;
    memory = aligned_alloc(64, RING);
    CHECK(memory != NULL);
    memset(memory, 0, RING);
    CHECK(pthread_create(&writer, NULL, write_all, NULL) == 0);
    CHECK(pthread_create(&reader, NULL, read_all, NULL) == 0);
    pthread_join(writer, NULL);
    pthread_join(reader, NULL);
    nonsense_is_found();
    for (unsigned seed = 1; seed < 1000; seed++) {
        try_nonsense(seed);
    }
    free(memory);
    return 0;
}
