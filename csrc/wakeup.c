#include "wakeup.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

ta_mailbox *ta_mailbox_new(void) {
    ta_mailbox *mailbox = calloc(1, sizeof(*mailbox));
    if (mailbox != NULL && sem_init(&mailbox->filled, 0, 0) != 0) {
        free(mailbox);
        return NULL;
    }
    return mailbox;
}

void ta_mailbox_free(ta_mailbox *mailbox) {
    sem_destroy(&mailbox->filled);
    free(mailbox);
}

void ta_mailbox_put(ta_mailbox *mailbox, ta_batch *batch) {
    ta_mailbox_leave(mailbox, batch);
    ta_mailbox_wake(mailbox);
}

void ta_mailbox_wake(ta_mailbox *mailbox) { sem_post(&mailbox->filled); }

void ta_mailbox_leave(ta_mailbox *mailbox, ta_batch *batch) {
    uint64_t put = atomic_load_explicit(&mailbox->put, memory_order_relaxed);
    mailbox->slots[put % TA_MAILBOX_SLOTS] = batch;
    atomic_store_explicit(&mailbox->put, put + 1, memory_order_release);
}

ta_batch *ta_mailbox_take(ta_mailbox *mailbox) {
    while (sem_wait(&mailbox->filled) != 0 && errno == EINTR) {
    }
    atomic_load_explicit(&mailbox->put, memory_order_acquire);
    return mailbox->slots[mailbox->taken++ % TA_MAILBOX_SLOTS];
}

int ta_events_open(ta_events *events) {
    atomic_init(&events->head, NULL);
    atomic_init(&events->left, NULL);
    atomic_init(&events->awake, 0);
    events->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return events->fd < 0 ? -1 : 0;
}

void ta_events_close(ta_events *events) {
    if (events->fd >= 0) {
        close(events->fd);
        events->fd = -1;
    }
}

static void push(ta_events *events, ta_message *newest, ta_message *oldest) {
    ta_message *head = atomic_load_explicit(&events->head, memory_order_relaxed);
    do {
        oldest->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&events->head, &head, newest, memory_order_seq_cst,
                                                    memory_order_relaxed));
    /* The loop takes the whole stack at each wake-up, so only the first of a stack has to wake it. Either this sees that
     * the loop may sleep, or ta_events_may_sleep sees the message: both order their two accesses. */
    if (head == NULL && !atomic_load_explicit(&events->awake, memory_order_seq_cst)) {
        ta_events_wake(events);
    }
}

void ta_events_push(ta_events *events, ta_message *message) { push(events, message, message); }

/* As a stack: the same messages with their links the other way round. */
static ta_message *reversed(ta_message *first) {
    ta_message *last = NULL;
    while (first != NULL) {
        ta_message *next = first->next;
        first->next = last;
        last = first;
        first = next;
    }
    return last;
}

void ta_events_push_all(ta_events *events, ta_message *oldest) { push(events, reversed(oldest), oldest); }

void ta_events_leave(ta_events *events, ta_message *oldest) {
    ta_message *newest = reversed(oldest);
    ta_message *head = atomic_load_explicit(&events->left, memory_order_relaxed);
    do {
        oldest->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&events->left, &head, newest, memory_order_release,
                                                    memory_order_relaxed));
}

void ta_events_wake(ta_events *events) {
    uint64_t one = 1;
    while (write(events->fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

void ta_events_stay_awake(ta_events *events) { atomic_store_explicit(&events->awake, 1, memory_order_relaxed); }

int ta_events_may_sleep(ta_events *events) {
    atomic_store_explicit(&events->awake, 0, memory_order_seq_cst);
    return atomic_load_explicit(&events->head, memory_order_seq_cst) != NULL;
}

ta_message *ta_events_take(ta_events *events) {
    uint64_t count;
    while (read(events->fd, &count, sizeof(count)) < 0 && errno == EINTR) {
    }
    return ta_events_collect(events);
}

ta_message *ta_events_collect(ta_events *events) {
    ta_message *first = reversed(atomic_exchange_explicit(&events->head, NULL, memory_order_acquire));
    ta_message *left, *last;
    /* Behind the others: what was left before one of those was pushed is seen here. */
    if (atomic_load_explicit(&events->left, memory_order_relaxed) == NULL) {
        return first;
    }
    last = atomic_exchange_explicit(&events->left, NULL, memory_order_acquire);
    left = reversed(last);
    if (last != NULL) {
        last->next = first;
        first = left;
    }
    return first;
}

int ta_timer_open(void) { return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC); }

int ta_timer_arm(int fd, int64_t deadline_ns) {
    struct itimerspec when = {0};
    when.it_value.tv_sec = deadline_ns / 1000000000;
    when.it_value.tv_nsec = deadline_ns % 1000000000;
    return timerfd_settime(fd, TFD_TIMER_ABSTIME, &when, NULL);
}

void ta_timer_clear(int fd) {
    uint64_t expirations;
    while (read(fd, &expirations, sizeof(expirations)) < 0 && errno == EINTR) {
    }
}
