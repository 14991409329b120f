"""Which sequences a model has, the slots that they hold, and those that wait for one. Loop thread."""

import logging

cimport cython
from libc.stdint cimport int64_t, uint64_t

from heapq import heapify, heappop, heappush

from triton_async.core.injection cimport Injection
from triton_async.core.queue cimport Deadlines
from triton_async.core.scheduler cimport Scheduler
from triton_async.infer.request cimport (
    FLAG_SEQUENCE_END,
    FLAG_SEQUENCE_START,
    REQUEST_DONE,
    REQUEST_NEW,
    REQUEST_QUEUED,
    InferRequest,
)
from triton_async.infer.signature cimport ModelSignature

from triton_async.defines import MAX_DELAY_US, MAX_SEQUENCE_ID
from triton_async.errors import Cancelled, InvalidArg, Unsupported

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void *address) noexcept nogil

log = logging.getLogger("triton_async.core")

cdef uint64_t MAX_TIMEOUT_US = MAX_DELAY_US
cdef Py_ssize_t MAX_ID = MAX_SEQUENCE_ID
# Instances that a model has at once and one after the other, far beyond what there may be.
cdef int64_t MOST_LANES = 1 << 32


# Of ten thousand sequences none is in the processor's caches: what the next step reads of this one comes while it is
# put in line, all at once instead of one after the other.
cdef inline void _fetch(Sequence sequence) noexcept:
    prefetch(sequence.before)
    prefetch(<void *>sequence.behind)
    prefetch(<void *>sequence.states)
    prefetch(<void *>sequence.id_tensor)


@cython.final
cdef class Slot:
    """See sequences.pxd."""


@cython.final
cdef class Sequence:
    """See sequences.pxd."""

    def left(self):
        """Its client has gone (Origin)."""
        self.table.leave(self)


@cython.final
cdef class SequenceLine:
    cdef int append(self, Sequence sequence) noexcept:
        if self.last is None:
            self.first = sequence
        else:
            sequence.before = <void *>self.last
            self.last.behind = sequence
        self.last = sequence
        self.size += 1
        return 0

    cdef int prepend(self, Sequence sequence) noexcept:
        if self.first is None:
            self.last = sequence
        else:
            sequence.behind = self.first
            self.first.before = <void *>sequence
        self.first = sequence
        self.size += 1
        return 0

    cdef int unlink(self, Sequence sequence) noexcept:
        cdef Sequence behind = sequence.behind
        cdef Sequence before = None
        if sequence.before is not NULL:
            before = <Sequence>sequence.before
        if before is None:
            self.first = behind
        else:
            before.behind = behind
        if behind is None:
            self.last = before
        else:
            behind.before = sequence.before
        sequence.before = NULL
        sequence.behind = None
        self.size -= 1
        return 0


@cython.final
cdef class Lane:
    """See sequences.pxd."""

    def __init__(self):
        self.slots = []
        self.ready = SequenceLine()


