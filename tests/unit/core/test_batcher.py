"""The dynamic batcher on a clock that only the test moves."""

from __future__ import annotations

import numpy as np
import pytest

from triton_async.config.model_config import DynamicBatching, QueuePolicy, TimeoutAction
from triton_async.core.batcher import DynamicBatcher
from triton_async.core.queue import RequestQueue
from triton_async.core.scheduler import Scheduler, refusal
from triton_async.errors import DeadlineExceeded, Unavailable
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy

FP32 = 11
US = 1000


def signature(max_batch_size: int = 8) -> ModelSignature:
    inputs = [TensorSpec("A", FP32, [-1]), TensorSpec("B", FP32, [1], optional=True)]
    return ModelSignature("m", 1, inputs, [TensorSpec("C", FP32, [-1])], max_batch_size)


def request(model: ModelSignature, rows: int = 1, width: int = 4, extra: bool = False, **more: int) -> InferRequest:
    shape = (rows, width) if model.max_batch_size else (width,)
    inputs = [from_numpy("A", np.zeros(shape, np.float32))]
    if extra:
        inputs.append(from_numpy("B", np.zeros((rows, 1), np.float32)))
    made = InferRequest("m", inputs=inputs, **more)
    model.validate(made)
    return made


def batcher(
    model: ModelSignature, *, policy: QueuePolicy | None = None, levels: int = 0, **settings: object
) -> DynamicBatcher:
    batching = DynamicBatching(**settings)  # type: ignore[arg-type]
    return DynamicBatcher(model, RequestQueue(policy or QueuePolicy(), levels, levels), batching)


def rows_of(made: Scheduler, now_ns: int, idle: bool = True) -> int:
    batch = made.take(None, idle, now_ns)
    return 0 if batch is None else batch.rows


def test_without_delay_everything_that_waits_and_fits_goes_at_once() -> None:
    model = signature()
    made = batcher(model)
    for _ in range(5):
        made.enqueue(request(model), 0)
    assert rows_of(made, 0) == 5
    assert rows_of(made, 0) == 0


def test_a_batch_never_exceeds_max_batch_size_and_requests_are_not_split() -> None:
    model = signature(8)
    made = batcher(model)
    for rows in (3, 3, 3):
        made.enqueue(request(model, rows), 0)
    assert rows_of(made, 0) == 6
    assert rows_of(made, 0) == 3


def test_a_batch_waits_for_company_until_the_oldest_is_as_old_as_the_delay() -> None:
    model = signature()
    made = batcher(model, max_queue_delay_us=100)
    made.enqueue(request(model), 0)
    made.enqueue(request(model), 40 * US)
    assert rows_of(made, 50 * US) == 0
    assert made.wait_until_ns == 100 * US
    assert rows_of(made, 100 * US - 1) == 0
    assert rows_of(made, 100 * US) == 2
    assert made.wait_until_ns == 0


def test_a_full_batch_does_not_wait() -> None:
    model = signature(4)
    made = batcher(model, max_queue_delay_us=1000)
    for _ in range(4):
        made.enqueue(request(model), 0)
    assert rows_of(made, 0) == 4


def test_a_preferred_size_goes_without_waiting_and_the_rest_stays() -> None:
    model = signature(8)
    made = batcher(model, max_queue_delay_us=1000, preferred_batch_sizes=(4,))
    for _ in range(3):
        made.enqueue(request(model), 0)
    assert rows_of(made, 0) == 0
    for _ in range(3):
        made.enqueue(request(model), 0)
    assert rows_of(made, 0) == 4
    assert rows_of(made, 0) == 0
    assert rows_of(made, 1000 * US) == 2


def test_different_shapes_and_different_inputs_do_not_share_a_batch() -> None:
    model = signature()
    made = batcher(model, max_queue_delay_us=1000)
    made.enqueue(request(model, width=4), 0)
    made.enqueue(request(model, width=4), 0)
    made.enqueue(request(model, width=5), 0)
    made.enqueue(request(model, width=5, extra=True), 0)
    assert rows_of(made, 0) == 2  # the next cannot join, so there is nothing to wait for
    assert rows_of(made, 0) == 1
    assert rows_of(made, 0) == 0
    assert rows_of(made, 1000 * US) == 1


