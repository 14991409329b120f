# A round of work on the loop's thread: what has come is taken in, then what that made due is done, then what was
# written is sent, each once for all. Loop thread.

from libc.stdint cimport uint64_t

# Who gathers what it has to send until the end of a turn.
cdef class Sender:
    cdef bint gathers                # is in `senders` of a turn
    # Sends it. What it raises is logged.
    cdef int send(self) except -1

# One for a loop. What the loop calls stands between `begin` and `end`; inside of another turn these do nothing.
#
# Invariants
#   - `senders` is empty unless a turn runs
#   - while there is something in `late` or `next`, a turn runs or the loop is asked for one
cdef class Turn:
    cdef readonly object loop
    cdef readonly bint running
    cdef uint64_t number             # of the turn that runs, or ran last
    cdef bint scheduled              # `_run` is on the loop's list
    cdef object run_method           # the bound method, made once
    cdef list late                   # what is called before the end
    cdef list next                   # what is called before the end of the next one
    cdef list senders
    # True: it is the caller's to end.
    cdef bint begin(self) noexcept
    cdef int end(self) noexcept
    # Has `method` called once: before the end of the turn that runs, or in one of its own, soon.
    cdef int call_late(self, object method) except -1
    # Has it called when other things of the loop have had their turn.
    cdef int call_next(self, object method) except -1
    # Has `sender` send before the end of the turn that runs.
    cdef int gather(self, Sender sender) except -1
    cdef int _call(self, list methods) noexcept
    cdef int _send(self) noexcept
    cdef int _schedule(self) except -1
