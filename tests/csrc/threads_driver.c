/* Mailboxes, the event stack and the slab pool under many threads, as a server uses them, for the thread
 * sanitizer (and the others). One loop thread hands batches to instances and takes them back. */
#include "check.h"
#include "gather.h"
#include "slab.h"
#include "wakeup.h"

#include <poll.h>
#include <pthread.h>
#include <string.h>

#define INSTANCES 4
#define SLOTS 2 /* batches out per instance, as core bounds them */
#define ROUNDS 20000

static ta_slab_pool *pool;
static ta_events events;
static int64_t revoked; /* of the loop thread */

typedef struct {
    ta_mailbox *mailbox;
    pthread_t thread;
    ta_batch batches[SLOTS];
    ta_tensor outputs[SLOTS];
    int64_t ran; /* of the instance thread, read after it ended */
} instance;

static void *run_instance(void *argument) {
    instance *self = argument;
    ta_batch *batch;
    while ((batch = ta_mailbox_take(self->mailbox)) != NULL) {
        ta_tensor *output = batch->outputs;
        if (!ta_batch_begin(batch)) {
            ta_events_push(&events, &batch->message);
            continue;
        }
        ta_slab *slab = ta_slab_lease(pool, batch->rows * 100);
        CHECK(slab != NULL);
        output->data = ta_slab_data(slab);
        output->nbytes = batch->rows * 100;
        output->owner = slab;
        output->release = ta_slab_return;
        memset(output->data, (int)(batch->rows & 127), (size_t)output->nbytes);
        self->ran++;
        ta_events_push(&events, &batch->message);
    }
    return NULL;
}

static void hand_over(instance *target, ta_batch *batch, int64_t rows) {
    batch->rows = rows;
    batch->message.owner = batch;
    batch->message.event = TA_EXECUTED;
    atomic_store(&batch->phase, TA_HANDED);
    ta_mailbox_put(target->mailbox, batch);
    /* The loop takes some back: either it gets them, or the instance has begun. */
    if (rows % 5 == 0 && ta_batch_revoke(batch)) {
        batch->rows = 0;
    }
}

static void take_back(ta_batch *batch) {
    ta_tensor *output = batch->outputs;
    CHECK(output->nbytes == batch->rows * 100);
    for (int64_t i = 0; i < output->nbytes; i++) CHECK(output->data[i] == (char)(batch->rows & 127));
    ta_tensor_release(output);
}

/* Each instance's batches come back in the order in which they went down. */
static int64_t take_all(ta_message *message, int64_t *last_of) {
    int64_t count = 0;
    ta_message *next;
    for (; message != NULL; message = next) {
        ta_batch *batch = message->owner;
        next = message->next;
        CHECK(message->event == TA_EXECUTED);
        CHECK(batch->compute_start_ns > last_of[batch->n_requests]);
        last_of[batch->n_requests] = batch->compute_start_ns;
        if (ta_batch_phase(batch) == TA_BEGUN) {
            take_back(batch);
        } else {
            CHECK(ta_batch_phase(batch) == TA_REVOKED && batch->rows == 0);
            revoked++;
        }
        batch->n_inputs = 1; /* free to go down again */
        count++;
    }
    return count;
}

/* As core's reactor: what is pushed while the loop is awake wakes nobody, and is not forgotten. */
static int64_t drain(int64_t *last_of) {
    ta_events_stay_awake(&events);
    int64_t count = take_all(ta_events_take(&events), last_of);
    for (int rounds = 1; ta_events_may_sleep(&events); rounds++) {
        if (rounds == 3) {
            ta_events_wake(&events);
            break;
        }
        ta_events_stay_awake(&events);
        count += take_all(ta_events_collect(&events), last_of);
    }
    return count;
}

int main(void) {
    static instance instances[INSTANCES];
    int64_t last_of[INSTANCES] = {0};
    int64_t sent = 0;
    int64_t back = 0;
    pool = ta_slab_pool_new(4096);
    CHECK(pool != NULL && ta_events_open(&events) == 0);
    for (int i = 0; i < INSTANCES; i++) {
        instances[i].mailbox = ta_mailbox_new();
        CHECK(instances[i].mailbox != NULL);
        for (int k = 0; k < SLOTS; k++) {
            ta_batch *batch = &instances[i].batches[k];
            batch->outputs = &instances[i].outputs[k];
            batch->n_requests = i; /* whose it is */
            batch->n_inputs = 1;   /* free */
        }
        CHECK(pthread_create(&instances[i].thread, NULL, run_instance, &instances[i]) == 0);
    }
    while (back < ROUNDS) {
        for (int i = 0; i < INSTANCES; i++) {
            for (int k = 0; k < SLOTS && sent < ROUNDS; k++) {
                ta_batch *batch = &instances[i].batches[k];
                if (batch->n_inputs == 0) continue;
                batch->n_inputs = 0;
                batch->compute_start_ns = ++sent;
                hand_over(&instances[i], batch, 1 + sent % 13);
            }
        }
        /* As an event loop: sleep until the eventfd is readable, take everything. A lost wake-up would hang here. */
        struct pollfd readable = {.fd = events.fd, .events = POLLIN};
        CHECK(poll(&readable, 1, 10000) == 1);
        back += drain(last_of);
    }
    int64_t ran = 0;
    for (int i = 0; i < INSTANCES; i++) {
        ta_mailbox_put(instances[i].mailbox, NULL);
        CHECK(pthread_join(instances[i].thread, NULL) == 0);
        ta_mailbox_free(instances[i].mailbox);
        ran += instances[i].ran;
    }
    CHECK(ran + revoked == ROUNDS && sent == ROUNDS && back == ROUNDS);
    CHECK(ta_events_take(&events) == NULL);
    CHECK(pool->leased == 0 && pool->leased_nbytes == 0 && pool->cached_nbytes <= 4096);
    ta_events_close(&events);
    ta_events_close(&events);
    ta_slab_pool_trim(pool);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
    return 0;
}
