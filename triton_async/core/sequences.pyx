"""The sequence batcher (Triton's sequence_batching), with its direct and oldest strategies. Loop thread."""

cimport cython
from libc.stdint cimport int64_t

from triton_async.core.injection cimport Injection
from triton_async.core.sequence_table cimport (
    SEQUENCE_NEW,
    SEQUENCE_READY,
    SEQUENCE_RUNNING,
    Lane,
    Sequence,
    SequenceTable,
    Slot,
    due_ns_of,
)
from triton_async.infer.batch cimport Batch, compatible
from triton_async.infer.request cimport (
    FLAG_SEQUENCE_END,
    FLAG_SEQUENCE_START,
    REQUEST_DONE,
    REQUEST_QUEUED,
    REQUEST_RUNNING,
    InferRequest,
)
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature

from triton_async.errors import Unavailable


@cython.final
cdef class SequenceBatcher(SequenceTable):
    """See SequenceTable. `pads`: with the direct strategy, batches have rows for slots without a request.
    `hold_queued`, `hold_backlog`: nothing is taken before so many requests wait."""

    def __init__(self, ModelSignature signature, batching, Injection injection, instances, bint pads=False,
                 int64_t hold_queued=0, int64_t hold_backlog=0):
        SequenceTable.__init__(self, signature, batching, injection, instances)
        self.oldest = batching.oldest
        self.max_rows = max(signature.max_batch_size, 1)
        self.pads = pads and not self.oldest and signature.max_batch_size > 0
        self.delay_ns = batching.delay_us * 1000
        self.min_utilization = batching.min_utilization
        if not self.oldest and self.min_utilization == 0:
            self.delay_ns = 0  # as in Triton: there is nothing to wait for
        self.best = [0] * (self.max_rows + 1)
        if set(batching.preferred_batch_sizes) - {self.max_rows}:
            for size in range(1, self.max_rows + 1):
                self.best[size] = size if size in batching.preferred_batch_sizes else self.best[size - 1]
        self.hold_queued = hold_queued
        self.hold_backlog = hold_backlog
        self.may_run_ahead = self.oldest

    # -- requests out ------------------------------------------------------------------------------

    cpdef Batch take(self, object instance, bint idle, int64_t now_ns):
        cdef Lane lane = <Lane>self.lanes[instance]
        cdef list chosen
        if self.next_deadline_ns and self.next_deadline_ns <= now_ns:
            self._expire(now_ns)
            self._note()
        lane.wait_until_ns = 0
        if lane.n_ready == 0 or not (idle or self.may_run_ahead) or self._holds():
            self._note_wait()
            return None
        chosen = self._choose_oldest(lane, idle, now_ns) if self.oldest else self._choose_direct(lane, now_ns)
        self._note_wait()
        if chosen is None:
            return None
        return self._make_batch(lane, chosen, now_ns)

    cdef bint _holds(self) noexcept:
        if self.hold_queued == 0 and self.hold_backlog == 0:
            return False
        if self.pending - self.backlog_requests < self.hold_queued or self.backlog_requests < self.hold_backlog:
            return True
        self.hold_queued = self.hold_backlog = 0
        return False

    # As the dynamic batcher's: a preferred size goes at once, until the oldest has waited for as long as the delay.
    cdef list _choose_oldest(self, Lane lane, bint idle, int64_t now_ns):
        cdef int64_t count = min(lane.n_ready, self.max_rows)
        cdef Sequence sequence = lane.ready.first
        cdef InferRequest leader = None
        cdef InferRequest request
        cdef list chosen = []
        cdef bint overdue = now_ns - sequence.since_ns >= self.delay_ns
        if not idle and count < self.max_rows:
            return None
        if count < self.max_rows and not (overdue and self.delay_ns):
            if self.best[count]:
                count = <int64_t>self.best[count]
            elif self.delay_ns:
                lane.wait_until_ns = sequence.since_ns + self.delay_ns
                return None
        while sequence is not None and len(chosen) < count:
            request = sequence.first
            _inject(self.injection, sequence, request)
            if leader is None:
                leader = request
            elif not compatible(self.signature, leader, request):
                break
            chosen.append(sequence)
            sequence = sequence.behind
        return chosen

    # What is ready, each in the row of its slot; None for the others. Those of other shapes wait for the next batch.
    cdef list _choose_direct(self, Lane lane, int64_t now_ns):
        cdef list chosen = []
        cdef InferRequest leader = None
        cdef Sequence sequence
        cdef InferRequest request
        cdef Slot slot
        cdef int64_t left = lane.n_ready
        if self.delay_ns and lane.n_ready < self.min_utilization * self.max_rows:
            if now_ns < lane.ready.first.since_ns + self.delay_ns:
                lane.wait_until_ns = lane.ready.first.since_ns + self.delay_ns
                return None
        # The one that waits longest leads, so that none of another shape waits for ever.
        leader = lane.ready.first.first
        _inject(self.injection, lane.ready.first, leader)
        for slot in lane.slots:
            sequence = slot.owner
            if sequence is None or sequence.state != SEQUENCE_READY:
                chosen.append(None)
                continue
            request = sequence.first
            if request is not leader:
                _inject(self.injection, sequence, request)
            chosen.append(sequence if request is leader or compatible(self.signature, leader, request) else None)
            left -= 1
            if left == 0:
                break
        while chosen[len(chosen) - 1] is None:
            chosen.pop()
        return chosen

    cdef Batch _make_batch(self, Lane lane, list chosen, int64_t now_ns):
        cdef list taken = []
        cdef Sequence sequence
        cdef InferRequest request
        cdef InferRequest padding = None
        cdef Batch batch
        for sequence in chosen:
            if sequence is None:
                continue
            request = sequence.first
            self._unready(sequence)
            self._unlink(sequence, request)
            request.state = REQUEST_RUNNING
            request.states = None
            sequence.running = request
            sequence.state = SEQUENCE_RUNNING
            if request.flags & FLAG_SEQUENCE_START:
                sequence.states = None
            taken.append(request)
        self._note()
        try:
            batch = Batch(self.signature)
            for sequence in chosen:
                if sequence is not None:
                    batch.add(sequence.running)
                elif self.pads:
                    if padding is None:
                        padding = self.injection.padding(<InferRequest>taken[0])
                    batch.add(padding)
            batch.close()
        except BaseException:
            for request in taken:
                self.done(request, now_ns)
            self.lost = taken
            raise
        return batch

    cpdef list take_lost(self):
        cdef list lost = self.lost
        self.lost = None
        return lost or []

    cdef object take_states(self, InferResponse response):
        return self.injection.take_states(response)

    cpdef int done(self, InferRequest request, int64_t now_ns) except -1:
        cdef Sequence sequence = <Sequence>request.sequence
        cdef list states = request.states
        cdef Py_ssize_t i
        if sequence is None or sequence.running is not request:
            return 0
        request.sequence = None
        request.states = None
        sequence.running = None
        if states is not None:
            if sequence.states is None:
                sequence.states = list(self.injection.initial)
            for i in range(len(states)):
                if states[i] is not None:
                    sequence.states[i] = states[i]
        if sequence.given_up or self.iterative:
            self._end(sequence, now_ns)
        elif not request.flags & FLAG_SEQUENCE_END:
            self._settle(sequence, now_ns)
        elif sequence.first is None:
            self._end(sequence, now_ns)
        else:
            # The next sequence of the same id waits for its turn like any other.
            sequence.states = None
            sequence.state = SEQUENCE_NEW
            self._take_slot(sequence, now_ns)
            self._place(sequence, now_ns)
        return self._note()

    cpdef int reschedule(self, InferRequest request, int64_t now_ns) except -1:
        cdef Sequence sequence = <Sequence>request.sequence
        assert sequence.running is request
        if request.states is not None:
            sequence.states = request.states
            request.states = None
        sequence.running = None
        request.flags &= ~<int>FLAG_SEQUENCE_START
        request.queue_start_ns = now_ns
        return self._back(sequence, request, now_ns, False)

    # A request that ran, or was to, waits again, before all others of its sequence.
    cdef int _back(self, Sequence sequence, InferRequest request, int64_t now_ns, bint first) except -1:
        cdef int64_t due_ns = due_ns_of(request)
        if due_ns:
            self.deadlines.add(request, due_ns)
        request.state = REQUEST_QUEUED
        sequence.prepend(request)
        self.pending += 1
        self._make_ready(sequence, now_ns, first)
        if sequence.given_up:
            self._break(sequence, request, now_ns)
            self._refuse(request, self._cancelled(sequence))
        return self._note()

    # -- requests that go otherwise ----------------------------------------------------------------

    cpdef int requeue(self, list requests) except -1:
        cdef InferRequest request
        cdef Sequence sequence
        for request in reversed(requests):
            assert request.state == REQUEST_RUNNING
            sequence = <Sequence>request.sequence
            sequence.running = None
            self._back(sequence, request, 0, True)
        return 0

    cpdef int remove(self, InferRequest request) except -1:
        assert request.state == REQUEST_QUEUED
        self._break(<Sequence>request.sequence, request, request.queue_start_ns)
        request.state = REQUEST_DONE
        return self._note()

    cpdef list expire(self, int64_t now_ns):
        cdef list found
        self._expire(now_ns)
        found, self.refused = self.refused, None
        self._note()
        return found or []

    cdef int _expire(self, int64_t now_ns) except -1:
        cdef InferRequest request
        cdef Sequence sequence
        while self.deadlines.size and self.deadlines.earliest_ns() <= now_ns:
            request = self.deadlines.earliest()
            sequence = <Sequence>request.sequence
            if request.end_by_ns and request.end_by_ns <= now_ns:
                self._break(sequence, request, now_ns)
                request.late = True
                self._refuse(request, None)
                continue
            while sequence.first is not None:
                self._refuse_first(sequence, Unavailable("timeout of the corresponding sequence has been expired"))
            self._end(sequence, now_ns)
        while self.idle.first is not None and self.idle.first.since_ns + self.idle_ns <= now_ns:
            self._end(self.idle.first, now_ns)
        return 0

    cdef int _note_wait(self) noexcept:
        cdef Lane lane
        self.wait_until_ns = 0
        if self.delay_ns == 0:
            return 0
        for lane in self.lane_order:
            if lane.wait_until_ns and (self.wait_until_ns == 0 or lane.wait_until_ns < self.wait_until_ns):
                self.wait_until_ns = lane.wait_until_ns
        return 0


cdef int _inject(Injection injection, Sequence sequence, InferRequest request) except -1:
    return injection.inject(request, sequence.id_tensor,
                            None if request.flags & FLAG_SEQUENCE_START else sequence.states)
