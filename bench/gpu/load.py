"""Load on a server in this process, without a network: what is measured is batching, memory and dispatch."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from triton_async.core.server import InferenceServer
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse, ResponseSink

# Requests that wait for an answer, from which a rate is more than the server can do.
_OVERLOAD = 20_000

# Halvings of the search for the highest rate.
_STEPS = 6

MakeRequest = Callable[[], InferRequest]


@dataclass(frozen=True)
class Latencies:
    """Rows per second that were answered in time, and how long requests took."""

    rows_per_s: float
    p50_us: float
    p99_us: float
    offered_per_s: float = 0.0


class _Sink(ResponseSink):
    """Counts answers and times them; asks for the next one when the load is a closed loop."""

    def __init__(self) -> None:
        self.started: dict[int, float] = {}
        self.latencies: list[float] = []
        self.answered = 0
        self.error: Exception | None = None
        self.again: Callable[[], None] | None = None

    def on_response(self, response: InferResponse) -> None:
        started = self.started.pop(id(response.request))
        self.latencies.append(time.perf_counter() - started)
        self.answered += 1
        if response.error is not None:
            self.error = response.error
        elif self.again is not None:
            self.again()

    def send(self, server: InferenceServer, request: InferRequest) -> None:
        self.started[id(request)] = time.perf_counter()
        server.submit(request, self)


async def warm_up(server: InferenceServer, requests: Iterable[InferRequest]) -> None:
    """One at a time, so that each is a batch: libraries choose kernels, and make room, for each new shape."""
    for request in requests:
        response = await server.infer(request)
        if response.error is not None:
            raise response.error


async def saturate(
    server: InferenceServer, make: MakeRequest, rows: int, outstanding: int, seconds: float
) -> Latencies:
    """`outstanding` requests of `rows` rows each at any time."""
    sink = _Sink()
    sink.again = lambda: sink.send(server, make())
    for _ in range(outstanding):
        sink.send(server, make())
    await asyncio.sleep(min(seconds / 4, 1.0))
    sink.latencies.clear()
    answered, started = sink.answered, time.perf_counter()
    await asyncio.sleep(seconds)
    answered, elapsed = sink.answered - answered, time.perf_counter() - started
    sink.again = None
    await _quiet(sink)
    return _summary(sink, answered * rows / elapsed)


async def poisson(server: InferenceServer, make: MakeRequest, rate: float, seconds: float, seed: int = 1) -> Latencies:
    """Single requests at random times, `rate` a second, whether or not earlier ones are answered."""
    arrivals = random.Random(seed)
    sink = _Sink()
    started = time.perf_counter()
    due = started
    sent = 0
    overloaded = False
    while due < started + seconds and sink.error is None and not overloaded:
        now = time.perf_counter()
        while due <= now and not overloaded:
            sink.send(server, make())
            sent += 1
            due += arrivals.expovariate(rate)
            overloaded = len(sink.started) > _OVERLOAD
        # Timers of the loop are whole milliseconds; the gaps here are not.
        await asyncio.sleep(0)
    elapsed = time.perf_counter() - started
    answered = sink.answered
    await _quiet(sink)
    summary = _summary(sink, answered / elapsed, offered=sent / elapsed)
    return replace(summary, p99_us=math.inf) if overloaded else summary


async def highest_rate(
    server: InferenceServer, make: MakeRequest, ceiling: float, bound_us: float, seconds: float
) -> Latencies:
    """The highest Poisson rate whose p99 stays within the bound, found by halving between 0 and `ceiling`."""
    low, high = 0.0, ceiling
    best = Latencies(0.0, 0.0, 0.0)
    for step in range(_STEPS):
        rate = (low + high) / 2 if step else ceiling * 0.9
        result = await poisson(server, make, rate, seconds)
        if result.p99_us <= bound_us:
            low, best = rate, max(best, result, key=lambda r: r.rows_per_s)
        else:
            high = rate
    return best


async def _quiet(sink: _Sink) -> None:
    while sink.started:  # noqa: ASYNC110 - an event per answer would be part of what is measured
        await asyncio.sleep(0.001)
    if sink.error is not None:
        raise sink.error


def _summary(sink: _Sink, rows_per_s: float, offered: float = 0.0) -> Latencies:
    ordered = sorted(sink.latencies) or [0.0]
    return Latencies(
        rows_per_s, ordered[len(ordered) // 2] * 1e6, ordered[int(len(ordered) * 0.99)] * 1e6, offered
    )
