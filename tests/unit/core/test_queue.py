"""The request queue: what is counted, who goes first, what leaves and comes back."""

from __future__ import annotations

import gc
from random import Random

import numpy as np
import pytest

from triton_async.config.model_config import QueuePolicy, TimeoutAction
from triton_async.core.queue import RequestQueue
from triton_async.core.scheduler import refusal
from triton_async.defines import ORDER_HORIZON_NS
from triton_async.errors import DeadlineExceeded, Unavailable
from triton_async.infer.request import InferRequest, live_requests
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy

DELAY = QueuePolicy(TimeoutAction.DELAY, default_timeout_us=1)
MOST = 2**64 - 1
MODEL = ModelSignature("m", 1, [TensorSpec("A", 11, [-1])], [TensorSpec("B", 11, [-1])], 8)


def request(rows: int = 1, **more: int) -> InferRequest:
    made = InferRequest("m", inputs=[from_numpy("A", np.zeros((rows, 1), np.float32))], **more)
    MODEL.validate(made)
    return made


def order(queue: RequestQueue) -> list[InferRequest]:
    found = []
    at = queue.first()
    while at is not None:
        found.append(at)
        at = queue.after(at)
    return found


def test_a_delayed_request_comes_after_its_own_level_and_before_less_urgent_ones() -> None:
    queue = RequestQueue(DELAY, 3, 3, {3: QueuePolicy()})
    late = [request(priority=1), request(priority=2), request(priority=1)]
    for item in late:
        queue.push(item, 0)
    assert queue.expire(1000) == []
    fresh = [request(priority=level) for level in (3, 2, 1)]
    for item in fresh:
        queue.push(item, 1000)
    expected = [fresh[2], late[0], late[2], fresh[1], late[1], fresh[0]]
    assert order(queue) == expected
    assert queue.pop(10) == expected


def test_delayed_requests_are_served_as_they_timed_out_whenever_that_is_looked_at() -> None:
    found = []
    for looks in ([60_000], [20_000, 30_000, 50_000]):
        queue = RequestQueue(QueuePolicy(TimeoutAction.DELAY, allow_timeout_override=True))
        for timeout_us in (50, 20, 0, 30, 20):
            queue.push(request(timeout_us=timeout_us), 0)
        for now_ns in looks:
            assert queue.expire(now_ns) == []
        found.append([(item.timeout_us, item.batch_size) for item in queue.pop(5)])
    assert found[0] == found[1] == [(0, 1), (20, 1), (20, 1), (30, 1), (50, 1)]


def test_a_delayed_request_is_delayed_once() -> None:
    queue = RequestQueue(DELAY)
    item = request()
    queue.push(item, 0)
    queue.expire(1000)
    assert queue.next_deadline_ns == 0
    assert queue.expire(10**12) == []
    assert (queue.size, queue.rows) == (1, 1)
    assert queue.pop(1) == [item]


def test_a_full_level_refuses_while_others_take() -> None:
    queue = RequestQueue(QueuePolicy(max_queue_size=2), 2, 2, {1: QueuePolicy(max_queue_size=1)})
    for priority in (1, 2, 2):
        queue.push(request(priority=priority), 0)
    for priority in (0, 1, 2, 9):
        with pytest.raises(Unavailable, match="Exceeds maximum queue size"):
            queue.push(request(priority=priority), 0)
    queue.pop(1)
    queue.push(request(priority=1), 0)


def test_delayed_requests_count_against_their_level() -> None:
    queue = RequestQueue(QueuePolicy(TimeoutAction.DELAY, default_timeout_us=1, max_queue_size=2))
    queue.push(request(), 0)
    queue.push(request(), 0)
    queue.expire(1000)
    with pytest.raises(Unavailable):
        queue.push(request(), 1000)


def test_the_longest_timeout_a_client_can_ask_for_does_not_wrap() -> None:
    queue = RequestQueue(QueuePolicy(allow_timeout_override=True))
    queue.push(request(timeout_us=MOST), 2**60)
    assert queue.next_deadline_ns > 2**60
    assert queue.expire(2**60 + 1) == []


def test_the_earliest_deadline_is_known_after_others_went() -> None:
    queue = RequestQueue(QueuePolicy(allow_timeout_override=True))
    for timeout_us in (50, 20, 90):
        queue.push(request(timeout_us=timeout_us), 0)
    assert queue.next_deadline_ns == 20_000
    queue.pop(2)
    assert queue.expire(20_000) == []
    assert queue.next_deadline_ns == 90_000
    queue.pop(1)
    assert queue.next_deadline_ns == 0