def test_running_ahead_takes_only_batches_that_cannot_grow() -> None:
    model = signature(4)
    made = batcher(model)
    for _ in range(3):
        made.enqueue(request(model), 0)
    assert rows_of(made, 0, idle=False) == 0
    made.enqueue(request(model), 0)
    assert rows_of(made, 0, idle=False) == 4


def test_without_dynamic_batching_each_request_is_its_own_execution() -> None:
    model = signature()
    made = DynamicBatcher(model, RequestQueue())
    for rows in (1, 8, 2):
        made.enqueue(request(model, rows), 0)
    assert [rows_of(made, 0) for _ in range(4)] == [1, 8, 2, 0]


def test_a_full_queue_refuses_and_leaves_the_request_alone() -> None:
    model = signature()
    made = batcher(model, policy=QueuePolicy(max_queue_size=2))
    made.enqueue(request(model), 0)
    made.enqueue(request(model), 0)
    with pytest.raises(Unavailable, match="Exceeds maximum queue size"):
        made.enqueue(request(model), 0)
    assert made.pending == 2
    rows_of(made, 0)
    made.enqueue(request(model), 0)


def test_urgent_requests_go_first_and_unknown_priorities_count_as_the_default() -> None:
    model = signature(0)
    made = DynamicBatcher(model, RequestQueue(QueuePolicy(), 3, 2))
    order = [request(model, priority=priority) for priority in (3, 0, 1, 7, 2, 1)]
    for item in order:
        made.enqueue(item, 0)
    served = [made.take(None, True, 0).requests[0] for _ in order]  # type: ignore[union-attr]
    assert [item.priority for item in served] == [1, 1, 0, 7, 2, 3]


def test_queue_timeouts_refuse_or_delay() -> None:
    model = signature(0)
    refusing = RequestQueue(QueuePolicy(default_timeout_us=100))
    first, second = request(model), request(model)
    refusing.push(first, 0)
    refusing.push(second, 50 * US)
    assert refusing.next_deadline_ns == 100 * US
    assert refusing.expire(100 * US - 1) == []
    assert refusing.expire(100 * US) == [first]
    assert refusing.next_deadline_ns == 150 * US

    delaying = RequestQueue(QueuePolicy(TimeoutAction.DELAY, default_timeout_us=100))
    late, fresh = request(model), request(model)
    delaying.push(late, 0)
    delaying.push(fresh, 90 * US)
    assert delaying.expire(120 * US) == []
    assert delaying.pop(2) == [fresh, late]


@pytest.mark.parametrize(("default", "override", "asked", "deadline"), [
    (100, True, 50, 50), (100, True, 200, 100), (100, False, 50, 100), (0, True, 50, 50), (0, False, 50, 0),
])  # fmt: skip
def test_a_requests_own_timeout(default: int, override: bool, asked: int, deadline: int) -> None:
    model = signature(0)
    queue = RequestQueue(QueuePolicy(default_timeout_us=default, allow_timeout_override=override))
    queue.push(request(model, timeout_us=asked), 0)
    assert queue.next_deadline_ns == deadline * US


S = 10**9

# Rows, each with the seconds after which they come; rows of the batches that an idle instance is given, each with the
# time at which it is. Maximum batch size 8, preferred sizes 2 and 6 unless said otherwise, a delay of 5 s.
CASES = {
    "the next would pass the largest: those before it go": ([(3, 0), (4, 1)], [(3, 1), (4, 6)]),
    "though both are just one batch": ([(3, 0), (5, 1)], [(3, 1), (5, 6)]),
    "and however small": ([(1, 0), (7, 1)], [(1, 1), (7, 1)]),
    "one alone beyond the largest goes at once": ([(7, 0), (1, 1)], [(7, 0), (1, 6)]),
    "a preferred size goes at once": ([(1, 0), (1, 1), (1, 2)], [(2, 1), (1, 7)]),
    "the larger one of those that are reached": ([(2, 0), (4, 0)], [(6, 0)]),
    "the last one reached, not what is beyond": ([(2, 0), (3, 0)], [(2, 0), (3, 5)]),
    "passed over between two of them: waits": ([(1, 0), (2, 1)], [(3, 5)]),
    "up to the largest by several": ([(1, 0), (3, 1), (2, 2)], [(6, 2)]),
    "marked on the way to a full batch": ([(5, 0), (3, 0)], [(5, 0), (3, 5)]),
    "nothing fits behind a full one": ([(8, 0), (8, 0)], [(8, 0), (8, 0)]),
    "the oldest waits no longer than the delay": ([(1, 0), (3, 3)], [(4, 5)]),
}


