"""The waiting requests of one model version: priority levels, queue policies (Triton's ModelQueuePolicy)."""

cimport cython
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc

from triton_async.core.deadline_order cimport serve_by_ns, served_before
from triton_async.core.sorted_chunks cimport SortedChunks
from triton_async.infer.request cimport (
    REQUEST_DONE,
    REQUEST_NEW,
    REQUEST_QUEUED,
    REQUEST_RUNNING,
    InferRequest,
)

from triton_async.config.model_config import QueuePolicy, TimeoutAction
from triton_async.errors import Unavailable

TIMEOUT_DELAY = TimeoutAction.DELAY

# Entries that a heap of deadlines keeps room for.
cdef int64_t LEAST_ROOM = 64

# Levels that are kept for others: of a model with many, each request may need one of its own.
cdef Py_ssize_t MOST_SPARES = 64


cdef class Line:
    cdef int append(self, InferRequest request) noexcept:
        if self.last is None:
            self.first = request
        else:
            request.before = <void *>self.last
            self.last.behind = request
        self.last = request
        return 0

    cdef int prepend(self, InferRequest request) noexcept:
        if self.first is None:
            self.last = request
        else:
            request.behind = self.first
            self.first.before = <void *>request
        self.first = request
        return 0

    cdef int insert(self, InferRequest request, InferRequest before) noexcept:
        if before is None:
            return self.prepend(request)
        if before.behind is None:
            return self.append(request)
        request.behind = before.behind
        request.behind.before = <void *>request
        request.before = <void *>before
        before.behind = request
        return 0

    cdef int unlink(self, InferRequest request) noexcept:
        cdef InferRequest behind = request.behind
        cdef InferRequest before = None
        if request.before is not NULL:
            before = <InferRequest>request.before
        if before is None:
            self.first = behind
        else:
            before.behind = behind
        if behind is None:
            self.last = before
        else:
            behind.before = request.before
        request.before = NULL
        request.behind = None
        return 0


@cython.final
cdef class Level:
    def __init__(self, uint64_t number, policy, bint by_deadline):
        self.number = number
        self.by_deadline = SortedChunks() if by_deadline else None
        self.line = Line()
        self.delayed = Line()
        self.max_size = policy.max_queue_size
        self.timeout_us = policy.default_timeout_us
        self.may_override = policy.allow_timeout_override
        self.delays = policy.timeout_action == TIMEOUT_DELAY

    cdef Line line_of(self, InferRequest request):
        return self.delayed if request.delayed else self.line


cdef inline bint _sooner(Due one, Due other) noexcept:
    return one.at_ns < other.at_ns or (one.at_ns == other.at_ns and one.arrival < other.arrival)


