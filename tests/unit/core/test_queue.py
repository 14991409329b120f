"""The request queue: what is counted, what is skipped, who goes first."""

from __future__ import annotations

import random

import numpy as np
import pytest

from triton_async.config.model_config import QueuePolicy, TimeoutAction
from triton_async.core.queue import RequestQueue
from triton_async.errors import Unavailable
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy

DELAY = QueuePolicy(TimeoutAction.DELAY, default_timeout_us=1)
MODEL = ModelSignature("m", 1, [TensorSpec("A", 11, [-1])], [TensorSpec("B", 11, [-1])], 8)


def request(rows: int = 1, **more: int) -> InferRequest:
    made = InferRequest("m", inputs=[from_numpy("A", np.zeros((rows, 1), np.float32))], **more)
    MODEL.validate(made)
    return made


def test_a_delayed_request_comes_after_its_own_level_and_before_less_urgent_ones() -> None:
    queue = RequestQueue([DELAY, DELAY, QueuePolicy()], default_level=3)
    late = [request(priority=1), request(priority=2), request(priority=1)]
    for item in late:
        queue.push(item, 0)
    assert queue.expire(1000) == []
    fresh = [request(priority=level) for level in (3, 2, 1)]
    for item in fresh:
        queue.push(item, 1000)
    order = [fresh[2], late[0], late[2], fresh[1], late[1], fresh[0]]
    assert queue.peek(10) == order
    assert queue.pop(10) == order


def test_a_delayed_request_is_delayed_once() -> None:
    queue = RequestQueue([DELAY])
    item = request()
    queue.push(item, 0)
    queue.expire(1000)
    assert queue.next_deadline_ns == 0
    assert queue.expire(10**12) == []
    assert (queue.size, queue.rows) == (1, 1)
    assert queue.pop(1) == [item]


def test_a_full_level_refuses_while_others_take() -> None:
    queue = RequestQueue([QueuePolicy(max_queue_size=1), QueuePolicy(max_queue_size=2)], default_level=2)
    for priority in (1, 2, 2):
        queue.push(request(priority=priority), 0)
    for priority in (0, 1, 2, 9):
        with pytest.raises(Unavailable, match="Exceeds maximum queue size"):
            queue.push(request(priority=priority), 0)
    queue.pop(1)
    queue.push(request(priority=1), 0)


def test_delayed_requests_count_against_their_level() -> None:
    queue = RequestQueue([QueuePolicy(TimeoutAction.DELAY, default_timeout_us=1, max_queue_size=2)])
    queue.push(request(), 0)
    queue.push(request(), 0)
    queue.expire(1000)
    with pytest.raises(Unavailable):
        queue.push(request(), 1000)


def test_the_longest_timeout_a_client_can_ask_for_does_not_wrap() -> None:
    queue = RequestQueue([QueuePolicy(allow_timeout_override=True)])
    queue.push(request(timeout_us=2**64 - 1), 2**60)
    assert queue.next_deadline_ns > 2**60
    assert queue.expire(2**60 + 1) == []


def test_the_earliest_deadline_is_known_after_others_went() -> None:
    queue = RequestQueue([QueuePolicy(allow_timeout_override=True)])
    for timeout_us in (50, 20, 90):
        queue.push(request(timeout_us=timeout_us), 0)
    assert queue.next_deadline_ns == 20_000
    queue.pop(2)
    assert queue.expire(20_000) == []
    assert queue.next_deadline_ns == 90_000
    queue.pop(1)
    assert queue.next_deadline_ns == 0


def test_a_cancelled_request_leaves_the_count_its_place_and_its_memory() -> None:
    queue = RequestQueue([QueuePolicy(max_queue_size=200)])
    kept = [request(rows=2) for _ in range(50)]
    for item in kept:
        queue.push(item, 0)
    for _ in range(2000):
        gone = request(rows=3)
        queue.push(gone, 0)
        queue.remove(gone)
    assert (queue.size, queue.rows) == (50, 100)
    assert queue.peek(100) == kept
    assert queue.places <= 50 + 65
    assert queue.pop(100) == kept


@pytest.mark.parametrize("seed", range(10))
def test_random_traffic_keeps_the_counts(seed: int) -> None:
    choose = random.Random(seed)
    policies = [
        QueuePolicy(choose.choice(list(TimeoutAction)), choose.choice([0, 3, 30]), True, choose.choice([0, 5, 20]))
        for _ in range(3)
    ]
    queue = RequestQueue(policies, default_level=2)
    waiting: list[InferRequest] = []
    now = 0
    for _ in range(2000):
        now += choose.randrange(3000)
        step = choose.random()
        if step < 0.5:
            item = request(choose.randint(0, 3), priority=choose.randint(0, 4), timeout_us=choose.choice([0, 2, 50]))
            try:
                queue.push(item, now)
                waiting.append(item)
            except Unavailable:
                pass
        elif step < 0.6 and waiting:
            queue.remove(waiting.pop(choose.randrange(len(waiting))))
        elif step < 0.8:
            for item in queue.expire(now):
                waiting.remove(item)
        else:
            peeked = queue.peek(choose.randint(1, 4))
            assert queue.pop(len(peeked)) == peeked
            for item in peeked:
                waiting.remove(item)
        assert queue.size == len(waiting)
        assert queue.rows == sum(item.batch_size for item in waiting)
    assert sorted(map(id, queue.pop(10**6))) == sorted(map(id, waiting))
    assert (queue.size, queue.rows, queue.next_deadline_ns) == (0, 0, 0)