@pytest.mark.parametrize(("sent", "expected"), CASES.values(), ids=CASES.keys())
def test_preferred_sizes(sent: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    model = signature(8)
    made = batcher(model, max_queue_delay_us=5 * 10**6, preferred_batch_sizes=(2, 6))
    coming, found = list(sent), []
    for now in range(20):
        while coming and coming[0][1] == now:
            made.enqueue(request(model, coming.pop(0)[0]), now * S)
        while rows := rows_of(made, now * S):
            found.append((rows, now))
    assert found == expected


# What waits, the age of the oldest in units of the delay, the preferred sizes, the batch; maximum batch size 8.
@pytest.mark.parametrize(("waiting", "age", "preferred", "rows", "ahead"), [
    ([3, 4], 0, (2, 6), 3, 0),          # all of it once the delay is over
    ([3, 4], 1, (2, 6), 7, 0),          # one more row would fit
    ([3, 5], 1, (2, 6), 8, 8),
    ([3, 4, 2], 1, (2, 6), 7, 7),
    ([2, 3], 1, (2, 6), 5, 0),
    ([1] * 9, 0, (2, 6), 6, 0),
    ([1] * 9, 1, (2, 6), 8, 8),
    ([1] * 9, 0, (8,), 8, 8),
    ([1] * 9, 0, (), 8, 8),
    ([1] * 5, 0, (8,), 0, 0),
    ([1] * 5, 1, (8,), 5, 0),
    ([3, 6], 0, (), 3, 3),
    ([3, 6], 0, (2, 6), 3, 3),
    ([3, 6], 0, (3, 6), 3, 3),
])  # fmt: skip
def test_sizes_with_a_delay(waiting: list[int], age: int, preferred: tuple[int, ...], rows: int, ahead: int) -> None:
    model = signature(8)
    for idle in (True, False):
        made = batcher(model, max_queue_delay_us=1000, preferred_batch_sizes=preferred)
        for each in waiting:
            made.enqueue(request(model, each), 0)
        assert rows_of(made, age * 1000 * US, idle) == (rows if idle else ahead)


@pytest.mark.parametrize(("waiting", "preferred", "rows", "ahead"), [
    ([3, 4], (2, 6), 3, 3),
    ([2, 3], (2, 6), 2, 0),             # a row more would make six
    ([2, 5], (2, 6), 2, 2),
    ([1, 2], (2, 6), 3, 0),             # no preferred size reached: all of it
    ([7], (2, 6), 7, 7),
    ([1] * 7, (2, 6), 6, 6),
    ([1] * 7, (), 7, 0),
    ([1] * 8, (), 8, 8),
    ([3, 6], (8,), 3, 3),
])  # fmt: skip
def test_sizes_without_a_delay(waiting: list[int], preferred: tuple[int, ...], rows: int, ahead: int) -> None:
    model = signature(8)
    for idle in (True, False):
        made = batcher(model, preferred_batch_sizes=preferred)
        for each in waiting:
            made.enqueue(request(model, each), 0)
        assert rows_of(made, 0, idle) == (rows if idle else ahead)


def test_another_shape_behind_sends_what_is_before_it() -> None:
    model = signature(8)
    made = batcher(model, max_queue_delay_us=1000, preferred_batch_sizes=(4,))
    for width in (4, 4, 4, 5):
        made.enqueue(request(model, width=width), 0)
    assert rows_of(made, 0) == 3
    for width in (5, 5, 5, 5, 4):
        made.enqueue(request(model, width=width), 0)
    assert [rows_of(made, 0), rows_of(made, 0), rows_of(made, 0)] == [4, 1, 0]


def test_a_mark_does_not_outlive_the_request_that_set_it() -> None:
    model = signature(8)
    made = batcher(model, levels=2, max_queue_delay_us=1000, preferred_batch_sizes=(6,))
    made.enqueue(request(model, 3, priority=1), 0)
    assert rows_of(made, 0) == 0
    made.enqueue(gone := request(model, 4), 0)
    made.remove(gone)
    assert rows_of(made, 0) == 0
    made.enqueue(request(model, 7), 0)
    made.enqueue(request(model, 3, priority=1), 0)  # gets between the two
    assert rows_of(made, 0) == 6


@pytest.mark.parametrize(("policy", "levels"), [
    (QueuePolicy(default_timeout_us=1000), 0), (QueuePolicy(allow_timeout_override=True), 0),
    (QueuePolicy(max_queue_size=100), 0), (QueuePolicy(), 2), (QueuePolicy(), 0),
])  # fmt: skip
def test_nothing_runs_ahead_where_the_queue_has_rules(policy: QueuePolicy, levels: int) -> None:
    model = signature(2)
    made = batcher(model, policy=policy, levels=levels)
    assert made.may_run_ahead == (policy == QueuePolicy() and levels == 0)
    for _ in range(2):
        made.enqueue(request(model), 0)
    assert rows_of(made, 0, idle=False) == (2 if made.may_run_ahead else 0)


def test_a_revoked_batch_is_first_again() -> None:
    model = signature(2)
    made = batcher(model)
    sent = [request(model) for _ in range(6)]
    for item in sent[:4]:
        made.enqueue(item, 0)
    batches = [made.take(None, False, 0) for _ in range(2)]
    for item in sent[4:]:
        made.enqueue(item, 0)
    made.requeue(batches[1].requests)  # type: ignore[union-attr]
    made.requeue(batches[0].requests[1:])  # type: ignore[union-attr]  # the first was cancelled
    assert made.pending == 5
    served = [made.take(None, True, 0).requests for _ in range(3)]  # type: ignore[union-attr]
    assert served == [sent[1:3], sent[3:5], sent[5:]]


def test_what_has_timed_out_is_never_taken() -> None:
    model = signature(0)
    made = DynamicBatcher(model, RequestQueue(QueuePolicy(default_timeout_us=10)))
    items = [request(model) for _ in range(3)]
    for number, item in enumerate(items):
        made.enqueue(item, number * US)
    assert made.next_deadline_ns == 10 * US
    assert made.take(None, True, 11 * US).requests == [items[2]]  # type: ignore[union-attr]
    assert made.pending == 0
    assert 0 < made.next_deadline_ns <= 11 * US
    assert made.expire(11 * US) == items[:2]
    assert made.next_deadline_ns == 0
    assert made.expire(11 * US) == []


def test_what_take_merely_delays_leaves_nothing_due() -> None:
    model = signature(0)
    policy = QueuePolicy(TimeoutAction.DELAY, default_timeout_us=10)
    made = DynamicBatcher(model, RequestQueue(policy))
    for _ in range(2):
        made.enqueue(request(model), 0)
    assert rows_of(made, 10 * US) == 1
    assert (made.pending, made.next_deadline_ns) == (1, 0)


def test_what_cannot_end_in_time_is_refused_before_it_runs() -> None:
    model = signature(1)
    made = batcher(model)
    made.note_execution(100 * US)
    late, good, young = request(model, end_by_ns=250 * US), request(model), request(model, end_by_ns=251 * US)
    made.enqueue(late, 0)
    made.enqueue(good, 0)
    made.enqueue(young, 60 * US)
    # All could still end in time.
    assert made.expire(150 * US) == []
    assert made.next_deadline_ns == 250 * US
    # Now the first one cannot; the last one neither, but it has not waited for an execution.
    assert made.take(None, True, 155 * US).requests == [good]  # type: ignore[union-attr]
    assert made.expire(155 * US) == [late]
    assert isinstance(refusal(late), DeadlineExceeded)
    assert made.take(None, True, 155 * US).requests == [young]  # type: ignore[union-attr]
    assert (made.pending, made.next_deadline_ns) == (0, 0)


def test_a_slow_execution_starves_nobody() -> None:
    model = signature(4)
    for made in (batcher(model), batcher(model, max_queue_delay_us=5000), DynamicBatcher(model, RequestQueue())):
        made.note_execution(10 * S)
        now = S
        for _ in range(10):  # each comes to an idle instance
            now += S
            made.enqueue(request(model, end_by_ns=now + 10**6 * US), now)
            assert rows_of(made, now) == 1
            made.note_execution(US)
        assert made.mean_execution_ns < 3 * S


def test_a_batch_does_not_wait_for_company_beyond_a_clients_deadline() -> None:
    model = signature(4)
    made = batcher(model, max_queue_delay_us=10**6)
    made.note_execution(100 * US)
    made.enqueue(request(model), 0)
    assert rows_of(made, 0) == 0
    assert made.wait_until_ns == 10**6 * US
    made.enqueue(request(model, end_by_ns=500 * US), 0)
    assert rows_of(made, 0) == 0
    assert made.wait_until_ns == 400 * US
    # The timer comes late: it has been waiting beside an idle instance, and begins.
    assert rows_of(made, 410 * US) == 2
    assert made.expire(410 * US) == []


def test_how_long_executions_take() -> None:
    made = batcher(signature())
    assert made.mean_execution_ns == 0
    for execution_ns, mean_ns in ((800, 800), (1600, 900), (100, 800), (100, 713)):
        made.note_execution(execution_ns)
        assert made.mean_execution_ns == mean_ns


# As CASES; preferred sizes 2 and 6 alone.
STRICT_CASES = {
    "a preferred size goes at once": ([(1, 0), (1, 1), (1, 2)], [(2, 1), (1, 7)]),
    "the larger one of those that are reached": ([(2, 0), (4, 0)], [(6, 0)]),
    "another size waits, though the next one comes": ([(3, 0), (1, 1), (2, 2)], [(6, 2)]),
    "no longer than the delay": ([(1, 0)], [(1, 5)]),
    "nothing beyond the largest": ([(1, 0)] * 8, [(6, 0), (2, 0)]),
    "but what is larger by itself": ([(8, 0), (1, 1)], [(8, 0), (1, 6)]),
    "what can become none goes": ([(3, 0), (4, 1)], [(3, 1), (4, 6)]),
    "the largest beginning that has one": ([(2, 0), (1, 0), (4, 0)], [(2, 0), (5, 5)]),
}


@pytest.mark.parametrize(("sent", "expected"), STRICT_CASES.values(), ids=STRICT_CASES.keys())
def test_preferred_sizes_that_are_waited_for(sent: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    model = signature(8)
    made = batcher(model, max_queue_delay_us=5 * 10**6, preferred_batch_sizes=(2, 6), strict_sizes=True)
    coming, found = list(sent), []
    for now in range(20):
        while coming and coming[0][1] == now:
            made.enqueue(request(model, coming.pop(0)[0]), now * S)
        while rows := rows_of(made, now * S):
            found.append((rows, now))
    assert found == expected


@pytest.mark.parametrize(("waiting", "ahead"), [
    ([1] * 6, 6), ([1] * 5, 0), ([1] * 2, 0), ([3, 4], 3), ([2, 3, 4], 2), ([8], 8),
])  # fmt: skip
def test_what_is_taken_ahead_of_a_preferred_size_cannot_grow(waiting: list[int], ahead: int) -> None:
    model = signature(8)
    made = batcher(model, max_queue_delay_us=5 * 10**6, preferred_batch_sizes=(2, 6), strict_sizes=True)
    for each in waiting:
        made.enqueue(request(model, each), 0)
    assert rows_of(made, 10 * S, idle=False) == ahead


def test_what_is_late_for_its_client_is_dropped_in_the_order_of_deadlines_too() -> None:
    model = signature(1)
    made = DynamicBatcher(model, RequestQueue(by_deadline=True), DynamicBatching(by_deadline=True))
    made.note_execution(100 * US)
    assert not made.may_run_ahead
    later, soon, now = (request(model, end_by_ns=at * US) for at in (900, 500, 250))
    for one in (later, soon, now):
        made.enqueue(one, 0)
    assert made.take(None, True, 200 * US).requests == [soon]  # type: ignore[union-attr]
    assert made.expire(200 * US) == [now]
    assert made.take(None, True, 200 * US).requests == [later]  # type: ignore[union-attr]


@pytest.mark.parametrize("batching", [DynamicBatching(), DynamicBatching(max_queue_delay_us=1000)])
def test_a_held_scheduler_takes_nothing_before_so_many_wait_once(batching: DynamicBatching) -> None:
    model = signature(8)
    made = DynamicBatcher(model, RequestQueue(), batching, 3)
    for _ in range(2):
        made.enqueue(request(model), 0)
    assert rows_of(made, S) == rows_of(made, S, idle=False) == 0
    assert made.wait_until_ns == 0
    made.enqueue(request(model), S)
    assert rows_of(made, S) == 3
    made.enqueue(request(model), S)
    assert rows_of(made, 2 * S) == 1
