"""Requests of unequal shapes in one batch: which may share it, and that each gets its own, whatever happens."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_harness import request, run, running
from gated_backend import GatedBackend, Recorder, until
from hypothesis import given, settings
from hypothesis import strategies as st

from triton_async.config.model_config import DynamicBatching, QueuePolicy
from triton_async.core.batcher import DynamicBatcher
from triton_async.core.queue import RequestQueue
from triton_async.core.server import InferenceServer
from triton_async.errors import InvalidArg, Unavailable, Unsupported
from triton_async.infer.plan import BatchPlan
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy

FP32, INT32 = 11, 8
MODEL = """
backend: "identity" max_batch_size: 8
input {{ name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] {input} }}
output {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }}
instance_group {{ count: 2 kind: KIND_CPU }}
{rest}
"""
SCATTER = 'batch_output { target_name: "OUTPUT0" source_input: "INPUT0" }'
RAGGED = MODEL.format(input="allow_ragged_batch: true", rest="dynamic_batching { }" + SCATTER)
PADDING = """
parameters {{ key: "padding" value {{ string_value:
  '{{"inputs": {{"INPUT0": ["n"]}}, "outputs": {{"OUTPUT0": ["n"]}}, "max_elements": 24{more}}}' }} }}
"""
PADDED = MODEL.format(input="", rest="dynamic_batching { }" + PADDING.format(more=""))
BUCKETED = MODEL.format(input="", rest="dynamic_batching { }" + PADDING.format(more=', "buckets": [2, 6]'))


def signature(kind: str, *, most: int = 1 << 20, buckets: tuple[int, ...] = ()) -> ModelSignature:
    """A model with inputs A, which may differ, and B, which may not, of up to 8 rows."""
    plan = BatchPlan(2, 1, [("n", buckets)] if kind == "padded" else [], most)
    if kind == "padded":
        plan.set_padded(0, FP32, [0], bytes(4))
    else:
        plan.set_ragged(0)
    inputs = [TensorSpec("A", FP32, [-1]), TensorSpec("B", FP32, [-1], optional=True)]
    return ModelSignature("m", 1, inputs, [TensorSpec("C", FP32, [-1])], 8, plan=plan)


def made(model: ModelSignature, length: int, rows: int = 1, other: int = 0) -> InferRequest:
    inputs = [from_numpy("A", np.zeros((rows, length), np.float32))]
    if other:
        inputs.append(from_numpy("B", np.zeros((rows, other), np.float32)))
    found = InferRequest("m", inputs=inputs)
    model.validate(found)
    return found


def batcher(model: ModelSignature, **more: Any) -> DynamicBatcher:
    return DynamicBatcher(model, RequestQueue(), DynamicBatching(**more))


def sizes(batches: DynamicBatcher, now_ns: int = 0) -> list[int]:
    """Rows of all batches that may be taken now, one after the other."""
    found = []
    while (batch := batches.take(None, True, now_ns)) is not None:
        found.append(batch.rows)
    return found


@pytest.mark.parametrize("kind", ["padded", "ragged"])
def test_inputs_that_may_differ_share_a_batch_and_others_do_not(kind: str) -> None:
    model = signature(kind)
    batches = batcher(model)
    for length, other in ((3, 2), (5, 2), (1, 4), (2, 0), (7, 0)):
        batches.enqueue(made(model, length, other=other), 0)
    assert sizes(batches) == [2, 1, 2]


def test_a_padded_batch_ends_where_it_would_have_too_many_elements() -> None:
    model = signature("padded", most=12)
    batches = batcher(model)
    # 3 rows of 4 are 12; a fourth row, or a length of 5, would be more.
    for length in (4, 1, 2, 1, 5, 1, 3, 12):
        batches.enqueue(made(model, length), 0)
    assert sizes(batches) == [3, 2, 2, 1]


def test_requests_without_elements_do_not_hide_how_long_they_are() -> None:
    model = signature("padded", most=16)
    batches = batcher(model)
    batches.enqueue(made(model, 16, rows=0), 0)
    batches.enqueue(made(model, 1, rows=2), 0)
    assert sizes(batches) == [0, 2]
    with pytest.raises(InvalidArg, match="more than 16 padded elements"):
        made(model, 17, rows=0)


def test_buckets_count_as_what_they_are_padded_to() -> None:
    model = signature("padded", most=16, buckets=(4, 8))
    batches = batcher(model)
    for length in (1, 1, 1, 1, 1, 5, 1):
        batches.enqueue(made(model, length), 0)
    assert sizes(batches) == [4, 2, 1]


def test_room_is_counted_anew_when_the_queue_changes_in_front() -> None:
    model = signature("padded", most=8)
    batches = batcher(model, max_queue_delay_us=1000)
    first, second, third = made(model, 4), made(model, 1), made(model, 1)
    for one in (first, second):
        batches.enqueue(one, 0)
    assert batches.take(None, True, 0) is None
    batches.remove(first)
    batches.enqueue(third, 0)
    batches.enqueue(made(model, 2), 0)
    batches.enqueue(made(model, 2), 0)
    assert sizes(batches, 1_000_000) == [4]


def test_requests_that_were_taken_back_keep_their_room() -> None:
    model = signature("padded", most=12)
    batches = batcher(model)
    for length in (4, 1, 2, 6):
        batches.enqueue(made(model, length), 0)
    batch = batches.take(None, True, 0)
    assert batch is not None
    assert batch.rows == 3
    batches.requeue(list(batch.requests)[1:])
    assert sizes(batches) == [2, 1]


def test_without_rows_a_dynamic_batcher_has_its_rules_and_no_batches() -> None:
    model = ModelSignature("m", 1, [TensorSpec("A", FP32, [-1])], [TensorSpec("C", FP32, [-1])], 0)
    policy = QueuePolicy(max_queue_size=3)
    batches = DynamicBatcher(model, RequestQueue(policy), DynamicBatching(max_queue_delay_us=1000))

    def one() -> InferRequest:
        found = InferRequest("m", inputs=[from_numpy("A", np.zeros(4, np.float32))])
        model.validate(found)
        return found

    for _ in range(3):
        batches.enqueue(one(), 0)
    with pytest.raises(Unavailable, match="Exceeds maximum queue size"):
        batches.enqueue(one(), 0)
    batch = batches.take(None, True, 0)  # no delay: nothing could join
    assert batch is not None
    assert len(batch.requests) == 1
    assert sizes(batches) == [1, 1]


class Uneven(GatedBackend):
    """Gives back what it gets."""

    assembles = frozenset(("allow_ragged_batch", "batch_input", "batch_output", "padding"))


def write(root: Path, config: str, name: str = "m") -> None:
    (root / name / "1").mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(config)


class Traffic:
    """Sends numbered requests, each full of its number, and notes how each one ends."""

    def __init__(self, server: InferenceServer) -> None:
        self.server = server
        self.sink = Recorder(self.end)
        self.waiting: dict[int, InferRequest] = {}
        self.ends: Counter[int] = Counter()
        self.mistakes: list[str] = []
        self.sent = 0

    def send(self, rows: int, length: int) -> None:
        number, self.sent = self.sent, self.sent + 1
        made = request("m", np.full((rows, length), number))
        made.context = number
        self.server.submit(made, self.sink)
        self.waiting[number] = made

    def cancel(self, place: int) -> None:
        if self.waiting:
            number = list(self.waiting)[place % len(self.waiting)]
            self.ends[number] += 1
            self.server.cancel(self.waiting.pop(number))

    def end(self, response: InferResponse) -> None:
        number = response.request.context
        self.ends[number] += 1
        self.waiting.pop(number, None)
        if response.error is None:
            values = response.outputs[0].numpy()
            if values.shape != response.request.inputs[0].shape or not (values == number).all():
                self.mistakes.append(f"{number} was answered with {values}")
        elif "told to fail" not in response.error.message:
            self.mistakes.append(response.error.message)
        self.sink.responses.clear()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 3), st.integers(0, 6)),
        st.tuples(st.just("send"), st.integers(1, 2), st.integers(1, 6)),
        st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("fail"), st.just(0), st.just(0)),
        st.tuples(st.just("wait"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@pytest.mark.parametrize("config", [RAGGED, PADDED, BUCKETED], ids=["ragged", "padded", "bucketed"])
@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_every_request_ends_once_with_its_own(config: str, steps: list[tuple[str, int, int]]) -> None:
    backend = Uneven()

    async def test() -> None:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), config)
            async with running(Path(folder), backends=backend) as server:
                traffic = Traffic(server)
                for action, one, other in steps:
                    if action == "send":
                        traffic.send(one, other)
                    elif action == "cancel":
                        traffic.cancel(one)
                    elif action == "fail":
                        backend.fail_next = True
                    else:
                        await asyncio.sleep(0)
                await until(lambda: not traffic.waiting, "every request has ended")
                assert traffic.mistakes == []
                assert traffic.ends == dict.fromkeys(range(traffic.sent), 1)

    run(test)


@pytest.mark.parametrize("config", [RAGGED, PADDED, BUCKETED], ids=["ragged", "padded", "bucketed"])
def test_what_waits_shares_an_execution(tmp_path: Path, config: str) -> None:
    backend = Uneven()
    write(tmp_path, config)

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            traffic = Traffic(server)
            backend.run_gate.shut = True
            for length in (1, 2, 3, 3, 2, 1):
                traffic.send(1, length)
            gone = await backend.run_gate.arrival()
            gone.set()
            backend.run_gate.open()
            await until(lambda: not traffic.waiting, "every request has ended")
            assert traffic.mistakes == []
            assert len(backend.batches) < 6

    run(test)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (RAGGED.replace(SCATTER, ""), "'allow_ragged_batch' is not for backend 'identity'"),
        (MODEL.format(input="", rest=SCATTER), "'batch_output' is not for backend 'identity'"),
        (PADDED, "the parameter 'padding' is not for backend 'identity'"),
    ],
)
def test_backends_that_do_not_take_them_say_so_at_load(tmp_path: Path, config: str, words: str) -> None:
    write(tmp_path, config)

    async def test() -> None:
        backend = GatedBackend()
        async with running(tmp_path, "--model-control-mode=explicit", backends=backend) as server:
            with pytest.raises((Unsupported, InvalidArg)) as raised:
                await server.load_model("m")
            assert words in raised.value.message

    run(test)


def test_what_tells_of_batches_has_no_effect_where_requests_are_given_one_by_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class OneByOne(Uneven):
        assembles = frozenset(("allow_ragged_batch",))
        gets_requests = True

    count = 'batch_input { kind: BATCH_ELEMENT_COUNT target_name: "N" data_type: TYPE_INT32 source_input: "INPUT0" }'
    write(tmp_path, MODEL.format(input="", rest=count))

    async def test() -> None:
        backend = OneByOne()
        with caplog.at_level(logging.WARNING):
            async with running(tmp_path, backends=backend) as server:
                traffic = Traffic(server)
                traffic.send(1, 3)
                await until(lambda: not traffic.waiting, "it has ended")
                assert traffic.mistakes == []
                assert [len(inputs) for inputs in backend.batches] == [1]

    run(test)
    assert "'batch_input' and 'batch_output' of model 'm' have no effect" in caplog.text


def test_passive_instances_are_there_and_get_nothing(tmp_path: Path) -> None:
    backend = GatedBackend()
    groups = """instance_group [
        { name: "a" count: 1 kind: KIND_CPU }, { name: "p" count: 2 kind: KIND_CPU passive: true } ]"""
    write(tmp_path, MODEL.format(input="", rest="").replace("instance_group { count: 2 kind: KIND_CPU }", groups))

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            traffic = Traffic(server)
            for length in range(1, 6):
                traffic.send(1, length)
            await until(lambda: not traffic.waiting, "every request has ended")
            assert traffic.mistakes == []
            assert len(backend.batches) == 5
            assert backend.closed == []

    run(test)
    assert sorted(backend.closed) == ["a_0", "model 1", "p_0", "p_1"]
