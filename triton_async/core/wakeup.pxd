# Declarations of csrc/wakeup.h.

from libc.stdint cimport int64_t

from triton_async.infer.batch cimport ta_batch

cdef extern from "wakeup.h" nogil:
    enum: TA_MAILBOX_SLOTS
    ctypedef struct ta_mailbox:
        pass
    ctypedef struct ta_completions:
        int fd
    ta_mailbox *ta_mailbox_new()
    void ta_mailbox_free(ta_mailbox *mailbox)
    void ta_mailbox_put(ta_mailbox *mailbox, ta_batch *batch)
    ta_batch *ta_mailbox_take(ta_mailbox *mailbox)
    int ta_completions_open(ta_completions *completions)
    void ta_completions_close(ta_completions *completions)
    void ta_completions_push(ta_completions *completions, ta_batch *batch)
    ta_batch *ta_completions_take(ta_completions *completions)
    int ta_timer_open()
    int ta_timer_arm(int fd, int64_t deadline_ns)
    void ta_timer_clear(int fd)

cdef extern from "clock.h" nogil:
    int64_t ta_now_ns()
