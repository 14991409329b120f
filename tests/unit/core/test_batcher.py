"""The dynamic batcher on a clock that only the test moves."""

from __future__ import annotations

import random

import numpy as np
import pytest

from triton_async.config.model_config import DynamicBatching, QueuePolicy, TimeoutAction
from triton_async.core.batcher import DynamicBatcher
from triton_async.core.queue import RequestQueue
from triton_async.errors import Unavailable
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
    model: ModelSignature, *, policies: list[QueuePolicy] | None = None, default_level: int = 0, **settings: object
) -> DynamicBatcher:
    batching = DynamicBatching(**settings)  # type: ignore[arg-type]
    return DynamicBatcher(model, RequestQueue(policies or [QueuePolicy()], default_level), batching)


def rows_of(made: DynamicBatcher, now_ns: int, idle: bool = True) -> int:
    batch = made.take(now_ns, idle)
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
    made = DynamicBatcher(model, RequestQueue([QueuePolicy()]))
    for rows in (1, 8, 2):
        made.enqueue(request(model, rows), 0)
    assert [rows_of(made, 0) for _ in range(4)] == [1, 8, 2, 0]


def test_a_full_queue_refuses_and_leaves_the_request_alone() -> None:
    model = signature()
    made = batcher(model, policies=[QueuePolicy(max_queue_size=2)])
    made.enqueue(request(model), 0)
    made.enqueue(request(model), 0)
    with pytest.raises(Unavailable, match="Exceeds maximum queue size"):
        made.enqueue(request(model), 0)
    assert made.queue.size == 2
    rows_of(made, 0)
    made.enqueue(request(model), 0)


def test_urgent_requests_go_first_and_unknown_priorities_count_as_the_default() -> None:
    model = signature(0)
    made = DynamicBatcher(model, RequestQueue([QueuePolicy()] * 3, default_level=2))
    order = [request(model, priority=priority) for priority in (3, 0, 1, 7, 2, 1)]
    for item in order:
        made.enqueue(item, 0)
    served = [made.take(0, True).requests[0] for _ in order]  # type: ignore[union-attr]
    assert [item.priority for item in served] == [1, 1, 0, 7, 2, 3]


def test_queue_timeouts_refuse_or_delay() -> None:
    model = signature(0)
    refusing = RequestQueue([QueuePolicy(default_timeout_us=100)])
    first, second = request(model), request(model)
    refusing.push(first, 0)
    refusing.push(second, 50 * US)
    assert refusing.next_deadline_ns == 100 * US
    assert refusing.expire(100 * US - 1) == []
    assert refusing.expire(100 * US) == [first]
    assert refusing.next_deadline_ns == 150 * US

    delaying = RequestQueue([QueuePolicy(TimeoutAction.DELAY, default_timeout_us=100)])
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
    queue = RequestQueue([QueuePolicy(default_timeout_us=default, allow_timeout_override=override)])
    queue.push(request(model, timeout_us=asked), 0)
    assert queue.next_deadline_ns == deadline * US


@pytest.mark.parametrize("seed", range(20))
def test_random_traffic_keeps_the_invariants(seed: int) -> None:
    choose = random.Random(seed)
    max_rows = choose.choice([1, 4, 8])
    model = signature(max_rows)
    delay_us = choose.choice([0, 50])
    made = batcher(model, max_queue_delay_us=delay_us, preferred_batch_sizes=choose.choice([(), (2,), (4,)]))
    now, sent, served = 0, [], []
    for _ in range(400):
        now += choose.randrange(20) * US
        if choose.random() < 0.6:
            item = request(model, choose.randint(1, max_rows), choose.choice([4, 4, 5]), choose.random() < 0.2)
            made.enqueue(item, now)
            sent.append(item)
        else:
            batch = made.take(now, choose.random() < 0.8)
            if batch is not None:
                assert 0 < batch.rows <= max_rows
                assert len({(item.inputs[0].shape[1:], len(item.inputs)) for item in batch.requests}) == 1
                served += batch.requests
        assert made.queue.size == len(sent) - len(served)
        assert made.queue.rows == sum(item.batch_size for item in sent[len(served) :])
    now += delay_us * US
    while (batch := made.take(now, True)) is not None:
        served += batch.requests
    assert [id(item) for item in served] == [id(item) for item in sent]  # all of them, in order, once
