# The sequences of a model, and the slots of its instances.

from libc.stdint cimport int64_t, uint64_t

from triton_async.core.injection cimport Injection
from triton_async.core.queue cimport Deadlines, Line
from triton_async.core.scheduler cimport Scheduler
from triton_async.infer.request cimport InferRequest, Origin
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.tensor cimport Tensor

#              .-------------------- slot free ----------------------v
#   NEW --no slot--> BACKLOG --a slot becomes free--> READY --taken--> RUNNING --nothing waits--> IDLE
#    all --given up, ended, idle for too long--> OVER   ^--more waits------'  ^----next request----'
#
# READY, RUNNING and IDLE sequences have a slot; one that ends while it runs keeps it until that is over.
cdef enum SequenceState:
    SEQUENCE_NEW = 0
    SEQUENCE_BACKLOG = 1
    SEQUENCE_READY = 2
    SEQUENCE_RUNNING = 3
    SEQUENCE_IDLE = 4
    SEQUENCE_OVER = 5

# A place on an instance; with the direct strategy also a row of its batches.
cdef class Slot:
    cdef Lane lane
    # The lowest free one is given away: of all instances the first slot before the second of any.
    cdef int64_t number
    cdef Sequence owner                # None: free
    cdef uint64_t generation           # grows with each owner

# It is the line of its waiting requests. What each step needs comes first, to lie together.
cdef class Sequence(Line):
    cdef int state                     # SequenceState
    cdef bint open                     # more may come: no END yet
    cdef bint given_up                 # while RUNNING: over with that
    cdef Lane lane                     # of its slot; None: it has none
    cdef InferRequest running          # with an instance, or None
    cdef int64_t since_ns              # when it became READY, or IDLE
    # Its line of sequences: READY, IDLE or BACKLOG
    cdef Sequence behind
    cdef void *before                  # borrowed; NULL: none
    cdef list states                   # of its last step; None before one
    cdef Tensor id_tensor
    cdef readonly object id            # int or str
    cdef SequenceTable table
    cdef Slot slot
    cdef uint64_t generation           # of the slot, as it was given to this sequence
    cdef Origin origin                 # of its first request; or None

# Sequences linked through themselves. One is in one line at most.
cdef class SequenceLine:
    cdef Sequence first
    cdef Sequence last
    cdef int64_t size

    cdef int append(self, Sequence sequence) noexcept
    cdef int prepend(self, Sequence sequence) noexcept
    cdef int unlink(self, Sequence sequence) noexcept

# The slots of one instance.
cdef class Lane:
    cdef object instance
    cdef list slots                    # of Slot, made as they are first needed
    cdef int64_t owned                 # of these, those with a sequence
    cdef int64_t serial                # grows from lane to lane
    cdef bint leaves                   # its slots go to no other sequences: its instance is to go
    cdef SequenceLine ready            # READY sequences, as they became so
    cdef int64_t n_ready
    cdef int64_t wait_until_ns         # when something is to be taken from it by time alone; 0: not

