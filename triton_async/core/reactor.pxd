# What wakes core on the loop: the events of instances, deadlines, and turns for what is due.

from libc.stdint cimport int64_t

from triton_async.core.turn cimport Turn
from triton_async.core.wakeup cimport ta_events
from triton_async.infer.batch cimport Batch
from triton_async.infer.event cimport ta_message
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse

# CLOCK_MONOTONIC in nanoseconds. Tests make up their own.
cdef class Clock:
    cdef int64_t now_ns(self) noexcept

# Who is woken. Loop thread. What a method raises is logged.
cdef class Wakeable:
    cdef int64_t wake_ns             # when it wants a turn at the latest; 0: never
    cdef int64_t entry_ns            # the reactor's own: its earliest entry among the deadlines; 0: none
    cdef bint due                    # the reactor's own: its turn comes in this turn of the loop

    # The three events of an instance.
    cdef int executed(self, Batch batch, int64_t now_ns) except -1
    cdef int responded(self, InferResponse response, int64_t now_ns) except -1
    cdef int released(self, InferRequest request, int64_t now_ns) except -1
    # It was due, or its deadline has passed: does what there is to do, the loop thread's own executions until
    # `until_ns`. Returns the time behind them, `now_ns` for none.
    cdef int64_t turn(self, int64_t now_ns, int64_t until_ns) except -1

# A thread that sleeps, to be woken when the loop is about to let go of the GIL: earlier it would only wait for that.
cdef class Sleeper:
    cdef int wake(self) noexcept

# What another thread has for the loop. To be put on the ring (`Reactor.post`, with a reference) when it is not there.
cdef class Errand:
    cdef ta_message message
    # Loop thread. What it raises is logged.
    cdef int arrive(self, int64_t now_ns) except -1

# One for a server: one ring, one timer, one turn, which read the clock once each. `post`, `watch` and `forget` are for
# any thread, all else for the loop's. It is the Watcher (backends.base) of engines that are other processes.
#
# Invariants
#   - every Wakeable with a deadline has an entry no later than that; `timer_ns` is that of the earliest entry
#   - `late` is empty unless `draining`
cdef class Reactor:
    cdef ta_events events
    cdef int timer_fd
    cdef int watch_fd                # an epoll of the descriptors in `handlers`; other threads add to it
    cdef dict handlers               # descriptor -> what is called when it is readable
    cdef int64_t timer_ns            # what the timer is armed for; 0: it is not
    cdef list deadlines              # heap of (ns, number, Wakeable); entries that are out of date are passed over
    cdef int64_t n_entries           # ever
    cdef list waiting                # Wakeables that are due
    cdef bint scheduled              # `_turn` is due in a turn
    cdef object turn_method          # the bound method, made once
    cdef readonly bint draining      # messages are being handled
    cdef list late                   # Sleepers, and functions that wake others, for the end of that
    cdef readonly object loop
    cdef readonly Turn turn          # of the loop
    cdef Clock clock
    cdef int n_left                  # chains that were left since the ring was emptied
    cdef int64_t left_ns             # when the first of them was
    # Bytes of requests in flight: of their inputs, and REQUEST_NBYTES for each.
    cdef public int64_t held_nbytes
    # Executions on the loop thread, and the longest.
    cdef readonly int64_t n_here
    cdef readonly int64_t longest_here_ns

    cdef void note_here(self, int64_t execution_ns) noexcept
    # Hands an event up, with a reference of its owner. Any thread, no GIL; cannot fail.
    cdef void post(self, ta_message *message) noexcept nogil
    # The same for several, the oldest first, linked by `next`: they are handled together.
    cdef void post_all(self, ta_message *oldest) noexcept nogil
    # The same, told later: with what comes next, before that, or when somebody looks (`drain(False)`). The loop is
    # woken for them only when many have come, or for long. Any thread with the GIL.
    cdef int leave(self, ta_message *oldest, int64_t now_ns) except -1
    # Wakes a Sleeper, or calls a function that wakes somebody: behind the messages that are being handled, or at once.
    cdef int wake(self, object who) except -1
    cdef int _wake_late(self) except -1
    # Has `turn` called at `deadline_ns`, in true microseconds; 0: not any more. Cheap when nothing changes.
    cdef int arm(self, Wakeable wakeable, int64_t deadline_ns) except -1
    # Has `turn` called later in this turn of the loop: the requests of all sockets that were readable come first.
    cdef int call_turn(self, Wakeable wakeable) except -1
    # The same after a moment, for what went wrong and has to be tried again.
    cdef int call_turn_later(self, Wakeable wakeable) except -1

    # Handles what is on the ring, and what is put there meanwhile for a while. `woken`: by the ring itself.
    cdef int drain(self, bint woken=*) except -1
    cdef int _handle_all(self, ta_message *message) except -1
    cdef int _handle(self, ta_message *message, int64_t now_ns) except -1
    cdef int _expire(self, int64_t now_ns) except -1
    cdef int _set_timer(self) except -1