@cython.final
cdef class Deadlines:
    def __dealloc__(self):
        free(self.heap)

    cdef int add(self, InferRequest request, int64_t at_ns) except -1:
        cdef Due due
        if self.size + 1 >= self.room and not self._resize(max(2 * self.room, LEAST_ROOM)):
            raise MemoryError()
        due.at_ns = at_ns
        due.arrival = request.arrival
        due.request = <void *>request
        self.size += 1
        return self._rise(self.size, due)

    cdef int discard(self, InferRequest request) noexcept:
        cdef int64_t place = request.due_place
        cdef Due last
        if place == 0:
            return 0
        request.due_place = 0
        last = self.heap[self.size]
        self.size -= 1
        if place <= self.size:
            if place > 1 and _sooner(last, self.heap[place // 2]):
                self._rise(place, last)
            else:
                self._sink(place, last)
        if self.room > LEAST_ROOM and 4 * self.size < self.room:
            self._resize(self.room // 2)
        return 0

    cdef int64_t earliest_ns(self) noexcept:
        return self.heap[1].at_ns if self.size else 0

    cdef InferRequest earliest(self):
        return <InferRequest>self.heap[1].request

    cdef int _put(self, int64_t place, Due due) noexcept:
        self.heap[place] = due
        (<InferRequest>due.request).due_place = place
        return 0

    cdef int _rise(self, int64_t place, Due due) noexcept:
        while place > 1 and _sooner(due, self.heap[place // 2]):
            self._put(place, self.heap[place // 2])
            place //= 2
        return self._put(place, due)

    cdef int _sink(self, int64_t place, Due due) noexcept:
        cdef int64_t child = 2 * place
        while child <= self.size:
            if child < self.size and _sooner(self.heap[child + 1], self.heap[child]):
                child += 1
            if not _sooner(self.heap[child], due):
                break
            self._put(place, self.heap[child])
            place = child
            child = 2 * place
        return self._put(place, due)

    cdef bint _resize(self, int64_t room) noexcept:
        cdef Due *heap = <Due *>realloc(self.heap, room * sizeof(Due))
        if heap is NULL:
            return False
        self.heap = heap
        self.room = room
        return True


@cython.final
cdef class RequestQueue:
    """`levels`: priority levels, 0 for a model without any; those in `level_policies` have their own policy, all others
    `policy`. `by_deadline`: within a level those first that are due first."""

    def __init__(self, policy=QueuePolicy(), uint64_t levels=0, uint64_t default_level=0, level_policies=None,
                 bint by_deadline=False):
        self.policy = policy
        self.by_deadline = by_deadline
        self.level_policies = dict(level_policies or {}) if levels else {}
        self.levels = levels
        assert not levels or 1 <= default_level <= levels
        self.deadlines = Deadlines()
        self.made = {}
        self.order = SortedChunks()
        self.spare = []
        self.default = self._level(default_level if levels else 0)
        # A policy that no level has does not count: the default one where each level has its own.
        used = list(self.level_policies.values())
        if <uint64_t>len(used) < levels or not levels:
            used.append(policy)
        self.has_timeouts = any([one.default_timeout_us or one.allow_timeout_override for one in used])
        bounded = any([one.max_queue_size for one in used])
        self.has_rules = self.has_timeouts or levels > 1 or bounded or by_deadline

    @property
    def level_sizes(self):
        """Queued requests of each level that exists: number -> how many."""
        return {number: (<Level>level).size for number, level in sorted(self.made.items())}

    cpdef int push(self, InferRequest request, int64_t now_ns) except -1:
        cdef Level level
        cdef uint64_t timeout_us
        assert request.state == REQUEST_NEW
        level = self._level(self._number_of(request))
        timeout_us = level.timeout_us
        if level.max_size and level.size >= level.max_size:
            raise Unavailable(f"{request.log_prefix()}Exceeds maximum queue size")
        # Triton ignores the request's timeout when the default is 0; a client that asks for one means it.
        if level.may_override and request.timeout_us and (timeout_us == 0 or request.timeout_us < timeout_us):
            timeout_us = min(request.timeout_us, <uint64_t>0x7FFFFFFFFFFF)
        self.arrivals += 1
        request.arrival = self.arrivals
        request.queue_start_ns = now_ns
        request.deadline_ns = now_ns + <int64_t>timeout_us * 1000 if timeout_us else 0
        request.delayed = False
        self._stand(level, request, False)
        if self.cursor is not None and (
                self.cursor.priority_level > level.number
                or (self.cursor.priority_level == level.number
                    and (self.cursor.delayed or (self.by_deadline and served_before(request, self.cursor))))):
            self.cursor = None
        return 0

    # An unknown priority counts as the default (Triton's PriorityQueue).
    cdef uint64_t _number_of(self, InferRequest request) noexcept:
        return request.priority if 1 <= request.priority <= self.levels else self.default.number

    cdef Level _level(self, uint64_t number):
        cdef Level level
        if self.default is not None and number == self.default.number:
            return self.default
        level = <Level>self.made.get(number)
        return level if level is not None else self._new_level(number)

    cdef Level _new_level(self, uint64_t number):
        cdef Level level
        cdef void *before
        if self.spare and (not self.level_policies or number not in self.level_policies):
            level = <Level>self.spare.pop()
            level.number = number
        else:
            level = Level(number, self.level_policies.get(number, self.policy), self.by_deadline)
        self.made[number] = level
        try:
            before = self.order.add(0, number, <void *>level)
        except MemoryError:
            del self.made[number]
            raise
        level.before = before
        if before is NULL:
            level.behind = <void *>self.most_urgent if self.most_urgent is not None else NULL
            self.most_urgent = level
        else:
            level.behind = (<Level>before).behind
            (<Level>before).behind = <void *>level
        if level.behind is not NULL:
            (<Level>level.behind).before = <void *>level
        return level

    cdef int _stand(self, Level level, InferRequest request, bint first) except -1:
        cdef void *before
        if level.by_deadline is None or request.delayed:
            self._enter(level, request)
            return level.line_of(request).prepend(request) if first else level.line.append(request)
        try:
            before = level.by_deadline.add(serve_by_ns(request), request.arrival, <void *>request)
        except MemoryError:
            self._drop_if_empty(level)
            raise
        try:
            self._enter(level, request)
        except MemoryError:
            level.by_deadline.discard(serve_by_ns(request), request.arrival)
            raise
        return level.line.insert(request, None if before is NULL else <InferRequest>before)

    # All that a request brings besides its place in the line. Raises MemoryError, and nothing has changed then.
    cdef int _enter(self, Level level, InferRequest request) except -1:
        cdef int64_t due_ns = _due_ns(request)
        if due_ns:
            try:
                self.deadlines.add(request, due_ns)
            except MemoryError:
                self._drop_if_empty(level)
                raise
            self.next_deadline_ns = self.deadlines.earliest_ns()
        request.state = REQUEST_QUEUED
        request.priority_level = level.number
        level.size += 1
        self.size += 1
        self.rows += request.rows
        return 0

    cdef int _leave(self, InferRequest request) except -1:
        cdef Level level = self._level(request.priority_level)
        level.line_of(request).unlink(request)
        if level.by_deadline is not None and not request.delayed:
            level.by_deadline.discard(serve_by_ns(request), request.arrival)
        level.size -= 1
        self.size -= 1
        self.rows -= request.rows
        self.cursor = None
        if request.due_place:
            self.deadlines.discard(request)
            self.next_deadline_ns = self.deadlines.earliest_ns()
        return self._drop_if_empty(level)

    cdef int _drop_if_empty(self, Level level) except -1:
        if level.size or level is self.default:
            return 0
        self.order.discard(0, level.number)
        if level.behind is not NULL:
            (<Level>level.behind).before = level.before
        if level.before is not NULL:
            (<Level>level.before).behind = level.behind
        else:
            self.most_urgent = <Level>level.behind
        level.before = level.behind = NULL
        del self.made[level.number]
        if len(self.spare) < MOST_SPARES and (not self.level_policies or level.number not in self.level_policies):
            self.spare.append(level)
        return 0

    cpdef InferRequest first(self):
        return self._first_from(<void *>self.most_urgent)

    cpdef InferRequest after(self, InferRequest request):
        cdef Level level
        assert request.state == REQUEST_QUEUED
        if request.behind is not None:
            return request.behind
        level = self._level(request.priority_level)
        if not request.delayed and level.delayed.first is not None:
            return level.delayed.first
        return self._first_from(level.behind)

    cdef InferRequest _first_from(self, void *level):
        cdef Level one
        while level is not NULL:
            one = <Level>level
            if one.size:
                return one.line.first if one.line.first is not None else one.delayed.first
            level = one.behind
        return None

    cpdef list pop(self, int64_t count):
        cdef list found = []
        cdef InferRequest request
        while count > 0:
            request = self.first()
            if request is None:
                break
            self._leave(request)
            request.state = REQUEST_RUNNING
            found.append(request)
            count -= 1
        return found

    cpdef int requeue(self, list requests) except -1:
        cdef InferRequest request
        for request in reversed(requests):
            assert request.state == REQUEST_RUNNING
            self._stand(self._level(request.priority_level), request, True)
            self.cursor = None
        return 0

    cpdef int remove(self, InferRequest request) except -1:
        assert request.state == REQUEST_QUEUED
        self._leave(request)
        request.state = REQUEST_DONE
        return 0

    cpdef list expire(self, int64_t now_ns):
        cdef list expired = []
        cdef InferRequest request
        while self.deadlines.size and self.deadlines.earliest_ns() <= now_ns:
            request = self.deadlines.earliest()
            request.late = request.end_by_ns != 0 and request.end_by_ns == _due_ns(request)
            if not request.late and self._level(request.priority_level).delays:
                self._delay(request)
                continue
            expired.append(request)
            self.remove(request)
        return expired

    cdef int _delay(self, InferRequest request) except -1:
        cdef Level level = self._level(request.priority_level)
        level.line.unlink(request)
        if level.by_deadline is not None:
            level.by_deadline.discard(serve_by_ns(request), request.arrival)
        self.deadlines.discard(request)
        request.deadline_ns = 0
        request.delayed = True
        level.delayed.append(request)
        self.cursor = None
        if request.end_by_ns:
            self.deadlines.add(request, request.end_by_ns)  # never for want of memory: it has just left
        self.next_deadline_ns = self.deadlines.earliest_ns()
        return 0


# When something is to be done about a request that still waits; 0: never.
cdef inline int64_t _due_ns(InferRequest request) noexcept:
    if request.deadline_ns == 0:
        return request.end_by_ns
    if request.end_by_ns == 0:
        return request.deadline_ns
    return min(request.deadline_ns, request.end_by_ns)
