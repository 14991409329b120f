/* The two bridges between the loop thread and instance threads, and the batch timer.
 *
 *   mailbox  loop -> one instance: closed batches, in order; the instance sleeps in take without the GIL
 *   events   instances -> loop: messages, each producer's in order; an eventfd wakes the loop
 *   timer    a timerfd for deadlines in true microseconds (event loops round theirs to milliseconds)
 */
#ifndef TRITON_ASYNC_WAKEUP_H
#define TRITON_ASYNC_WAKEUP_H

#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>

#include "batch.h"

#define TA_MAILBOX_SLOTS 32

typedef struct ta_mailbox {
    sem_t filled;
    ta_batch *slots[TA_MAILBOX_SLOTS];
    _Atomic uint64_t put; /* written by the loop thread only */
    uint64_t taken;       /* written by the instance thread only */
} ta_mailbox;

/* Messages as a stack that the loop takes whole and reverses: intrusive, so never full. */
typedef struct ta_events {
    _Atomic(ta_message *) head;
    _Atomic(ta_message *) left; /* for which the loop is not woken */
    _Atomic int awake; /* the loop looks at the stack before it sleeps: nobody has to wake it */
    int fd;            /* eventfd, readable when the stack is not empty, unless the loop is awake */
} ta_events;

ta_mailbox *ta_mailbox_new(void);
void ta_mailbox_free(ta_mailbox *mailbox);
/* NULL tells the instance to stop. The caller bounds what is out to TA_MAILBOX_SLOTS. */
void ta_mailbox_put(ta_mailbox *mailbox, ta_batch *batch);
/* The same in two steps, for who still holds what the instance needs to go on: one wake for each batch that was left. */
void ta_mailbox_leave(ta_mailbox *mailbox, ta_batch *batch);
void ta_mailbox_wake(ta_mailbox *mailbox);
ta_batch *ta_mailbox_take(ta_mailbox *mailbox);

int ta_events_open(ta_events *events); /* 0, or -1 with errno */
void ta_events_close(ta_events *events);
void ta_events_push(ta_events *events, ta_message *message); /* any thread */
/* Several at once, the oldest first, linked by `next`: the loop gets all of them or none. Any thread. */
void ta_events_push_all(ta_events *events, ta_message *oldest);
/* The same, but nobody wakes the loop for them: it gets them with whatever comes next, before that. */
void ta_events_leave(ta_events *events, ta_message *oldest);
/* Every message pushed so far, oldest first, linked by `next`. Loop thread. */
ta_message *ta_events_take(ta_events *events);
/* The same without a look at the eventfd, for a loop that was woken by something else. */
ta_message *ta_events_collect(ta_events *events);
/* From here on pushes do not wake the loop. Loop thread. */
void ta_events_stay_awake(ta_events *events);
/* From here on they do. 1: there are messages that nobody will wake the loop for. Loop thread. */
int ta_events_may_sleep(ta_events *events);
/* Wakes the loop in a later turn. */
void ta_events_wake(ta_events *events);

int ta_timer_open(void); /* non-blocking timerfd on CLOCK_MONOTONIC, or -1 with errno */
/* Fires once at `deadline_ns` (at once when it has passed); 0 disarms. 0, or -1 with errno. */
int ta_timer_arm(int fd, int64_t deadline_ns);
void ta_timer_clear(int fd);

#endif
