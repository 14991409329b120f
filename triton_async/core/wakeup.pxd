# Declarations of csrc/wakeup.h.

from libc.stdint cimport int64_t

from triton_async.infer.batch cimport ta_batch
from triton_async.infer.event cimport ta_message

cdef extern from "wakeup.h" nogil:
    enum: TA_MAILBOX_SLOTS
    ctypedef struct ta_mailbox:
        pass
    ctypedef struct ta_events:
        int fd
    ta_mailbox *ta_mailbox_new()
    void ta_mailbox_free(ta_mailbox *mailbox)
    void ta_mailbox_put(ta_mailbox *mailbox, ta_batch *batch)
    void ta_mailbox_leave(ta_mailbox *mailbox, ta_batch *batch)
    void ta_mailbox_wake(ta_mailbox *mailbox)
    ta_batch *ta_mailbox_take(ta_mailbox *mailbox)
    int ta_events_open(ta_events *events)
    void ta_events_close(ta_events *events)
    void ta_events_push(ta_events *events, ta_message *message)
    void ta_events_push_all(ta_events *events, ta_message *oldest)
    void ta_events_leave(ta_events *events, ta_message *oldest)
    ta_message *ta_events_take(ta_events *events)
    ta_message *ta_events_collect(ta_events *events)
    void ta_events_stay_awake(ta_events *events)
    int ta_events_may_sleep(ta_events *events)
    void ta_events_wake(ta_events *events)
    int ta_timer_open()
    int ta_timer_arm(int fd, int64_t deadline_ns)
    void ta_timer_clear(int fd)