def test_a_cancelled_request_leaves_nothing_behind() -> None:
    queue = RequestQueue(QueuePolicy(default_timeout_us=1000))
    kept = [request(rows=2) for _ in range(50)]
    for item in kept:
        queue.push(item, 0)
    alive = live_requests()
    for _ in range(2000):
        gone = request(rows=3)
        queue.push(gone, 0)
        queue.remove(gone)
        del gone
        assert live_requests() == alive
    assert (queue.size, queue.rows) == (50, 100)
    assert order(queue) == kept
    assert queue.pop(100) == kept


def test_any_of_them_leaves_from_its_place_in_line() -> None:
    queue = RequestQueue()
    items = [request() for _ in range(5)]
    for item in items:
        queue.push(item, 0)
    for gone in (2, 0, 4):
        queue.remove(items[gone])
    assert order(queue) == [items[1], items[3]]
    queue.remove(items[1])
    queue.remove(items[3])
    assert queue.first() is None
    queue.push(last := request(), 0)
    assert order(queue) == [last]


def test_a_level_is_made_when_used_and_dropped_when_empty() -> None:
    queue = RequestQueue(QueuePolicy(), MOST, 2**32, {7: QueuePolicy(max_queue_size=1)})
    assert queue.level_sizes == {2**32: 0}
    priorities = [MOST, 0, 7, 2**32, 2**32 + 1, 2**63, MOST - 1, 1]
    sent = {priority: request(priority=priority) for priority in priorities}
    for item in sent.values():
        queue.push(item, 0)
    with pytest.raises(Unavailable):
        queue.push(request(priority=7), 0)
    assert queue.level_sizes == {1: 1, 7: 1, 2**32: 2, 2**32 + 1: 1, 2**63: 1, MOST - 1: 1, MOST: 1}
    expected = [1, 7, 0, 2**32, 2**32 + 1, 2**63, MOST - 1, MOST]
    assert [item.priority for item in order(queue)] == expected
    queue.remove(sent[2**63])
    assert [item.priority for item in queue.pop(7)] == [priority for priority in expected if priority != 2**63]
    assert queue.level_sizes == {2**32: 0}
    assert queue.first() is None


def test_without_levels_priorities_and_their_policies_do_not_count() -> None:
    queue = RequestQueue(QueuePolicy(), 0, 0, {0: QueuePolicy(max_queue_size=1), 1: QueuePolicy(max_queue_size=1)})
    sent = [request(priority=priority) for priority in (3, 0, 1, 1)]
    for item in sent:
        queue.push(item, 0)
    assert queue.pop(4) == sent
    assert not queue.has_rules


@pytest.mark.parametrize(("queue", "timeouts", "rules"), [
    (RequestQueue(), False, False),
    (RequestQueue(QueuePolicy(TimeoutAction.DELAY)), False, False),
    (RequestQueue(QueuePolicy(max_queue_size=1)), False, True),
    (RequestQueue(QueuePolicy(default_timeout_us=1)), True, True),
    (RequestQueue(QueuePolicy(allow_timeout_override=True)), True, True),
    (RequestQueue(QueuePolicy(), 1, 1), False, False),
    (RequestQueue(QueuePolicy(), 2, 1), False, True),
    (RequestQueue(QueuePolicy(), MOST, 1, {9: QueuePolicy(default_timeout_us=1)}), True, True),
    (RequestQueue(QueuePolicy(default_timeout_us=1), 1, 1, {1: QueuePolicy()}), False, False),
])  # fmt: skip
def test_what_is_configured(queue: RequestQueue, timeouts: bool, rules: bool) -> None:
    assert (queue.has_timeouts, queue.has_rules) == (timeouts, rules)


def test_a_clients_deadline_refuses_whatever_the_policy() -> None:
    for policy in (QueuePolicy(), QueuePolicy(TimeoutAction.DELAY, 10), QueuePolicy(TimeoutAction.REJECT, 50)):
        queue = RequestQueue(policy)
        item = request(end_by_ns=20_000)
        queue.push(item, 0)
        assert queue.next_deadline_ns == (10_000 if policy.default_timeout_us == 10 else 20_000)
        assert queue.expire(19_999) == []
        assert queue.next_deadline_ns == 20_000
        assert queue.expire(20_000) == [item]
        assert (queue.size, queue.next_deadline_ns) == (0, 0)
        assert isinstance(refusal(item), DeadlineExceeded)


