"""The waiting requests of one model version: priority levels, queue policies (Triton's ModelQueuePolicy)."""

cimport cython

from collections import deque

from libc.stdint cimport uint64_t

from triton_async.infer.request cimport REQUEST_QUEUED, InferRequest

from triton_async.config.model_config import TimeoutAction
from triton_async.errors import Unavailable

TIMEOUT_DELAY = TimeoutAction.DELAY


def set_aside(line, delayed):
    """`line` without the requests of `delayed`."""
    gone = set(map(id, delayed))
    return [request for request in line if id(request) not in gone]


@cython.final
cdef class RequestQueue:
    """`policies`: config QueuePolicy per priority level (one when the model has no levels)."""

    def __init__(self, policies, int default_level=0):
        self.policies = tuple(policies)
        self.levels = [deque() for _ in self.policies]
        self.delayed = [deque() for _ in self.policies]
        self.default_level = default_level

    cpdef int push(self, InferRequest request, int64_t now_ns) except -1:
        cdef int level = 0
        cdef int64_t timeout_us
        if self.default_level:
            # An unknown priority counts as the default (Triton's PriorityQueue).
            level = self.default_level - 1
            if 1 <= request.priority <= <uint64_t>len(self.levels):
                level = request.priority - 1
        policy = self.policies[level]
        if policy.max_queue_size and self.size and self._level_size(level) >= policy.max_queue_size:
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
        (<object>self.levels[level]).append(request)
        self.size += 1
        self.rows += request.rows
        return self._note_deadline(request)

    cdef int _note_deadline(self, InferRequest request) except -1:
        if request.deadline_ns and (self.next_deadline_ns == 0 or request.deadline_ns < self.next_deadline_ns):
            self.next_deadline_ns = request.deadline_ns
        return 0

    def _level_size(self, int level):
        if not self.dead:
            return len(self.levels[level]) + len(self.delayed[level])
        return sum(
            (<InferRequest>request).state == REQUEST_QUEUED
            for line in (self.levels[level], self.delayed[level]) for request in line
        )

    cpdef list peek(self, int64_t limit):
        cdef list found = []
        cdef InferRequest request
        for lines in (self.levels, self.delayed):
            for line in lines:
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
        for lines in (self.levels, self.delayed):
            for line in lines:
                while line and count > 0:
                    request = <InferRequest>line.popleft()
                    if request.state != REQUEST_QUEUED:
                        self.dead -= 1
                        continue
                    count -= 1
                    self.size -= 1
                    self.rows -= request.rows
                    found.append(request)
        if self.size == 0:
            self.next_deadline_ns = 0
        return found

    cpdef int forget(self, InferRequest request) except -1:
        self.size -= 1
        self.rows -= request.rows
        self.dead += 1
        if self.size == 0 or (self.dead > 64 and self.dead > self.size):
            self._sweep()
        return 0

    def _sweep(self):
        # Cancelled requests would otherwise keep their inputs alive behind a long line.
        for lines in (self.levels, self.delayed):
            for index, line in enumerate(lines):
                lines[index] = deque(r for r in line if (<InferRequest>r).state == REQUEST_QUEUED)
        self.dead = 0

    cpdef list expire(self, int64_t now_ns):
        cdef list expired = []
        cdef InferRequest request
        if self.next_deadline_ns == 0 or now_ns < self.next_deadline_ns:
            return expired
        self.next_deadline_ns = 0
        for level, line in enumerate(self.levels):
            moved = False
            for request in line:
                if request.state != REQUEST_QUEUED or request.deadline_ns == 0:
                    continue
                if request.deadline_ns > now_ns:
                    self._note_deadline(request)
                elif self.policies[level].timeout_action == TIMEOUT_DELAY:
                    request.deadline_ns = 0
                    self.delayed[level].append(request)
                    moved = True
                else:
                    expired.append(request)
            if moved:
                self.levels[level] = deque(set_aside(line, self.delayed[level]))
        return expired
