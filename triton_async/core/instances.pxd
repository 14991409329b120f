# One OS thread per model instance.

from triton_async.backends.base cimport ModelInstance
from triton_async.core.limiter cimport Claim
from triton_async.core.reactor cimport Errand, Reactor, Sleeper
from triton_async.core.wakeup cimport ta_batch, ta_mailbox
from triton_async.infer.batch cimport Batch
from triton_async.infer.event cimport ta_message
from triton_async.infer.transfer cimport Transfer

# Made and used by the loop thread; `engine` belongs to the instance's own thread, once that has started.
#
#   STARTING --engine made--> READY --stop--> STOPPING --thread ended--> STOPPED
#      |
#      +------- engine failed ------------------------------------------> STOPPED
#
# An engine that was adopted makes the instance READY without a thread. The first batch starts it; `close` ends one
# that had no batch.
# An engine that breaks is replaced by a new one on the same thread, while the instance is READY or STOPPING.
cdef enum InstanceState:
    INSTANCE_STARTING = 0
    INSTANCE_READY = 1
    INSTANCE_STOPPING = 2
    INSTANCE_STOPPED = 3

# Who may use an idle instance: nobody but the loop, or a thread of a model or a program too (core.lending).
# Of whoever holds the GIL.
#
#   KEPT <--the loop-- OFFERED <---> BORROWED --given back, as the loop wants it--> KEPT
#     +----the loop------^
cdef enum Desk:
    DESK_KEPT = 0
    DESK_OFFERED = 1
    DESK_BORROWED = 2

# Who has borrowed an instance (core.lending), which stays among the idle ones of its model: hears first what its engine
# has to tell. With the GIL.
cdef class Borrower(Errand):
    cdef readonly object thread      # identifier of the thread that uses it
    # Whether it has taken a message of its own request, to pass it on later.
    cdef bint keeps(self, ta_message *message) noexcept
    # The loop has to know of it now. Threads of models.
    cdef int tell(self) noexcept
    # A request that its execution is for was cancelled. Loop thread.
    cdef int forsaken(self) except -1
    # The server ends: as `ModelInstance.cancel`. Loop thread.
    cdef int give_up(self) except -1
    # The model whose instance it has.
    cdef str asked(self)

cdef class Instance(Sleeper):
    cdef readonly str name
    cdef int state
    cdef ModelInstance engine            # None while a broken one is not replaced
    # What its engines have in common, known once it is READY:
    cdef readonly int depth              # batches that one works on at once
    cdef readonly bint any_thread        # `execute` may run on the loop thread
    cdef readonly bint by_request        # one answers by request
    cdef bint direct                     # one may take batches on the loop thread
    cdef ta_batch *held                  # taken from the mailbox when the engine was broken
    cdef object retry                    # when to make an engine again
    cdef ta_mailbox *mailbox
    cdef Reactor reactor
    cdef Transfer transfer               # of the instance's thread
    cdef Transfer late                   # of whatever thread completes a batch that the engine kept
    cdef readonly int in_flight          # batches out: running or in the mailbox, revoked ones too
    cdef readonly list out               # those batches, the oldest first
    cdef object thread                   # None before the first batch of an engine that was adopted
    cdef int desk                        # Desk
    cdef bint wanted                     # while BORROWED: the loop waits for it
    cdef Borrower borrower               # while BORROWED
    cdef Borrower runs                   # what its own execution runs just now on an instance that it has borrowed
    cdef Claim claim                     # what an execution needs of the rate limiter; None: nothing
    cdef object make_engine
    cdef object _on_stopped

    # Hands a closed batch down; at most 1 + INSTANCE_RUN_AHEAD_MAX are out. `batch.runner` takes it back: with an error
    # when the thread had to be started first and could not.
    cdef int run(self, Batch batch) except -1
    cdef bint _run_direct(self, Batch batch) except -1
    # One came back.
    cdef int take_back(self, Batch batch) except -1
    # Asks the engine to give up a batch that has begun, if it can. It comes back in any case.
    cdef int cancel(self, Batch batch) except -1

# What may be borrowed of the idle instances of a model from now on; nothing any more, of all of them; whether one is
# lent.
cdef int offer(list idle) noexcept
cdef int call_in(list instances) noexcept
cdef bint has_lent(list instances) noexcept

# Runs a batch on an idle instance of `any_thread`. Any thread that has the instance for itself, no GIL.
cdef void execute_batch(Instance instance, Batch batch) noexcept nogil

# Tells core what an engine has to tell, a batch that it kept among it: `post` of engines and response factories, whose
# `context` is the Instance. Where the garbage collector has begun to take the instance apart nobody hears of it any
# more: a factory that goes with it posts all the same. The message's reference is given back then.
cdef void post_for_instance(void *context, ta_message *message) noexcept nogil
