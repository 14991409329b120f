"""Queue and batcher under random traffic on a made-up clock, beside the plainest form of the same rules.

The plain form keeps lists, sorts and searches them anew at every step, and has no memory from one `take` to the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from triton_async.config.model_config import DynamicBatching, QueuePolicy, TimeoutAction
from triton_async.core.auto_delay import AutoDelay
from triton_async.core.batcher import DynamicBatcher
from triton_async.core.queue import RequestQueue
from triton_async.core.scheduler import refusal
from triton_async.defines import ORDER_HORIZON_NS
from triton_async.errors import DeadlineExceeded, Unavailable
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy

MAX_ROWS = 6
MOST = 2**64 - 1
MODEL = ModelSignature("m", 1, [TensorSpec("A", 11, [-1])], [TensorSpec("B", 11, [-1])], MAX_ROWS)
TENSORS = {
    (rows, width): from_numpy("A", np.zeros((rows, width), np.float32))
    for rows in range(MAX_ROWS + 1) for width in (1, 2)
}  # fmt: skip


@dataclass(eq=False)
class Waiting:
    """A request as the test knows it."""

    request: InferRequest
    level: int
    start_ns: int
    deadline_ns: int
    number: int
    delayed: bool = False

    @property
    def rows(self) -> int:
        return self.request.batch_size

    @property
    def due_ns(self) -> int:
        return min([at for at in (self.deadline_ns, self.request.end_by_ns) if at], default=0)

    @property
    def serve_by_ns(self) -> int:
        own_ns = self.start_ns + self.request.timeout_us * 1000 if self.request.timeout_us else 0
        found = (own_ns, self.deadline_ns, self.request.end_by_ns, self.start_ns + ORDER_HORIZON_NS)
        return min(at for at in found if at)

    def fits_with(self, other: Waiting) -> bool:
        return self.request.inputs[0].shape[1] == other.request.inputs[0].shape[1]


@dataclass
class Plain:
    """What queue and batcher are to do."""

    policies: dict[int, QueuePolicy]
    policy: QueuePolicy
    levels: int
    default_level: int
    batching: DynamicBatching | None
    waiting: list[Waiting] = field(default_factory=list)  # of each line in its order
    refused: list[Waiting] = field(default_factory=list)
    mean_ns: int = 0
    wait_until_ns: int = 0
    number: int = 0
    # Where the batcher finds the delay itself: until when it holds what waits. 0: it does not.
    held_until_ns: int = 0

    @property
    def max_rows(self) -> int:
        strict = self.batching is not None and self.batching.strict_sizes
        return max(self.batching.preferred_batch_sizes) if self.batching and strict else MAX_ROWS

    def policy_of(self, level: int) -> QueuePolicy:
        return self.policies.get(level, self.policy) if self.levels else self.policy

    def order(self) -> list[Waiting]:
        def place(one: Waiting) -> tuple[int, ...]:
            if self.batching is None or not self.batching.by_deadline or one.delayed:
                return (one.level, one.delayed)
            return (one.level, one.delayed, one.serve_by_ns, one.number)

        return sorted(self.waiting, key=place)  # stable

    def sizes(self) -> dict[int, int]:
        found = {self.default_level: 0}
        for one in self.waiting:
            found[one.level] = found.get(one.level, 0) + 1
        return found

    def push(self, request: InferRequest, now_ns: int) -> bool:
        level = request.priority if 1 <= request.priority <= self.levels else self.default_level
        policy = self.policy_of(level)
        if policy.max_queue_size and self.sizes().get(level, 0) >= policy.max_queue_size:
            return False
        timeouts = [policy.default_timeout_us] if policy.default_timeout_us else []
        if policy.allow_timeout_override and request.timeout_us:
            timeouts.append(request.timeout_us)
        self.number += 1
        deadline_ns = now_ns + min(timeouts) * 1000 if timeouts else 0
        self.waiting.append(Waiting(request, level, now_ns, deadline_ns, self.number))
        return True

    def drop_due(self, now_ns: int) -> None:
        while due := [one for one in self.waiting if one.due_ns and one.due_ns <= now_ns]:
            first = min(due, key=lambda one: (one.due_ns, one.number))
            self.waiting.remove(first)
            late = first.due_ns == first.request.end_by_ns
            if not late and self.policy_of(first.level).timeout_action is TimeoutAction.DELAY:
                first.deadline_ns, first.delayed = 0, True
                self.waiting.append(first)
            else:
                self.refused.append(first)

    def requeue(self, taken: list[Waiting]) -> None:
        self.waiting[:0] = taken

    def take(self, idle: bool, now_ns: int, may_run_ahead: bool) -> list[Waiting]:
        idled = idle and self.wait_until_ns != 0
        self.wait_until_ns = 0
        if not idle and not may_run_ahead:
            return []
        self.drop_due(now_ns)
        pending = self.pending(now_ns, idled)
        chosen = self.choose(pending, idle, now_ns)
        for one in chosen:
            self.waiting.remove(one)
        return chosen

    def pending(self, now_ns: int, idled: bool) -> list[Waiting]:
        """All that fits into one batch, and the one that does not."""
        pending: list[Waiting] = []
        for one in self.order():
            late = one.request.end_by_ns and now_ns + self.mean_ns > one.request.end_by_ns
            if late and now_ns - one.start_ns >= self.mean_ns and not idled:
                self.waiting.remove(one)
                self.refused.append(one)
                continue
            pending.append(one)
            if self.batching is None or not self.fits(pending):
                break
        return pending

    def fits(self, batch: list[Waiting]) -> bool:
        return len(batch) == 1 or (
            sum(one.rows for one in batch) <= self.max_rows
            and len(batch) <= MAX_ROWS
            and all(one.fits_with(batch[0]) for one in batch)
        )

    def choose(self, pending: list[Waiting], idle: bool, now_ns: int) -> list[Waiting]:
        """GetDynamicBatch."""
        if self.batching is None or not pending:
            return pending
        if self.batching.strict_sizes:
            return self.choose_strict(pending, idle, now_ns)
        preferred, delay_ns = self.batching.preferred_batch_sizes, self.batching.max_queue_delay_us * 1000
        if self.batching.auto_delay:
            delay_ns = 0
        largest = max(preferred, default=MAX_ROWS)
        marked, fitting = 0, 0
        for count in range(1, len(pending) + 1):
            rows = sum(one.rows for one in pending[:count])
            if count > 1 and rows > largest and not marked:
                marked = count - 1
            if not self.fits(pending[:count]):
                break
            fitting = count
            if rows in preferred:
                marked = count
        batch = pending[:fitting]
        rows = sum(one.rows for one in batch)
        full = fitting < len(pending) or rows >= MAX_ROWS or fitting >= MAX_ROWS
        until_ns = min(one.start_ns for one in batch) + delay_ns
        over = bool(delay_ns) and now_ns >= until_ns
        result = batch[:marked] if marked and not over else batch
        if not idle:
            final = full and (result == batch or not delay_ns)
            return result if final or (not delay_ns and rows >= largest) else []
        for one in batch:
            if one.request.end_by_ns:
                until_ns = min(until_ns, one.request.end_by_ns - self.mean_ns)
        if self.held_until_ns and not (marked or full or rows >= largest):
            self.wait_until_ns = self.held_until_ns
            return []
        if marked or full or not delay_ns or rows >= largest or now_ns >= until_ns:
            return result
        self.wait_until_ns = until_ns
        return []

    def choose_strict(self, pending: list[Waiting], idle: bool, now_ns: int) -> list[Waiting]:
        """The longest beginning of a preferred size; all of it where it can get none, or has waited for one."""
        assert self.batching is not None
        fitting = max(count for count in range(1, len(pending) + 1) if self.fits(pending[:count]))
        batch = pending[:fitting]
        sizes = {count: sum(one.rows for one in batch[:count]) for count in range(1, fitting + 1)}
        best = max((count for count, rows in sizes.items() if rows in self.batching.preferred_batch_sizes), default=0)
        cannot_grow = fitting < len(pending) or sizes[fitting] >= self.max_rows or fitting >= MAX_ROWS
        if cannot_grow or (best and idle):
            return batch[:best] if best else batch
        if not idle:
            return []
        ends = [one.request.end_by_ns - self.mean_ns for one in batch if one.request.end_by_ns]
        until_ns = min([min(one.start_ns for one in batch) + self.batching.max_queue_delay_us * 1000, *ends])
        if now_ns >= until_ns:
            return batch
        self.wait_until_ns = until_ns
        return []


class Traffic:
    """Does every step to both, and compares them after it."""

    def __init__(self, levels: int, policy: QueuePolicy, policies: dict[int, QueuePolicy],
                 batching: DynamicBatching | None) -> None:  # fmt: skip
        default_level = min(levels, 2)
        by_deadline = batching is not None and batching.by_deadline
        auto = AutoDelay(MAX_ROWS, batching.max_queue_delay_us, 2) if batching and batching.auto_delay else None
        self.queue = RequestQueue(policy, levels, default_level, policies, by_deadline)
        self.batcher = DynamicBatcher(MODEL, self.queue, batching, 0, auto)
        self.bound_ns = batching.max_queue_delay_us * 1000 if batching else 0
        self.held_since_ns = 0
        self.plain = Plain(policies, policy, levels, default_level, batching)
        self.now_ns = 1_000
        self.sent: list[InferRequest] = []
        self.ended: list[InferRequest] = []          # cancelled, refused, or run
        self.taken: list[list[Waiting]] = []         # batches that have not begun

    def push(self, rows: int, width: int, priority: int, timeout_us: int, end_in_us: int) -> None:
        end_by_ns = self.now_ns + end_in_us * 1000 if end_in_us else 0
        request = InferRequest(
            "m", inputs=[TENSORS[rows, width]], priority=priority, timeout_us=timeout_us, end_by_ns=end_by_ns
        )
        MODEL.validate(request)
        accepted = self.plain.push(request, self.now_ns)
        try:
            self.batcher.enqueue(request, self.now_ns)
            assert accepted
            self.sent.append(request)
        except Unavailable:
            assert not accepted

    def advance(self, us: int) -> None:
        self.now_ns += us * 1000

    def execution(self, us: int) -> None:
        self.batcher.note_execution(us * 1000)
        self.plain.mean_ns = self.batcher.mean_execution_ns

    def expire(self) -> None:
        self.plain.drop_due(self.now_ns)
        expected, self.plain.refused = self.plain.refused, []
        assert self.batcher.expire(self.now_ns) == [one.request for one in expected]
        for one in expected:
            late = one.request.end_by_ns and (not one.deadline_ns or one.request.end_by_ns <= one.deadline_ns
                                              or self.now_ns < one.deadline_ns)  # fmt: skip
            assert isinstance(refusal(one.request), DeadlineExceeded) == bool(late)
            self.ended.append(one.request)

    def take(self, idle: bool, n_idle: int = 1) -> None:
        waits = self.plain.wait_until_ns
        self.batcher.idle_instances = n_idle
        batch = self.batcher.take(None, idle, self.now_ns)
        if self.batcher.auto is not None:
            self.plain.held_until_ns = self.batcher.wait_until_ns
            self.check_hold(batch is not None)
        self.plain.wait_until_ns = waits
        expected = self.plain.take(idle, self.now_ns, self.batcher.may_run_ahead)
        assert (batch.requests if batch else []) == [one.request for one in expected]
        assert self.batcher.wait_until_ns == self.plain.wait_until_ns
        if not idle or batch is None:
            # An idle instance gets what there is, at the latest when it is said to.
            assert not idle or not self.plain.waiting or self.batcher.wait_until_ns > self.now_ns
        for one in expected:
            assert not one.due_ns or self.now_ns < one.due_ns
        if batch is not None:
            assert batch.rows == sum(one.rows for one in expected) <= MAX_ROWS
            self.taken.append(expected)

    def check_hold(self, taken: bool) -> None:
        """Nothing is held for longer than the bound, nor than an execution takes; nothing before one was seen."""
        if taken or not self.batcher.pending or self.batcher.auto is None:
            self.held_since_ns = 0
        if self.batcher.wait_until_ns:
            self.held_since_ns = self.held_since_ns or self.now_ns
            longest_ns = self.batcher.auto.overhead_ns + self.batcher.auto.row_ns * MAX_ROWS
            assert self.batcher.wait_until_ns - self.held_since_ns <= min(longest_ns, self.bound_ns or longest_ns) + 1

    def begin(self, us: int) -> None:
        if self.taken:
            batch = self.taken.pop(0)
            self.ended += [one.request for one in batch]
            self.batcher.note_batch(len(batch), sum(one.rows for one in batch), us * 1_000 + len(batch), self.now_ns)
            self.plain.mean_ns = self.batcher.mean_execution_ns

    def revoke(self) -> None:
        if self.taken:
            taken = self.taken.pop()
            self.batcher.requeue([one.request for one in taken])
            self.batcher.note_batch(len(taken), sum(one.rows for one in taken), -1, self.now_ns)
            self.plain.requeue(taken)

    def take_and_revoke(self, count: int) -> None:
        before = in_line(self.queue), self.queue.level_sizes, self.queue.next_deadline_ns
        self.batcher.requeue(self.queue.pop(count))
        assert (in_line(self.queue), self.queue.level_sizes, self.queue.next_deadline_ns) == before

    def cancel(self, index: int) -> None:
        if self.plain.waiting:
            one = self.plain.waiting.pop(index % len(self.plain.waiting))
            self.batcher.remove(one.request)
            self.ended.append(one.request)
            if not self.plain.waiting:  # nobody is held any more: whoever comes next is from then on
                self.held_since_ns = 0

    def check(self) -> None:
        waiting = self.plain.order()
        assert in_line(self.queue) == [one.request for one in waiting]
        assert self.batcher.pending == self.queue.size == len(waiting)
        assert self.queue.rows == sum(one.rows for one in waiting)
        assert self.queue.level_sizes == self.plain.sizes()
        assert self.queue.next_deadline_ns == min((one.due_ns for one in waiting if one.due_ns), default=0)
        if self.plain.refused:
            assert 0 < self.batcher.next_deadline_ns <= self.now_ns
        else:
            assert self.batcher.next_deadline_ns == self.queue.next_deadline_ns
        # Nobody is lost, nobody is there twice.
        known = [one.request for one in chain(waiting, self.plain.refused, *self.taken)]
        assert sorted(map(id, known + self.ended)) == sorted(map(id, self.sent))


def in_line(queue: RequestQueue) -> list[InferRequest]:
    found = []
    at = queue.first()
    while at is not None:
        found.append(at)
        at = queue.after(at)
    return found


POLICIES = st.builds(
    QueuePolicy, st.sampled_from(TimeoutAction), st.sampled_from([0, 3, 20]), st.booleans(), st.sampled_from([0, 1, 8])
)
PLAIN_POLICY = st.just(QueuePolicy())
BATCHINGS = st.builds(
    DynamicBatching, st.sampled_from([(), (MAX_ROWS,), (2,), (1, 4), (2, 5), (3, MAX_ROWS)]), st.sampled_from([0, 6])
)
STRICT = st.builds(
    DynamicBatching, st.sampled_from([(MAX_ROWS,), (2,), (1, 4), (2, 5), (3, MAX_ROWS)]), st.sampled_from([1, 6]),
    strict_sizes=st.just(True), by_deadline=st.booleans(),
)  # fmt: skip
AUTO = st.builds(
    DynamicBatching, st.sampled_from([(), (2,), (2, 5)]), st.sampled_from([0, 0, 3]), auto_delay=st.just(True),
    by_deadline=st.booleans(),
)  # fmt: skip
BY_DEADLINE = st.builds(
    DynamicBatching, st.sampled_from([(), (2, 5)]), st.sampled_from([0, 6]), by_deadline=st.just(True)
)
BATCHING = BATCHINGS | BATCHINGS | STRICT | AUTO | BY_DEADLINE | st.none()
LEVELS = st.sampled_from([0, 0, 1, 3, MOST])
TIMES_US = st.sampled_from([0, 0, 0, 1, 4, 9, 30])
PRIORITIES = st.sampled_from([0, 1, 2, 3, 2**40, MOST])
PUSH = st.tuples(
    st.just(Traffic.push), st.integers(0, MAX_ROWS) | st.just(1), st.sampled_from([1, 1, 1, 2]), PRIORITIES, TIMES_US,
    TIMES_US,
)  # fmt: skip
STEPS = st.lists(
    st.one_of(
        PUSH, PUSH, PUSH,
        st.tuples(st.just(Traffic.advance), st.integers(0, 8)),
        st.tuples(st.just(Traffic.take), st.booleans()),
        st.tuples(st.just(Traffic.take), st.just(True), st.integers(1, 2)),
        st.tuples(st.just(Traffic.cancel), st.integers(0, 50)),
        st.tuples(st.just(Traffic.expire)),
        st.tuples(st.just(Traffic.begin), st.sampled_from([5, 200, 500])),
        st.tuples(st.just(Traffic.revoke)),
        st.tuples(st.just(Traffic.take_and_revoke), st.integers(0, 50)),
        st.tuples(st.just(Traffic.execution), st.integers(1, 12)),
    ),
    min_size=20, max_size=120,
)  # fmt: skip


@settings(max_examples=200, deadline=None, database=None)
@given(LEVELS, PLAIN_POLICY | POLICIES, st.dictionaries(st.sampled_from([1, 2, 3, MOST]), POLICIES, max_size=2),
       BATCHING, STEPS)  # fmt: skip
def test_random_traffic(levels: int, policy: QueuePolicy, policies: dict[int, QueuePolicy],
                        batching: DynamicBatching | None, steps: list[tuple[Any, ...]]) -> None:  # fmt: skip
    policies = {level: own for level, own in policies.items() if level <= levels}
    run(Traffic(levels, policy, policies, batching), steps)


@settings(max_examples=100, deadline=None, database=None)
@given(LEVELS, PLAIN_POLICY | POLICIES, AUTO, STEPS)
# Who is held back is cancelled, and another one comes.
@example(0, QueuePolicy(), DynamicBatching((2, 5), 3, auto_delay=True), [
    (Traffic.push, 0, 2, 0, 0, 0), (Traffic.push, 3, 1, 0, 0, 0), (Traffic.push, 0, 1, 0, 0, 0), (Traffic.advance, 0),
    (Traffic.advance, 0), (Traffic.push, 0, 1, 0, 0, 0), (Traffic.push, 1, 1, 0, 0, 0), (Traffic.push, 0, 1, 0, 0, 0),
    (Traffic.push, 0, 1, 0, 0, 0), (Traffic.push, 0, 1, 0, 0, 0), (Traffic.take, False), (Traffic.take, False),
    (Traffic.push, 1, 1, 0, 0, 1), (Traffic.expire,), (Traffic.advance, 1), (Traffic.begin, 5), (Traffic.begin, 5),
    (Traffic.take, True), (Traffic.cancel, 0), (Traffic.push, 1, 1, 0, 0, 0),
])  # fmt: skip
def test_random_traffic_of_which_the_server_expects_company(
    levels: int, policy: QueuePolicy, batching: DynamicBatching, steps: list[tuple[Any, ...]]
) -> None:
    """It has seen four that come together, again and again, so that it holds batches back."""
    traffic = Traffic(levels, policy, {}, batching)
    for _ in range(6):
        for _ in range(4):
            traffic.push(1, 1, 0, 0, 0)
            traffic.advance(1)
        traffic.expire()
        while traffic.batcher.pending:
            traffic.take(True)
            traffic.advance(1)
            traffic.expire()
        traffic.advance(200)
        while traffic.taken:
            traffic.begin(200)
    run(traffic, steps)


def run(traffic: Traffic, steps: list[tuple[Any, ...]]) -> None:
    for step, *arguments in steps:
        step(traffic, *arguments)
        traffic.check()
    # An instance that stays idle, with a clock that goes on, empties the queue.
    while traffic.batcher.pending:
        traffic.advance(1)
        traffic.take(True)
        traffic.check()
