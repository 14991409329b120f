"""The dynamic batcher (Triton's dynamic_batching), and the default scheduler as its case of one request."""

cimport cython

from triton_async.backends.base cimport BatchRule
from triton_async.core.auto_delay cimport AutoDelay
from triton_async.core.queue cimport RequestQueue
from triton_async.core.scheduler cimport Scheduler
from triton_async.infer.batch cimport Batch, closed_batch, compatible
from triton_async.infer.plan cimport Room
from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport ModelSignature


@cython.final
cdef class DynamicBatcher(Scheduler):
    """`dynamic_batching`: config DynamicBatching, or None for one execution per request. `hold_queued`: nothing is
    taken before so many requests wait, once. `auto`: it finds the delay, within that of `dynamic_batching` where that
    has one. `rule`: what it asks beside."""

    def __init__(self, ModelSignature signature, RequestQueue queue, dynamic_batching=None, int64_t hold_queued=0,
                 AutoDelay auto=None, BatchRule rule=None):
        self.hold_queued = hold_queued
        self.signature = signature
        self.queue = queue
        self.max_rows = max(signature.max_batch_size, 1)
        self.merging = dynamic_batching is not None and signature.max_batch_size > 0
        if self.merging and signature.plan is not None and signature.plan.pads:
            self.room = Room(signature.plan)
        self.preferred = frozenset()
        self.max_preferred = self.max_rows
        if self.merging:
            self.rule = rule
            if auto is None:
                self.delay_ns = dynamic_batching.max_queue_delay_us * 1000
            self.auto = auto
            self.preferred = frozenset(dynamic_batching.preferred_batch_sizes) - {self.max_rows}
            if self.preferred:
                self.preferred = frozenset(dynamic_batching.preferred_batch_sizes)
                self.max_preferred = max(self.preferred)
            if dynamic_batching.strict_sizes:
                self.strict = True
                self.preferred = frozenset(dynamic_batching.preferred_batch_sizes)
        self.may_run_ahead = not queue.has_rules
        self.starts_at_once = (self.delay_ns == 0 and hold_queued == 0 and self.auto is None and not self.strict
                               and self.rule is None)
        self.timed = self.delay_ns != 0 or self.auto is not None or queue.has_timeouts

    cpdef int enqueue(self, InferRequest request, int64_t now_ns) except -1:
        self.queue.push(request, now_ns)
        if self.auto is not None:
            self.auto.arrived(self.queue.size - 1, now_ns)
        return self._note_queue()

    cpdef int remove(self, InferRequest request) except -1:
        self.queue.remove(request)
        return self._note_queue()

    cpdef int requeue(self, list requests) except -1:
        try:
            self.queue.requeue(requests)
        finally:
            self._note_queue()
        return 0

    cpdef list expire(self, int64_t now_ns):
        cdef list found = self.refused
        self.refused = None
        if self.queue.next_deadline_ns and self.queue.next_deadline_ns <= now_ns:
            found = (found or []) + self.queue.expire(now_ns)
        self._note_queue()
        return found or []

    # What `take` refused stays due until `expire` has returned it.
    cdef int _note_queue(self) noexcept:
        self.pending = self.queue.size
        if self.refused is None:
            self.next_deadline_ns = self.queue.next_deadline_ns
        return 0

    cdef int _refuse(self, list requests, int64_t now_ns) except -1:
        if not requests:
            return 0
        if self.refused is None:
            self.refused = []
            self.next_deadline_ns = max(now_ns, 1)
        self.refused += requests
        return 0

    cpdef Batch take(self, object instance, bint idle, int64_t now_ns):
        cdef bint idled = idle and self.wait_until_ns != 0
        cdef Batch batch
        cdef list taken
        cdef int64_t count
        self.wait_until_ns = 0
        if not (idle or self.may_run_ahead):
            return None
        if self.hold_queued:
            if self.queue.size < self.hold_queued:
                return None
            self.hold_queued = 0
        if self.queue.next_deadline_ns and self.queue.next_deadline_ns <= now_ns:
            self._refuse(self.queue.expire(now_ns), now_ns)
        if not self.merging:
            count = self._choose_alone(now_ns)
        else:
            self._scan(idled, now_ns)
            count = self._choose(idle, now_ns)
        taken = self.queue.pop(count)
        self._note_queue()
        if not taken:
            return None
        self._end_rule()
        try:
            batch = closed_batch(self.signature, taken)
        except BaseException:
            self.lost = taken
            raise
        if self.auto is not None:
            self.auto.taken(len(taken), now_ns)
        return batch

    cpdef int note_batch(self, int64_t requests, int64_t rows, int64_t execution_ns, int64_t now_ns) except -1:
        if self.auto is not None:
            self.auto.ended(self.queue.size, requests, rows, execution_ns, now_ns)
        return self.note_execution(execution_ns) if execution_ns >= 0 else 0

    cpdef list take_lost(self):
        cdef list lost = self.lost
        self.lost = None
        return lost or []

    # Whether it cannot end before its client's deadline. Only once it has waited as long as an execution takes: one
    # that could begin when it came always does, or a single slow execution would have all that follow refused.
    cdef bint _is_late(self, InferRequest request, int64_t now_ns) noexcept:
        return (
            request.end_by_ns != 0
            and now_ns + self.mean_execution_ns > request.end_by_ns
            and now_ns - request.queue_start_ns >= self.mean_execution_ns
        )

    cdef int _drop(self, InferRequest request, int64_t now_ns) except -1:
        self._refuse([request], now_ns)
        request.late = True
        return self.queue.remove(request)

    cdef int64_t _choose_alone(self, int64_t now_ns) except -1:
        cdef InferRequest request = self.queue.first()
        while request is not None:
            if not self._is_late(request, now_ns):
                return 1
            self._drop(request, now_ns)
            request = self.queue.first()
        return 0

    cdef int _scan(self, bint idled, int64_t now_ns) except -1:
        cdef InferRequest last = self.queue.cursor
        cdef InferRequest leader = self.queue.first()
        cdef InferRequest request
        cdef InferRequest behind
        self.queue.cursor = None
        # Among those looked at before, too, one may be late by now.
        if last is None or (not idled and self.ends_ns and now_ns + self.mean_execution_ns > self.ends_ns):
            self.count = self.rows = self.best = self.ends_ns = 0
            self._end_rule()
            if self.room is not None:
                self.room.clear()
            request = leader
        else:
            request = self.queue.after(last)
        self.marked = self.best
        self.closed = False
        while request is not None:
            if not idled and self._is_late(request, now_ns):
                behind = self.queue.after(request)
                self._drop(request, now_ns)
                request = behind
                continue
            if self.count == 0:
                leader = request
                self.oldest_ns = request.queue_start_ns
                if self.room is not None:
                    self.room.add(request)
            else:
                if self.marked == 0 and self.rows + request.rows > self.max_preferred:
                    self.marked = self.count
                if (self.rows + request.rows > (self.max_preferred if self.strict else self.max_rows)
                        or self.count >= self.max_rows or not compatible(self.signature, leader, request)
                        or (self.room is not None and not self.room.add(request))):
                    self.closed = True
                    break
            if self.rule is not None and not self._joins(request):
                self.closed = True
                break
            self.count += 1
            self.rows += request.rows
            self.oldest_ns = min(self.oldest_ns, request.queue_start_ns)
            if request.end_by_ns and (self.ends_ns == 0 or request.end_by_ns < self.ends_ns):
                self.ends_ns = request.end_by_ns
            if self.preferred and self.rows in self.preferred:
                self.marked = self.count
            self.best = self.marked
            last = request
            request = self.queue.after(request)
        self.queue.cursor = last if self.count else None
        return 0

    # Asked once for each that may join; the first one of a batch always does.
    cdef bint _joins(self, InferRequest request) noexcept:
        if self.count == 0:
            self.rule.begin()
            self.rule.takes(request)
            return True
        if request is self.barred or not self.rule.takes(request):
            self.barred = request
            return False
        return True

    cdef int _end_rule(self) noexcept:
        self.barred = None
        if self.rule is not None and self.rule.begun:
            self.rule.end()
        return 0

    # As Triton's GetDynamicBatch: a preferred size goes at once, until the oldest request has waited for as long as the
    # delay; then, or when nothing can be added, all goes that fits.
    cdef int64_t _choose(self, bint idle, int64_t now_ns) noexcept:
        cdef int64_t chosen = self.count
        cdef bint full = self.closed or self.rows >= self.max_rows or self.count >= self.max_rows
        cdef bint overdue
        if self.count == 0:
            return 0
        if self.strict:
            return self._choose_strict(idle, now_ns)
        overdue = self.delay_ns != 0 and now_ns - self.oldest_ns >= self.delay_ns
        if self.marked and not overdue:
            chosen = self.marked
        if not idle:
            # With a delay, what is beyond the mark joins once the delay is over.
            if self.delay_ns == 0:
                return chosen if full or self.rows >= self.max_preferred else 0
            return chosen if full and chosen == self.count else 0
        if self.marked or overdue or full or self.rows >= self.max_preferred:
            return chosen
        if self.delay_ns:
            return self._wait(self.oldest_ns + self.delay_ns, now_ns)
        if self.auto is None:
            return chosen
        return self._wait(self.auto.hold_until(self.count, self.rows, self.idle_instances, now_ns), now_ns)

    # A preferred size goes at once, as long as the delay nothing else that could become one. Nothing larger than the
    # largest, but for a request that is so by itself.
    cdef int64_t _choose_strict(self, bint idle, int64_t now_ns) noexcept:
        cdef bint final = self.closed or self.rows >= self.max_preferred or self.count >= self.max_rows
        if final or (idle and self.best):
            return self.best or self.count
        return self._wait(self.oldest_ns + self.delay_ns, now_ns) if idle else 0

    cdef int64_t _wait(self, int64_t until_ns, int64_t now_ns) noexcept:
        # A client's deadline does not allow for more company than this.
        if self.ends_ns:
            until_ns = min(until_ns, self.ends_ns - self.mean_execution_ns)
        # A queue timeout counts for what the server lets wait of its own accord.
        if self.auto is not None and self.queue.next_deadline_ns:
            until_ns = min(until_ns, self.queue.next_deadline_ns - self.mean_execution_ns)
        if now_ns >= until_ns:
            return self.count
        self.wait_until_ns = until_ns
        return 0
