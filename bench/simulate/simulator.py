"""Discrete events: requests arrive, a balancer gives them to replicas, instances take batches, a scaler adds replicas.

Times are seconds. All randomness comes from one generator, so equal arguments give equal results.

What is modelled
  - arrivals at given times (`poisson`, or any others)
  - a balancer that picks a replica that is ready, at random, in turn, or the less busy of two picked at random
  - replicas with one queue and `instances` that each run one batch at a time: an idle one takes what waits, at most
    `max_batch` requests, once the oldest has waited for `delay_s` or the batch is full
  - the time of an execution by the size of its batch, with a spread; time between two of them; time before the queue
    and behind the execution that holds nothing up
  - a scaler that looks now and then at what waits, as KEDA and the HorizontalPodAutoscaler do, replicas that take time
    to start, and none at all while nobody asks
What is not: requests of unequal sizes, priorities, timeouts, full queues, replicas that disturb each other on a node.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_ARRIVE, _DONE, _HELD, _READY, _SCALE = range(5)


@dataclass(frozen=True)
class Service:
    """What an execution takes. `times_s[b - 1]`: the mean for a batch of b; what is beyond goes on along the last two.
    `spread`: standard deviation ÷ mean, of a gamma distribution: 0 for none, 1 for the exponential one. `gap_s`: an
    instance's time between two executions. `outside_s`: of a request, before it is queued and behind its execution.
    """

    times_s: tuple[float, ...]
    spread: float = 0.0
    gap_s: float = 0.0
    outside_s: float = 0.0

    def mean_s(self, size: int) -> float:
        times = self.times_s
        if size <= len(times):
            return times[size - 1]
        step = times[-1] - times[-2] if len(times) > 1 else 0.0
        return times[-1] + step * (size - len(times))


@dataclass(frozen=True)
class Replica:
    """How a replica batches. `start_s`: from the wish for it until it answers."""

    service: Service
    max_batch: int = 1
    instances: int = 1
    delay_s: float = 0.0
    start_s: float = 0.0

    @property
    def capacity_per_s(self) -> float:
        """Requests a second with full batches."""
        whole_s = self.service.mean_s(self.max_batch) + self.service.gap_s
        return self.instances * self.max_batch / whole_s


@dataclass(frozen=True)
class Scaling:
    """`target`: a replica for each so many requests that wait. `busy`: and as many as are so busy, a share of their
    instances; the larger number counts. 0: by what waits alone. `every_s`: between two looks. `mean_s`: what waits is
    averaged over. `down_s`: the largest wish of so long counts. `growth`: at most so many times as many, or four more,
    in each look (HorizontalPodAutoscaler). `least` may be 0: then one starts with the first request.
    """

    target: float
    least: int = 1
    most: int = 1
    every_s: float = 15.0
    mean_s: float = 30.0
    down_s: float = 300.0
    growth: float = 2.0
    busy: float = 0.0


@dataclass
class Result:
    """`arrived_s`, `took_s`: of each answered request, by the end of its execution. `sizes`: executions by batch size.
    `replicas`: (time, replicas that are ready, replicas that are wanted) at each look of the scaler.
    """

    arrived_s: np.ndarray
    took_s: np.ndarray
    sizes: np.ndarray
    replicas: list[tuple[float, int, int]]
    busy_s: float
    unanswered: int

    def percentile_s(self, percent: float, from_s: float = 0.0) -> float:
        return float(np.percentile(self.took_s[self.arrived_s >= from_s], percent))

    @property
    def mean_size(self) -> float:
        numbers = np.arange(len(self.sizes))
        return float((numbers * self.sizes).sum() / max(self.sizes.sum(), 1))


def poisson(per_s: float, until_s: float, seed: int, from_s: float = 0.0) -> np.ndarray:
    """Arrivals at random."""
    random = np.random.default_rng(seed)
    count = random.poisson(per_s * (until_s - from_s))
    return np.sort(random.uniform(from_s, until_s, count))


@dataclass(eq=False)
class _Running:
    """A replica that is there."""

    idle: int
    queue: deque[float] = field(default_factory=deque)
    in_flight: int = 0
    leaving: bool = False
    held_until_s: float = -1.0


class Simulation:
    """One run. `balance`: random, turn or two. `scaling` None: `replicas` all the time."""

    def __init__(
        self,
        replica: Replica,
        replicas: int,
        *,
        balance: str = "two",
        scaling: Scaling | None = None,
        seed: int = 1,
    ) -> None:
        if balance not in ("random", "turn", "two"):
            raise ValueError(f"balance: random, turn or two, not {balance}")
        self._replica, self._balance, self._scaling = replica, balance, scaling
        self._random = np.random.default_rng(seed)
        self._ready = [_Running(replica.instances) for _ in range(replicas)]
        self._starting = 0
        self._unwanted = 0  # of those that start
        self._events: list[tuple[float, int, int, Any]] = []
        self._sequence = 0
        self._turn = 0
        self._held: deque[float] = deque()  # by the balancer, while no replica is ready
        self._looks: deque[tuple[float, int, int]] = deque()  # (time, what waits, instances that run)
        self._wishes: deque[tuple[float, int]] = deque()
        self._arrived: list[float] = []
        self._took: list[float] = []
        self._sizes = np.zeros(replica.max_batch + 1, np.int64)
        self._history: list[tuple[float, int, int]] = []
        self._busy_s = 0.0
        self._draws: list[float] = []

    def run(self, arrivals: np.ndarray | Sequence[float], until_s: float = math.inf) -> Result:
        """All arrivals, in order, until they are answered or the time is over. Once."""
        times = iter(np.asarray(arrivals, float).tolist())
        arrival = next(times, math.inf)
        if self._scaling is not None:
            self._push(self._scaling.every_s, _SCALE, None)
        events = self._events
        while True:
            event_s = events[0][0] if events else math.inf
            now_s = min(arrival, event_s)
            if now_s > until_s or now_s == math.inf:
                break
            if arrival <= event_s:
                self._arrive(arrival)
                arrival = next(times, math.inf)
                continue
            _, _, kind, subject = heapq.heappop(events)
            if kind == _DONE:
                self._done(now_s, *subject)
            elif kind == _HELD:
                self._take(now_s, subject)
            elif kind == _READY:
                self._become_ready(now_s)
            elif arrival < math.inf or until_s < math.inf or self._working():
                self._scale(now_s)
        left = len(self._held) + sum(one.in_flight for one in self._ready)
        return Result(
            np.asarray(self._arrived), np.asarray(self._took), self._sizes, self._history, self._busy_s, left
        )

    def _push(self, at_s: float, kind: int, subject: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (at_s, self._sequence, kind, subject))

    # -- requests --

    def _arrive(self, now_s: float) -> None:
        if not self._ready:
            self._held.append(now_s)
            if not self._starting and self._scaling is not None:
                self._start(now_s, 1)
            return
        self._give(now_s, now_s)

    def _give(self, now_s: float, arrived_s: float) -> None:
        one = self._pick()
        one.queue.append(arrived_s)
        one.in_flight += 1
        if one.idle:
            self._take(now_s, one)

    def _uniform(self) -> float:
        if not self._draws:
            self._draws = self._random.random(1 << 14).tolist()
        return self._draws.pop()

    def _pick(self) -> _Running:
        ready = self._ready
        count = len(ready)
        if count == 1:
            return ready[0]
        if self._balance == "turn":
            self._turn = (self._turn + 1) % count
            return ready[self._turn]
        first = ready[int(self._uniform() * count)]
        if self._balance == "random":
            return first
        second = ready[int(self._uniform() * count)]
        return first if first.in_flight <= second.in_flight else second

    def _take(self, now_s: float, one: _Running) -> None:
        """An idle instance takes a batch, if one may go."""
        replica = self._replica
        queue = one.queue
        while one.idle and queue:
            size = min(len(queue), replica.max_batch)
            if replica.delay_s and size < replica.max_batch:
                due_s = queue[0] + replica.delay_s
                if due_s > now_s:
                    if one.held_until_s != due_s:
                        one.held_until_s = due_s
                        self._push(due_s, _HELD, one)
                    return
            batch = [queue.popleft() for _ in range(size)]
            one.idle -= 1
            self._sizes[size] += 1
            took_s = self._time_s(size)
            self._busy_s += took_s
            self._push(now_s + took_s, _DONE, (one, batch))

    def _time_s(self, size: int) -> float:
        service = self._replica.service
        mean_s = service.mean_s(size)
        if service.spread == 0:
            return mean_s + service.gap_s
        if service.spread == 1:
            return -mean_s * math.log(1 - self._uniform()) + service.gap_s
        shape = 1 / service.spread**2
        return float(self._random.gamma(shape, mean_s / shape)) + service.gap_s

    def _done(self, now_s: float, one: _Running, batch: list[float]) -> None:
        ended_s = now_s - self._replica.service.gap_s + self._replica.service.outside_s
        self._arrived += batch
        self._took += [ended_s - arrived_s for arrived_s in batch]
        one.in_flight -= len(batch)
        one.idle += 1
        self._take(now_s, one)

    # -- replicas --

    def _waiting(self) -> int:
        return len(self._held) + sum(len(one.queue) for one in self._ready)

    def _working(self) -> bool:
        return bool(self._held) or any(one.in_flight for one in self._ready)

    def _start(self, now_s: float, count: int) -> None:
        for _ in range(count):
            self._starting += 1
            self._push(now_s + self._replica.start_s, _READY, None)

    def _become_ready(self, now_s: float) -> None:
        self._starting -= 1
        if self._unwanted:
            self._unwanted -= 1
            return
        self._ready.append(_Running(self._replica.instances))
        held, self._held = self._held, deque()
        for arrived_s in held:
            self._give(now_s, arrived_s)

    def _scale(self, now_s: float) -> None:
        scaling = self._scaling
        assert scaling is not None
        self._push(now_s + scaling.every_s, _SCALE, None)
        instances = self._replica.instances
        self._looks.append((now_s, self._waiting(), sum(instances - one.idle for one in self._ready)))
        while self._looks[0][0] < now_s - scaling.mean_s:
            self._looks.popleft()
        waiting, running = (sum(look[of] for look in self._looks) / len(self._looks) for of in (1, 2))
        there = len(self._ready) + self._starting - self._unwanted
        wish = math.ceil(waiting / scaling.target)
        if scaling.busy:
            wish = max(wish, math.ceil(running / instances / scaling.busy))
        wish = min(wish, max(math.ceil(there * scaling.growth), there + 4))
        wish = max(scaling.least, min(wish, scaling.most))
        if scaling.least == 0 and any(one.in_flight for one in self._ready):
            wish = max(wish, 1)
        self._wishes.append((now_s, wish))
        while self._wishes[0][0] < now_s - scaling.down_s:
            self._wishes.popleft()
        wish = max(one for _, one in self._wishes)
        if wish > there:
            again = min(self._unwanted, wish - there)
            self._unwanted -= again
            self._start(now_s, wish - there - again)
        elif wish < there:
            self._stop(there - wish)
        self._history.append((now_s, len(self._ready), wish))

    def _stop(self, count: int) -> None:
        """Those that start first, then the last ones: they answer what they have."""
        waived = min(count, self._starting - self._unwanted)
        self._unwanted += waived
        for _ in range(count - waived):
            self._ready.pop().leaving = True