# Loop thread. What a sequence batcher knows, apart from which requests share a batch.
#
# Invariants
#   - a sequence has one owner of its states, itself, and a slot one owner: it is freed by the sequence that has it, of
#     the same generation, and given away in the same step, or stands among the free ones
#   - at most one request of a sequence is with an instance; the next one gets the states that it left
#   - `by_id` has the sequence of an id that requests without START join; one that was given up is not there
#   - IDLE sequences stand in `idle` in the order in which they became so; BACKLOG ones in that of their first requests
#   - what waits of a sequence whose earlier step is dropped, cancelled or late, is refused with it: no step is skipped
cdef class SequenceTable(Scheduler):
    cdef ModelSignature signature
    cdef Injection injection
    cdef readonly bint iterative       # each request is a sequence of its own
    cdef int64_t idle_ns
    cdef dict by_id                    # id -> Sequence
    cdef dict lanes                    # instance -> Lane
    cdef list lane_order
    cdef Py_ssize_t per_lane           # slots of an instance
    cdef dict slots                    # number -> Slot, of those that were used, on instances that stay or have owners
    cdef Py_ssize_t unmade             # slots that were not
    cdef Lane next_lane                # whose slot is made next; None: all are
    cdef int64_t lanes_made            # ever
    cdef list free                     # heap of numbers of free slots that were used
    cdef list emptied                  # instances that are to go and have no sequence any more; not yet taken
    cdef SequenceLine idle
    cdef SequenceLine backlog
    cdef int64_t backlog_requests
    cdef Deadlines deadlines
    cdef uint64_t arrivals
    cdef uint64_t last_id              # given to a request without one, iterative
    cdef readonly int64_t live         # sequences that are not OVER
    cdef list refused                  # not yet returned by `expire`; or None
    cdef public object wake            # called when a slot became free by itself: `take` may have something

    # The request that has to end before another one of this sequence id can begin, or None.
    cdef InferRequest running_of(self, object sequence_id)
    # The instance that a sequence is bound to, or None.
    cdef object instance_of(self, object sequence_id)
    # Whether requests without START may join a sequence of this id.
    cdef bint is_open(self, object sequence_id) except -1
    # Nothing joins that sequence any more; it is over with what waits of it.
    cdef int close_one(self, object sequence_id) except -1
    # Gives up a sequence whose client has gone, and all that waits of it.
    cdef int leave(self, Sequence sequence) except -1
    # Those are the instances that take batches from now on, in order; others that have sequences take batches for these
    # until they end, and stand in `emptied` then, those without at once. None of `instances` is among those.
    cdef int change_instances(self, list instances) except -1
    # Of an instance in `emptied`, or whose sequences are all over with it: it takes no batches any more.
    cdef int forget_instance(self, object instance) except -1
    # Forgets everything. No request waits or runs.
    cpdef int close(self) except -1

    # -- for the batcher
    # Finds the sequence of a request, or makes it. Raises InvalidArg where it can belong to none; nothing has changed
    # then.
    cdef Sequence _sequence_for(self, InferRequest request)
    cdef Sequence _start(self, InferRequest request, Sequence known)
    cdef int _join(self, Sequence sequence, InferRequest request, int64_t now_ns) except -1
    # A sequence without a slot, with requests: into the lowest free slot, or behind those that wait for one.
    cdef int _place(self, Sequence sequence, int64_t now_ns) except -1
    cdef bint _has_free(self) noexcept
    cdef Slot _free_slot(self)
    cdef Lane _add_lane(self, object instance)
    cdef int _find_next_lane(self) except -1
    # The first one that waits for a slot, without a place in that line.
    cdef Sequence _leave_backlog(self)
    cdef int _give_slot(self, Sequence sequence, Slot slot, int64_t now_ns) except -1
    # The slot of a sequence goes to the first one that waits for it, or becomes free.
    cdef int _take_slot(self, Sequence sequence, int64_t now_ns) except -1
    cdef int _make_ready(self, Sequence sequence, int64_t now_ns, bint first=*) noexcept
    cdef int _unready(self, Sequence sequence) noexcept
    # A sequence of which nothing runs: what becomes of it now.
    cdef int _settle(self, Sequence sequence, int64_t now_ns) except -1
    # Nothing of it waits or runs any more, and nothing is to come.
    cdef int _end(self, Sequence sequence, int64_t now_ns) except -1
    # Requests find it no more.
    cdef int _forget(self, Sequence sequence) except -1
    # Takes a waiting request out of its sequence; who does so says what becomes of both.
    cdef int _unlink(self, Sequence sequence, InferRequest request) except -1
    # A request is dropped: its sequence can not go on, and all that waits of it is refused. Others of the same id,
    # which begin with a START of their own, stay. The request itself is the caller's.
    cdef int _break(self, Sequence sequence, InferRequest request, int64_t now_ns) except -1
    cdef int _refuse(self, InferRequest request, object error) except -1
    cdef int _refuse_first(self, Sequence sequence, object error) except -1
    cdef object _cancelled(self, Sequence sequence)
    cdef int _note(self) noexcept

# When something is to be done about a request that still waits; 0: never.
cdef int64_t due_ns_of(InferRequest request) noexcept