cdef class SequenceTable(Scheduler):
    """`batching`: config SequenceBatching. `instances`: those that take batches, in order."""

    def __init__(self, ModelSignature signature, batching, Injection injection, instances):
        self.signature = signature
        self.injection = injection
        self.iterative = batching.iterative
        self.idle_ns = batching.idle_us * 1000
        self.by_id = {}
        self.lanes = {}
        self.lane_order = []
        self.per_lane = batching.candidates
        self.slots = {}
        self.free = []
        self.emptied = []
        for instance in instances:
            self._add_lane(instance)
        self._find_next_lane()
        self.idle = SequenceLine()
        self.backlog = SequenceLine()
        self.deadlines = Deadlines()
        self.timed = True

    @property
    def backlogged(self):
        """Sequences that wait for a slot."""
        return self.backlog.size

    @property
    def free_slots(self):
        """Slots without a sequence."""
        return len(self.free) + self.unmade

    # -- requests in -------------------------------------------------------------------------------

    cpdef int enqueue(self, InferRequest request, int64_t now_ns) except -1:
        cdef Sequence sequence
        cdef int64_t due_ns
        assert request.state == REQUEST_NEW
        if request.rows != 1:
            raise InvalidArg(f"inference request to model '{self.signature.model_name}' must specify batch-size 1 due "
                             "to requirements of sequence batcher")
        sequence = self._sequence_for(request)
        request.deadline_ns = 0
        if request.timeout_us and (sequence.state == SEQUENCE_BACKLOG
                                   or (sequence.state == SEQUENCE_NEW and not self._has_free())):
            request.deadline_ns = now_ns + <int64_t>min(request.timeout_us, MAX_TIMEOUT_US) * 1000
        self.arrivals += 1
        request.arrival = self.arrivals
        due_ns = due_ns_of(request)
        if due_ns:
            self.deadlines.add(request, due_ns)
        self._join(sequence, request, now_ns)
        return self._note()

    # From here on nothing fails.
    cdef int _join(self, Sequence sequence, InferRequest request, int64_t now_ns) except -1:
        request.queue_start_ns = now_ns
        request.state = REQUEST_QUEUED
        request.sequence = sequence
        request.refusal = None
        request.late = False
        sequence.append(request)
        self.pending += 1
        if request.flags & FLAG_SEQUENCE_START and not self.iterative:
            if sequence.open and sequence.state != SEQUENCE_NEW:
                log.warning("sequence %s for model '%s' has a conflict. The previous sequence did not end before this "
                            "sequence start. Previous sequence will be terminated early.", sequence.id,
                            self.signature.model_name)
            sequence.open = True
            if request.origin is not sequence.origin:
                if sequence.origin is not None:
                    sequence.origin.kept.discard(sequence)
                sequence.origin = request.origin
                if request.origin is not None:
                    sequence.origin.kept.add(sequence)
        if request.flags & FLAG_SEQUENCE_END:
            sequence.open = False
        if sequence.state == SEQUENCE_NEW:
            self.live += 1
            if not self.iterative:
                self.by_id[sequence.id] = sequence
            self._place(sequence, now_ns)
        elif sequence.state == SEQUENCE_IDLE:
            self.idle.unlink(sequence)
            self._make_ready(sequence, now_ns)
        elif sequence.state == SEQUENCE_BACKLOG:
            self.backlog_requests += 1
        return 0

    cdef Sequence _sequence_for(self, InferRequest request):
        cdef Sequence sequence
        key = request.sequence_id
        if isinstance(key, str) and len(<str>key) > MAX_ID:
            raise Unsupported(f"string correlation ID cannot be longer than {MAX_ID} characters")
        if self.iterative:
            if not key:
                self.last_id += 1
                request.sequence_id = str(self.last_id) if self.injection.takes_text() else self.last_id
            sequence = self._start(request, None)
            request.flags |= FLAG_SEQUENCE_START
            return sequence
        if not key:
            raise InvalidArg(f"inference request to model '{self.signature.model_name}' must specify a non-zero or "
                             "non-empty correlation ID")
        sequence = <Sequence>self.by_id.get(key)
        if sequence is not None:
            _fetch(sequence)
        if request.flags & FLAG_SEQUENCE_START:
            return self._start(request, sequence)
        if sequence is None or not sequence.open:
            raise InvalidArg(f"inference request for sequence {key} to model '{self.signature.model_name}' must "
                             "specify the START flag on the first request of the sequence")
        return sequence

    cdef Sequence _start(self, InferRequest request, Sequence known):
        cdef Sequence sequence
        if known is not None:
            return known
        sequence = Sequence.__new__(Sequence)
        sequence.id = request.sequence_id
        sequence.id_tensor = self.injection.id_tensor(request.sequence_id)
        sequence.table = self
        return sequence

    # -- slots -------------------------------------------------------------------------------------

    cdef bint _has_free(self) noexcept:
        return len(self.free) > 0 or self.unmade > 0

    cdef Slot _free_slot(self):
        cdef Lane lane = self.next_lane
        cdef Slot slot
        cdef int64_t number = 0 if lane is None else len(lane.slots) * MOST_LANES + lane.serial
        if self.free and (lane is None or <int64_t>self.free[0] < number):
            return <Slot>self.slots[heappop(self.free)]
        slot = Slot.__new__(Slot)
        slot.number = number
        slot.lane = lane
        self.unmade -= 1
        self.slots[number] = slot
        lane.slots.append(slot)
        self._find_next_lane()
        return slot

    cdef int _find_next_lane(self) except -1:
        cdef Lane lane, found = None
        for lane in self.lane_order:
            if not lane.leaves and len(lane.slots) < (self.per_lane if found is None else len(found.slots)):
                found = lane
        self.next_lane = found
        return 0

    cdef Lane _add_lane(self, object instance):
        cdef Lane lane = Lane()
        lane.serial = self.lanes_made
        self.lanes_made += 1
        lane.instance = instance
        self.lanes[instance] = lane
        self.lane_order.append(lane)
        self.unmade += self.per_lane
        return lane

    cdef int change_instances(self, list instances) except -1:
        cdef Lane lane
        cdef Slot slot
        cdef Sequence sequence
        for lane in list(self.lane_order):
            if lane.instance in instances or lane.leaves:
                continue
            lane.leaves = True
            self.unmade -= self.per_lane - len(lane.slots)
            for slot in lane.slots:
                if slot.owner is None:
                    self.free.remove(slot.number)
                    del self.slots[slot.number]
            if lane.owned == 0:
                self.emptied.append(lane.instance)
        heapify(self.free)
        for instance in instances:
            if instance not in self.lanes:
                self._add_lane(instance)
        self.lane_order.sort(key=lambda lane: _place_of(<Lane>lane, instances))
        self._find_next_lane()
        while self.backlog.size and self._has_free():
            sequence = self._leave_backlog()
            self._give_slot(sequence, self._free_slot(), sequence.first.queue_start_ns)
        return self._note()

    cdef int forget_instance(self, object instance) except -1:
        cdef Lane lane = <Lane>self.lanes.pop(instance)
        assert lane.leaves and lane.owned == 0
        self.lane_order.remove(lane)
        lane.slots = []  # they know their lane
        lane.instance = None
        return 0

    cdef Sequence _leave_backlog(self):
        cdef Sequence sequence = self.backlog.first
        cdef InferRequest request = sequence.first
        self.backlog.unlink(sequence)
        while request is not None:
            self.backlog_requests -= 1
            request = request.behind
        return sequence

    cdef int _place(self, Sequence sequence, int64_t now_ns) except -1:
        cdef InferRequest request = sequence.first
        if self.backlog.size == 0 and self._has_free():
            return self._give_slot(sequence, self._free_slot(), now_ns)
        sequence.state = SEQUENCE_BACKLOG
        self.backlog.append(sequence)
        while request is not None:
            self.backlog_requests += 1
            request = request.behind
        return 0

    cdef int _give_slot(self, Sequence sequence, Slot slot, int64_t now_ns) except -1:
        cdef InferRequest request = sequence.first
        assert slot.owner is None and sequence.slot is None
        slot.owner = sequence
        slot.lane.owned += 1
        slot.generation += 1
        sequence.slot = slot
        sequence.lane = slot.lane
        sequence.generation = slot.generation
        while request is not None:  # what timed the wait for the slot
            if request.deadline_ns:
                self.deadlines.discard(request)
                request.deadline_ns = 0
                if request.end_by_ns:
                    self.deadlines.add(request, request.end_by_ns)  # never for want of memory: it has just left
            request = request.behind
        return self._make_ready(sequence, now_ns)

    cdef int _take_slot(self, Sequence sequence, int64_t now_ns) except -1:
        cdef Slot slot = sequence.slot
        if slot is None:
            return 0
        if slot.owner is not sequence or slot.generation != sequence.generation:
            raise AssertionError(f"slot {slot.number} of model '{self.signature.model_name}' is not this sequence's")
        slot.owner = None
        slot.lane.owned -= 1
        sequence.slot = None
        sequence.lane = None
        if slot.lane.leaves:
            del self.slots[slot.number]
            if slot.lane.owned == 0:
                self.emptied.append(slot.lane.instance)
            return 0
        if self.backlog.size == 0:
            heappush(self.free, slot.number)
            return 0
        return self._give_slot(self._leave_backlog(), slot, now_ns)

    cdef int _make_ready(self, Sequence sequence, int64_t now_ns, bint first=False) noexcept:
        cdef Lane lane = sequence.lane
        sequence.state = SEQUENCE_READY
        lane.n_ready += 1
        if first:
            lane.ready.prepend(sequence)
        else:
            sequence.since_ns = now_ns
            lane.ready.append(sequence)
        return 0

    cdef int _unready(self, Sequence sequence) noexcept:
        sequence.lane.n_ready -= 1
        return sequence.lane.ready.unlink(sequence)

    cdef int _settle(self, Sequence sequence, int64_t now_ns) except -1:
        if sequence.first is not None:
            return self._make_ready(sequence, now_ns)
        sequence.state = SEQUENCE_IDLE
        sequence.since_ns = now_ns
        return self.idle.append(sequence)

    cdef int _end(self, Sequence sequence, int64_t now_ns) except -1:
        if sequence.state == SEQUENCE_READY:
            self._unready(sequence)
        elif sequence.state == SEQUENCE_IDLE:
            self.idle.unlink(sequence)
        elif sequence.state == SEQUENCE_BACKLOG:
            self.backlog.unlink(sequence)
        sequence.state = SEQUENCE_OVER
        sequence.states = None
        self.live -= 1
        self._forget(sequence)
        return self._take_slot(sequence, now_ns)

    cdef int _forget(self, Sequence sequence) except -1:
        sequence.open = False
        if self.by_id.get(sequence.id) is sequence:
            del self.by_id[sequence.id]
        if sequence.origin is not None:
            sequence.origin.kept.discard(sequence)
            sequence.origin = None
        return 0

    # -- requests that are dropped -----------------------------------------------------------------

    cdef int _unlink(self, Sequence sequence, InferRequest request) except -1:
        sequence.unlink(request)
        self.pending -= 1
        if sequence.state == SEQUENCE_BACKLOG:
            self.backlog_requests -= 1
        if request.due_place:
            self.deadlines.discard(request)
        return 0

    cdef int _break(self, Sequence sequence, InferRequest request, int64_t now_ns) except -1:
        cdef list found = []
        cdef InferRequest one = sequence.first
        cdef bint inside = False
        while one is not None:
            if one.flags & FLAG_SEQUENCE_START:
                if inside:
                    break
                found = []
            found.append(one)
            inside = inside or one is request
            one = one.behind
        if one is None:
            sequence.open = False
        for one in found:
            self._unlink(sequence, one)
            one.sequence = None
            if one is not request:
                self._refuse(one, self._cancelled(sequence))
        if sequence.first is None:
            if sequence.state == SEQUENCE_RUNNING:
                sequence.given_up = True
                self._forget(sequence)
            else:
                self._end(sequence, now_ns)
        return 0

    cdef object _cancelled(self, Sequence sequence):
        return Cancelled(f"sequence {sequence.id} of model '{self.signature.model_name}' was cancelled with one of its "
                         "requests")

    cdef int _refuse(self, InferRequest request, object error) except -1:
        request.state = REQUEST_DONE
        request.refusal = error
        if self.refused is None:
            self.refused = []
        self.refused.append(request)
        return 0

    cdef int leave(self, Sequence sequence) except -1:
        if sequence.state == SEQUENCE_OVER:
            return 0
        while sequence.first is not None:
            self._refuse_first(sequence, self._cancelled(sequence))
        if sequence.state == SEQUENCE_RUNNING:
            sequence.given_up = True
            self._forget(sequence)
        else:
            self._end(sequence, sequence.since_ns)
        self._note()
        if self.wake is not None:
            self.wake()
        return 0

    cdef int _refuse_first(self, Sequence sequence, object error) except -1:
        cdef InferRequest request = sequence.first
        self._unlink(sequence, request)
        request.sequence = None
        return self._refuse(request, error)

    cdef int _note(self) noexcept:
        cdef int64_t due_ns = self.deadlines.earliest_ns()
        cdef int64_t idle_until_ns
        if self.refused is not None:
            due_ns = 1
        elif self.idle.first is not None:
            idle_until_ns = self.idle.first.since_ns + self.idle_ns
            if due_ns == 0 or idle_until_ns < due_ns:
                due_ns = idle_until_ns
        self.next_deadline_ns = due_ns
        return 0

    cdef InferRequest running_of(self, object sequence_id):
        cdef Sequence sequence = <Sequence>self.by_id.get(sequence_id)
        return None if sequence is None else sequence.running

    cdef bint is_open(self, object sequence_id) except -1:
        cdef Sequence sequence = <Sequence>self.by_id.get(sequence_id)
        return sequence is not None and sequence.open

    cdef int close_one(self, object sequence_id) except -1:
        cdef Sequence sequence = <Sequence>self.by_id.get(sequence_id)
        if sequence is None:
            return 0
        sequence.open = False
        if sequence.state == SEQUENCE_IDLE:
            self._end(sequence, sequence.since_ns)
        return self._note()

    cdef object instance_of(self, object sequence_id):
        cdef Sequence sequence = <Sequence>self.by_id.get(sequence_id)
        return None if sequence is None or sequence.slot is None else sequence.slot.lane.instance

    cpdef int close(self) except -1:
        cdef Sequence sequence
        self.wake = None
        for sequence in list(self.by_id.values()):
            self._end(sequence, 0)
        for lane in self.lane_order:  # slots know their lanes
            (<Lane>lane).slots = []
            (<Lane>lane).instance = None
        self.slots = {}
        self.lanes = {}
        self.free = []
        self.emptied = []
        self.next_lane = None
        self.unmade = 0
        return 0


def _place_of(Lane lane, list instances):
    return len(instances) if lane.leaves else instances.index(lane.instance)


# When something is to be done about a request that still waits; 0: never.
cdef int64_t due_ns_of(InferRequest request) noexcept:
    if request.deadline_ns == 0:
        return request.end_by_ns
    if request.end_by_ns == 0:
        return request.deadline_ns
    return min(request.deadline_ns, request.end_by_ns)