def test_the_sooner_of_both_deadlines_is_the_reason() -> None:
    queue = RequestQueue(QueuePolicy(default_timeout_us=20))
    items = [request(end_by_ns=end_by_ns) for end_by_ns in (0, 30_000, 10_000)]
    for item in items:
        queue.push(item, 0)
    assert queue.expire(10**9) == [items[2], items[0], items[1]]
    assert [type(refusal(item)) for item in items] == [Unavailable, Unavailable, DeadlineExceeded]
    assert str(refusal(items[0])) == "Request timeout expired"


def test_what_was_taken_comes_back_to_its_place() -> None:
    queue = RequestQueue(QueuePolicy(TimeoutAction.DELAY, allow_timeout_override=True, max_queue_size=3), 5, 3)
    for priority, timeout_us in ((3, 1), (2, 0), (3, 40), (5, 0), (0, 40), (2, 30)):
        queue.push(request(priority=priority, timeout_us=timeout_us), 0)
    queue.expire(1000)
    before = order(queue)
    for count in range(1, 7):
        deadline_ns, sizes = queue.next_deadline_ns, queue.level_sizes
        queue.requeue(queue.pop(count))
        assert order(queue) == before
        assert (queue.next_deadline_ns, queue.level_sizes, queue.size, queue.rows) == (deadline_ns, sizes, 6, 6)
    # Their levels are full again, and the delayed one is not delayed again.
    taken = queue.pop(6)
    queue.push(new := request(priority=3), 2000)
    queue.requeue(taken)
    with pytest.raises(Unavailable):
        queue.push(request(priority=3), 2000)
    assert order(queue) == [*before[:4], new, *before[4:]]
    assert queue.expire(40_000) == []
    assert [item.timeout_us for item in order(queue)] == [0, 30, 0, 1, 40, 40, 0]


def test_a_long_line_is_given_up_at_once() -> None:
    queue = RequestQueue(QueuePolicy(default_timeout_us=1))
    for _ in range(200_000):
        queue.push(InferRequest("m"), 0)
    del queue  # by recursion it would need more stack than there is
    gc.collect()


@pytest.mark.parametrize("spread", [5, 40, 10**6])
@pytest.mark.parametrize("seed", range(5))
def test_thousands_by_deadline(seed: int, spread: int) -> None:
    """Those due first come first, equal ones as they came, whoever comes and goes."""
    random = Random(seed)
    queue = RequestQueue(by_deadline=True)
    waiting: list[tuple[int, int, InferRequest]] = []
    for number in range(1500):
        if waiting and random.random() < 0.3:
            queue.remove(waiting.pop(random.randrange(len(waiting)))[2])
            continue
        due_ns = 10**6 + random.randrange(spread)
        made = request(end_by_ns=due_ns)
        queue.push(made, number)
        waiting.append((due_ns, number, made))
    waiting.sort(key=lambda one: one[:2])
    order = [made for _, _, made in waiting]
    taken = queue.pop(100)
    assert taken == order[:100]
    queue.requeue(taken[50:])
    queue.requeue(taken[:50])
    assert queue.pop(queue.size) == order


def test_requests_without_a_deadline_wait_behind_near_ones_and_before_those_that_come_much_later() -> None:
    queue = RequestQueue(by_deadline=True)
    without = request()
    far = request(end_by_ns=10 * ORDER_HORIZON_NS)
    own = request(timeout_us=5_000)  # counts for the order though the policy does not take it
    near = request(end_by_ns=1_000_000)
    later = request(end_by_ns=ORDER_HORIZON_NS + 2_000)
    for made in (without, far, own, near):
        queue.push(made, 0)
    queue.push(later, ORDER_HORIZON_NS)
    assert queue.next_deadline_ns == 1_000_000
    assert queue.pop(5) == [near, own, without, far, later]


def test_order_by_deadline_is_inside_a_level() -> None:
    queue = RequestQueue(QueuePolicy(TimeoutAction.DELAY, default_timeout_us=100, allow_timeout_override=True), 2, 2,
                         by_deadline=True)  # fmt: skip
    late, soon, urgent, slow = (request(**more) for more in (
        {"priority": 2}, {"priority": 2, "timeout_us": 10}, {"priority": 1}, {"priority": 2, "timeout_us": 50}
    ))  # fmt: skip
    for made in (late, soon, slow, urgent):
        queue.push(made, 0)
    assert queue.expire(10_000) == []  # `soon` goes behind the others of its level
    assert queue.pop(4) == [urgent, slow, late, soon]
