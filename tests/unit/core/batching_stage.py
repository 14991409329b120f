"""A model on a made-up clock: a real dynamic batcher, instances whose executions take what a line says, and clients."""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from triton_async.config.model_config import DynamicBatching, QueuePolicy
from triton_async.core.auto_delay import AutoDelay
from triton_async.core.batcher import DynamicBatcher
from triton_async.core.queue import RequestQueue
from triton_async.infer.batch import Batch
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy

US = 1_000
MS = 1_000_000
TENSOR = from_numpy("A", np.zeros((1, 4), np.float32))


@dataclass
class Stage:
    """Executions take `overhead_us` + rows * `row_us`, give or take five in a hundred. `delay_us`: None to have the
    server find it. What is dropped is counted, what ends is in `took_us` and `sizes`.
    """

    overhead_us: float
    row_us: float
    max_rows: int = 16
    n_instances: int = 1
    delay_us: int | None = None
    bound_us: int = 0
    policy: QueuePolicy = field(default_factory=QueuePolicy)
    seed: int = 1
    now_ns: int = MS
    took_us: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    dropped: int = 0
    held_us: float = 0.0

    def __post_init__(self) -> None:
        self.model = ModelSignature("m", 1, [TensorSpec("A", 11, [-1])], [TensorSpec("B", 11, [-1])], self.max_rows)
        auto = AutoDelay(self.max_rows, self.bound_us, self.n_instances) if self.delay_us is None else None
        batching = DynamicBatching(max_queue_delay_us=self.bound_us if self.delay_us is None else self.delay_us)
        self.batcher = DynamicBatcher(self.model, RequestQueue(self.policy), batching, 0, auto)
        self.idle = self.n_instances
        self._random = random.Random(self.seed)
        self._noise = random.Random(self.seed + 1)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._came: dict[int, int] = {}
        self._again: Callable[[], None] | None = None
        self._held_ns = 0

    # -- clients -----------------------------------------------------------------------------------

    def clients(self, count: int, away_us: float) -> None:
        """So many that ask again `away_us`, give or take half of it, after each answer."""

        def again() -> None:
            self.at(self.now_ns + int(away_us * US * self._random.uniform(0.5, 1.5)), self.ask)

        self._again = again
        for _ in range(count):
            again()

    def leave(self) -> None:
        """No client asks again."""
        self._again = None

    def arrivals(self, per_second: float, seconds: float, burst: int = 1) -> None:
        """At random, `burst` at once."""
        at_ns = self.now_ns
        end_ns = at_ns + int(seconds * 1e9)
        while at_ns < end_ns:
            at_ns += int(self._random.expovariate(per_second / burst) * 1e9)
            for number in range(burst):
                self.at(at_ns + number * 10 * US, self.ask)

    def at(self, at_ns: int, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_ns, next(self._numbers), what))

    def ask(self, **more: int) -> InferRequest:
        request = InferRequest("m", inputs=[TENSOR], **more)
        self.model.validate(request)
        self._came[id(request)] = self.now_ns
        self.batcher.enqueue(request, self.now_ns)
        self.dispatch()
        return request

    # -- the model ---------------------------------------------------------------------------------

    def dispatch(self) -> None:
        self._expire()
        while self.idle:
            self.batcher.idle_instances = self.idle
            batch = self.batcher.take(None, True, self.now_ns)
            if batch is None:
                break
            self.idle -= 1
            took_us = (self.overhead_us + self.row_us * batch.rows) * max(0.5, self._noise.gauss(1, 0.05))
            self.at(self.now_ns + int(took_us * US), lambda batch=batch, took_us=took_us: self._end(batch, took_us))
        self._expire()
        self._note_hold()
        times = [at for at in (self.batcher.wait_until_ns if self.idle else 0, self.batcher.next_deadline_ns) if at]
        if times:
            self.at(max(min(times), self.now_ns + 1), self.dispatch)

    def _expire(self) -> None:
        for request in self.batcher.expire(self.now_ns):
            del self._came[id(request)]
            self.dropped += 1

    def _note_hold(self) -> None:
        """Adds up the time in which something waits beside an idle instance."""
        if self._held_ns:
            self.held_us += (self.now_ns - self._held_ns) / US
        self._held_ns = self.now_ns if self.idle and self.batcher.pending else 0

    def _end(self, batch: Batch, took_us: float) -> None:
        self._note_hold()
        self.idle += 1
        self.batcher.note_batch(len(batch.requests), batch.rows, int(took_us * US), self.now_ns)
        self.sizes.append(batch.rows)
        for request in batch.requests:
            self.took_us.append((self.now_ns - self._came.pop(id(request))) / US)
            if self._again is not None:
                self._again()
        self.dispatch()

    # -- time --------------------------------------------------------------------------------------

    def run(self, seconds: float | None = None) -> None:
        """Until nothing is left to happen, or for so long."""
        end_ns = None if seconds is None else self.now_ns + int(seconds * 1e9)
        while self._events and (end_ns is None or self._events[0][0] <= end_ns):
            at_ns, _, what = heapq.heappop(self._events)
            self.now_ns = max(self.now_ns, at_ns)
            what()

    def forget(self) -> None:
        """What was measured so far: from here on the server has had time to learn."""
        self.took_us, self.sizes, self.held_us = [], [], 0.0

    @property
    def mean_us(self) -> float:
        return statistics.fmean(self.took_us)

    @property
    def mean_size(self) -> float:
        return statistics.fmean(self.sizes)
