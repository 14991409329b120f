"""The sequence batcher under random traffic: nothing is lost, doubled, out of order, or has the state of another.

Each request is tracked from `enqueue` to its end. A group is one sequence: from a START to what ends it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_stage import END, START, Stage, steps

from triton_async.core.scheduler import refusal
from triton_async.errors import Cancelled, DeadlineExceeded, InvalidArg, ServerError, Unavailable
from triton_async.infer.request import InferRequest, Origin
from triton_async.infer.tensor import from_numpy


@dataclass(eq=False)
class Group:
    """One sequence. `waiting`: its requests that have not begun, in order. `total`: the state that its last step left.
    """

    waiting: list[InferRequest] = field(default_factory=list)
    running: InferRequest | None = None
    total: float = 0.0
    broken: bool = False
    ended: bool = False
    origin: int = 0


class Traffic:
    """What the test knows of a batcher."""

    def __init__(self, **config: Any) -> None:
        self.stage = Stage(idle_us=1000, id_type="", **config)
        self.groups: dict[InferRequest, Group] = {}
        self.newest: dict[object, Group] = {}
        self.batches: list[tuple[int, list[InferRequest]]] = []
        self.origins = [Origin() for _ in range(2)]
        self.over: set[InferRequest] = set()
        self.ends: dict[str, int] = {"answered": 0, "refused": 0, "cancelled": 0}
        self.value = 0.0

    def send(self, sequence: int | str, flags: int, width: int, limits_us: tuple[int, int], origin: int) -> None:
        stage, (timeout_us, within_us) = self.stage, limits_us
        self.value += 1
        request = stage.request(
            sequence, flags, self.value, width=width, timeout_us=timeout_us,
            end_by_ns=stage.now_ns + within_us * 1000 if within_us else 0,
        )  # fmt: skip
        if origin:
            steps.set_origin(request, self.origins[origin - 1])
        known = self.newest.get(sequence)
        may_join = known is not None and not known.broken and not known.ended
        try:
            stage.batcher.enqueue(request, stage.now_ns)
        except InvalidArg as error:
            assert "START flag" in error.message
            assert not flags & START
            # An idle one may have lost its slot, which the test does not follow.
            assert not may_join or (known is not None and not known.waiting and known.running is None)
            return
        if flags & START:
            known = self.newest[sequence] = Group(origin=origin)
        assert known is not None
        assert flags & START or may_join
        known.ended = bool(flags & END)
        known.waiting.append(request)
        self.groups[request] = known

    def take(self, instance: int, idle: bool) -> None:
        batch = self.stage.take(instance % len(self.stage.instances), idle)
        self.refuse(self.stage.batcher.expire(self.stage.now_ns))
        if batch is None:
            return
        rows = steps.rows_of(batch)
        real = [request for request in rows if request is not None]
        assert real
        assert len(rows) <= max(self.stage.rows, 1)
        for request in real:
            group = self.groups[request]
            assert not group.broken
            assert group.running is None
            assert group.waiting.pop(0) is request
            group.running = request
            if request.flags & START:
                group.total = 0.0
            assert self.stage.injected(request)["SUM_IN"] == group.total
            assert self.stage.injected(request)["START"] == request.flags & START
            assert request.inputs[0].shape == real[0].inputs[0].shape
        self.batches.append((instance, real))

    def answer(self, number: int, fails: bool) -> None:
        if not self.batches:
            return
        _, requests = self.batches.pop(number % len(self.batches))
        for request in requests:
            group = self.groups[request]
            group.running = None
            outputs = []
            if not fails:
                group.total += float(request.inputs[0].numpy().reshape(-1)[0])
                shape = (1, 1) if self.stage.rows else (1,)
                outputs = [from_numpy("SUM_OUT", np.full(shape, group.total, np.float32))]
            self.stage.end(request, outputs)
            self.finish(request, "answered")

    def take_back(self, number: int) -> None:
        if not self.batches:
            return
        _, requests = self.batches.pop(number % len(self.batches))
        self.stage.batcher.requeue(requests)
        for request in requests:
            group = self.groups[request]
            group.running = None
            group.waiting.insert(0, request)
        self.refuse(self.stage.batcher.expire(self.stage.now_ns))

    def cancel(self, number: int) -> None:
        waiting = [request for group in self.groups.values() for request in group.waiting if request not in self.over]
        waiting = list(dict.fromkeys(waiting))
        if not waiting:
            return
        request = waiting[number % len(waiting)]
        group = self.groups[request]
        self.stage.batcher.remove(request)
        group.waiting.remove(request)
        group.broken = True
        self.finish(request, "cancelled")
        self.refuse(self.stage.batcher.expire(self.stage.now_ns))
        assert not group.waiting

    def leave(self, number: int) -> None:
        self.origins[number].leave()
        for group in self.newest.values():
            group.broken = group.broken or group.origin == number + 1
        self.refuse(self.stage.batcher.expire(self.stage.now_ns))

    def refuse(self, requests: list[InferRequest]) -> None:
        for request in requests:
            error: ServerError = refusal(request)
            assert isinstance(error, Cancelled | DeadlineExceeded | Unavailable)
            group = self.groups[request]
            group.waiting.remove(request)
            group.broken = True
            self.finish(request, "refused")

    def finish(self, request: InferRequest, how: str) -> None:
        assert request not in self.over
        self.over.add(request)
        self.ends[how] += 1
        steps.check(self.stage.batcher)

    def end(self) -> None:
        """All that is left runs."""
        for _ in range(10_000):
            for instance in range(len(self.stage.instances)):
                self.take(instance, True)
            if not self.batches:
                if not self.stage.batcher.pending:
                    break
                self.refuse(self.stage.wait(1000))
            while self.batches:
                self.answer(0, False)
        assert self.over == set(self.groups)
        assert self.stage.batcher.pending == 0
        self.stage.wait(10_000)
        assert self.stage.batcher.live == 0
        assert self.stage.batcher.free_slots > 0


EVENTS = st.one_of(
    st.tuples(
        st.just("send"), st.sampled_from([1, 2, 3, 4, "a", "b"]),
        st.sampled_from([0, 0, START, START, END, START | END]), st.sampled_from([1, 1, 1, 2]),
        st.tuples(st.sampled_from([0, 0, 300]), st.sampled_from([0, 0, 0, 700])), st.sampled_from([0, 0, 1, 2]),
    ),
    st.tuples(st.just("take"), st.integers(0, 2), st.booleans()),
    st.tuples(st.just("answer"), st.integers(0, 5), st.sampled_from([False, False, True])),
    st.tuples(st.just("take_back"), st.integers(0, 5)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("leave"), st.integers(0, 1)),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 50, 300, 1000])),
)  # fmt: skip
CONFIGS = st.fixed_dictionaries({
    "rows": st.integers(0, 4),
    "instances": st.integers(1, 3),
    "oldest": st.booleans(),
    "candidates": st.integers(0, 3),
    "pads": st.booleans(),
    "delay_us": st.sampled_from([0, 50]),
    "min_utilization": st.sampled_from([0.0, 0.5, 1.0]),
    "preferred_batch_sizes": st.sampled_from([(), (1,), (2,)]),
})  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(CONFIGS, st.lists(EVENTS, max_size=120))
def test_nothing_is_lost_doubled_out_of_order_or_answered_with_the_state_of_another(
    config: dict[str, Any], events: list[tuple[Any, ...]]
) -> None:
    config["preferred_batch_sizes"] = tuple(size for size in config["preferred_batch_sizes"] if size <= config["rows"])
    if not config["oldest"]:
        config["candidates"] = 0
    traffic = Traffic(**config)
    for name, *arguments in events:
        if name == "wait":
            traffic.refuse(traffic.stage.wait(*arguments))
        else:
            getattr(traffic, name)(*arguments)
    traffic.stage.batcher.wake = None
    traffic.end()
