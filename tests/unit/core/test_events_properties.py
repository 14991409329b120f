"""Whatever happens in whatever order, every request gets its own answer once, and is released once."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from puppet_stage import Sink, Stage, echo, puppet

from triton_async.config.model_config import DynamicBatching, QueuePolicy
from triton_async.errors import ServerError
from triton_async.infer.request import InferRequest

BATCHINGS = [
    None,
    DynamicBatching(max_queue_delay_us=50),
    DynamicBatching(preferred_batch_sizes=(2, 3), max_queue_delay_us=100),
    DynamicBatching(preserve_ordering=True),
    DynamicBatching(default_policy=QueuePolicy(default_timeout_us=200, allow_timeout_override=True)),
    DynamicBatching(priority_levels=3, default_priority_level=2, default_policy=QueuePolicy(max_queue_size=3)),
]
STEPS = st.lists(
    st.tuples(st.sampled_from(["submit", "submit", "submit", "begin", "begin", "end", "end", "fail", "cancel", "wait",
                               "respond", "respond", "final", "release", "drop"]),
              st.integers(0, 1 << 16)),
    min_size=1, max_size=60,
)  # fmt: skip


class Play:
    """One run: a stage, and what has to be true of it."""

    def __init__(self, batching: DynamicBatching | None, by_request: bool, decoupled: bool, instances: int) -> None:
        self.by_request = by_request
        self.decoupled = decoupled
        self.stage = Stage(batching=batching, by_request=by_request, decoupled=decoupled, instances=instances,
                           max_batch_size=4 if batching else 2)  # fmt: skip
        self.sent: list[tuple[InferRequest, Sink, list[float]]] = []
        self.cancelled: set[int] = set()
        self.seen_at_cancel: dict[int, int] = {}
        self.running: list[tuple[object, object]] = []
        self.factories: list[object] = []

    def submit(self, number: int) -> None:
        rows = number % 2 + 1
        values = [float(len(self.sent) * 4 + row) for row in range(rows)]
        request = self.stage.request(*values, priority=number % 5, timeout_us=number % 3 * 100)
        try:
            sink = self.stage.submit(request)
        except ServerError:
            return
        self.sent.append((request, sink, values))

    def begin(self, number: int) -> None:
        ready = [one for one in self.stage.puppets if one.waiting and len(one.out) - len(one.waiting) == 0]
        if ready:
            one = ready[number % len(ready)]
            batch = one.begin()
            if batch is not None:
                self.running.append((one, batch))
                if self.by_request:
                    self.factories += one.factories(batch)

    def end(self, number: int, error: str | None = None) -> None:
        if self.running:
            one, batch = self.running.pop(number % len(self.running))
            one.end(batch, error)

    def fail(self, number: int) -> None:
        self.end(number, "failed")

    def cancel(self, number: int) -> None:
        if self.sent:
            index = number % len(self.sent)
            request, sink, _ = self.sent[index]
            if index not in self.cancelled:
                self.cancelled.add(index)
                self.seen_at_cancel[index] = len(sink.responses)
                self.stage.cancel(request)

    def wait(self, number: int) -> None:
        self.stage.wait(number % 150 * 1000)

    def respond(self, number: int, final: bool = False) -> None:
        if self.factories and (final or self.decoupled):
            factory = self.factories[number % len(self.factories)]
            if not factory.finished and not factory.released:
                echo(factory, final=final)

    def final(self, number: int) -> None:
        self.respond(number, final=True)

    def release(self, number: int) -> None:
        if self.factories:
            factory = self.factories[number % len(self.factories)]
            if factory.finished or self.decoupled:
                factory.release()

    def drop(self, number: int) -> None:
        if self.factories:
            self.factories.pop(number % len(self.factories))

    def check(self, *, over: bool = False) -> None:
        for index, (_, sink, values) in enumerate(self.sent):
            finals = [response for response in sink.responses if response.final]
            assert len(finals) <= 1
            assert not finals or sink.responses[-1] is finals[0]
            assert sink.releases <= 1
            for response in sink.responses:
                if response.error is None:
                    got = [list(output.numpy().reshape(-1)) for output in response.outputs]
                    assert got == [values], "another one's rows"
            if index in self.seen_at_cancel:
                assert len(sink.responses) == self.seen_at_cancel[index], "answered behind its cancellation"
            if over:
                assert sink.releases == 1
                assert finals or index in self.cancelled

    def finish(self) -> None:
        """Lets everything end; the model is unloaded meanwhile."""
        drained = self.stage.loop.create_task(self.stage.model.drain())
        self.factories.clear()
        for _ in range(4 * len(self.sent) + 8):
            self.stage.wait(1_000_000)
            self.begin(0)
            self.end(0)
            self.factories.clear()
        self.stage.turn()
        assert drained.done()
        assert self.stage.model.in_flight == self.stage.model.pending == 0
        self.check(over=True)
        for _, sink, _ in self.sent:
            sink.responses.clear()
        self.stage.close()


@pytest.mark.parametrize(("by_request", "decoupled"), [(False, False), (True, False), (True, True)])
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(batching=st.sampled_from(BATCHINGS), instances=st.integers(1, 2), steps=STEPS)
def test_no_request_is_lost_doubled_or_answered_with_anothers_rows(
    by_request: bool, decoupled: bool, batching: DynamicBatching | None, instances: int,
    steps: list[tuple[str, int]],
) -> None:  # fmt: skip
    play = Play(batching, by_request, decoupled, instances)
    for step, number in steps:
        getattr(play, step)(number)
        if random.Random(number).random() < 0.5:
            play.stage.turn()
        play.check()
    play.finish()
    assert puppet is not None
