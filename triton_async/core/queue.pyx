"""The waiting requests of one model version: priority levels, queue policies (Triton's ModelQueuePolicy)."""

cimport cython

from collections import deque

from libc.stdint cimport uint64_t

from triton_async.infer.request cimport REQUEST_DONE, REQUEST_NEW, REQUEST_QUEUED, InferRequest

from triton_async.config.model_config import TimeoutAction
from triton_async.errors import Unavailable

TIMEOUT_DELAY = TimeoutAction.DELAY


@cython.final
cdef class RequestQueue:
    """`policies`: config QueuePolicy per priority level (one when the model has no levels)."""

    def __init__(self, policies, int default_level=0):
        self.policies = tuple(policies)
        self.lines = [deque() for _ in range(2 * len(self.policies))]
        self.level_sizes = [0] * len(self.policies)
        self.default_level = default_level

    @property
    def places(self):
        """Places in all lines, those of removed requests included."""
        return sum(map(len, self.lines))

    cpdef int push(self, InferRequest request, int64_t now_ns) except -1:
        cdef int level = 0
        cdef int64_t timeout_us
        assert request.state == REQUEST_NEW
        if self.default_level:
            # An unknown priority counts as the default (Triton's PriorityQueue).
            level = self.default_level - 1
            if 1 <= request.priority <= <uint64_t>len(self.policies):
                level = request.priority - 1
        policy = self.policies[level]
        if policy.max_queue_size and self.level_sizes[level] >= policy.max_queue_size:
            raise Unavailable(f"{request.log_prefix()}Exceeds maximum queue size")
        timeout_us = policy.default_timeout_us
        if policy.allow_timeout_override and request.timeout_us:
            # Triton ignores the request's timeout when the default is 0; a client that asks for one means it.
            if timeout_us == 0 or request.timeout_us < <uint64_t>timeout_us:
                timeout_us = min(request.timeout_us, <uint64_t>0x7FFFFFFFFFFF)
        request.priority_level = level
        request.state = REQUEST_QUEUED
        request.queue_start_ns = now_ns
        request.deadline_ns = now_ns + timeout_us * 1000 if timeout_us else 0
        (<object>self.lines[2 * level]).append(request)
        self.size += 1
        self.rows += request.rows
        self.level_sizes[level] += 1
        return self._note_deadline(request)

    cdef int _note_deadline(self, InferRequest request) except -1:
        if request.deadline_ns and (self.next_deadline_ns == 0 or request.deadline_ns < self.next_deadline_ns):
            self.next_deadline_ns = request.deadline_ns
        return 0

    cpdef list peek(self, int64_t limit):
        cdef list found = []
        cdef InferRequest request
        for line in self.lines:
            while line and (<InferRequest>line[0]).state != REQUEST_QUEUED:
                line.popleft()
                self.dead -= 1
            for request in line:
                if request.state == REQUEST_QUEUED:
                    if len(found) >= limit:
                        return found
                    found.append(request)
        return found

    cpdef list pop(self, int64_t count):
        cdef list found = []
        cdef InferRequest request
        for line in self.lines:
            while line and count > 0:
                request = <InferRequest>line.popleft()
                if request.state != REQUEST_QUEUED:
                    self.dead -= 1
                    continue
                count -= 1
                self._leave(request)
                found.append(request)
        if self.size == 0:
            self.next_deadline_ns = 0
        return found

    cdef int _leave(self, InferRequest request) except -1:
        self.size -= 1
        self.rows -= request.rows
        self.level_sizes[request.priority_level] -= 1
        return 0

    cpdef int remove(self, InferRequest request) except -1:
        assert request.state == REQUEST_QUEUED
        request.state = REQUEST_DONE
        self._leave(request)
        self.dead += 1
        if self.size == 0 or (self.dead > 64 and self.dead > self.size):
            self._sweep()
        return 0

    def _sweep(self):
        # Removed requests would otherwise keep their inputs alive behind a long line.
        for index, line in enumerate(self.lines):
            self.lines[index] = deque([r for r in line if (<InferRequest>r).state == REQUEST_QUEUED])
        self.dead = 0
        if self.size == 0:
            self.next_deadline_ns = 0

    cpdef list expire(self, int64_t now_ns):
        cdef list expired = []
        cdef InferRequest request
        if self.next_deadline_ns == 0 or now_ns < self.next_deadline_ns:
            return expired
        self.next_deadline_ns = 0
        for level, policy in enumerate(self.policies):
            expired += self._expire_line(2 * level, policy.timeout_action == TIMEOUT_DELAY, now_ns)
        for request in expired:
            self.remove(request)
        return expired

    # Those of a line that are to be refused; those to be delayed move to the next line.
    def _expire_line(self, int index, bint delay, int64_t now_ns):
        cdef list late = []
        cdef InferRequest request
        for request in self.lines[index]:
            if request.state != REQUEST_QUEUED or request.deadline_ns == 0:
                continue
            if request.deadline_ns > now_ns:
                self._note_deadline(request)
            else:
                request.deadline_ns = 0
                late.append(request)
        if not delay or not late:
            return late
        gone = set(map(id, late))
        self.lines[index] = deque([r for r in self.lines[index] if id(r) not in gone])
        (<object>self.lines[index + 1]).extend(late)
        return []
