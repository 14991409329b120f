"""Microseconds of the loop per request in queue and batcher, under overload and with a long queue.

Run from the repository root with the package built in place: `python bench/micro/request_queue.py`. The clock is made
up: requests come one microsecond apart, every 24 microseconds a batch of eight is taken, so a third of them is served.
CPU of the process, with the calls from Python (about 0.1 µs for each of two or three a request), without making the
requests; the least of some rounds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from triton_async.config.model_config import DynamicBatching, QueuePolicy, TimeoutAction  # noqa: E402
from triton_async.core.auto_delay import AutoDelay  # noqa: E402
from triton_async.core.batcher import DynamicBatcher  # noqa: E402
from triton_async.core.queue import RequestQueue  # noqa: E402
from triton_async.infer.request import InferRequest  # noqa: E402
from triton_async.infer.signature import ModelSignature, TensorSpec  # noqa: E402
from triton_async.infer.tensor import from_numpy  # noqa: E402

FP32 = 11
ROUNDS = 5
WAITING = (100, 1_000, 10_000)
MODELS = (1, 100, 1_000)
MEASURED = 30_000
TENSOR = from_numpy("A", np.zeros((1, 4), np.float32))
MOST_LEVELS = 2**64 - 1

Make = Callable[[int, int], InferRequest]  # number of the request, when it comes


def model(max_batch_size: int = 8) -> ModelSignature:
    return ModelSignature("m", 1, [TensorSpec("A", FP32, [-1])], [TensorSpec("B", FP32, [-1])], max_batch_size)


def request(**more: int) -> InferRequest:
    made = InferRequest("m", inputs=[TENSOR], **more)
    model().validate(made)
    return made


def overload(
    queue: RequestQueue, waiting: int, make: Make, cancels: bool = False, auto: AutoDelay | None = None
) -> float:
    """Of traffic that meets `waiting` requests. With `cancels` two of three leave when they have got half way."""
    batcher = DynamicBatcher(model(), queue, DynamicBatching(), 0, auto)
    batcher.note_execution(8_000)
    requests = [make(number, 1_000 * (number + 1)) for number in range(waiting + MEASURED)]
    start, now_ns = 0.0, 0
    for number, one in enumerate(requests):
        if number == waiting:
            start = time.process_time()
        now_ns += 1_000
        if 0 < batcher.next_deadline_ns <= now_ns:
            batcher.expire(now_ns)
        batcher.enqueue(one, now_ns)
        if number >= waiting:
            if number % 24 == 0:
                batcher.take(None, True, now_ns)
                batcher.note_batch(8, 8, 8_000, now_ns)
            elif cancels and number % 3:
                batcher.remove(requests[number - waiting // 2])
    return (time.process_time() - start) / MEASURED * 1e6


def steady(many: int) -> float:
    """Batches of eight for that many models in turn, all of which find their delay themselves."""
    batchers = [DynamicBatcher(model(), RequestQueue(), DynamicBatching(), 0, AutoDelay(8, 0, 1)) for _ in range(many)]
    requests = [request() for _ in range(MEASURED)]
    start = time.process_time()
    for at in range(0, MEASURED, 8):
        batcher = batchers[at // 8 * 7919 % many]
        for number in range(at, at + 8):
            batcher.enqueue(requests[number], number * 1_000)
        batcher.take(None, True, (at + 8) * 1_000)
        batcher.note_batch(8, 8, 4_000, (at + 8) * 1_000)
    return (time.process_time() - start) / MEASURED * 1e6


def held_back(waiting: int) -> float:
    """Every request asks for a batch that waits for more."""
    batcher = DynamicBatcher(model(2 * waiting), RequestQueue(), DynamicBatching(max_queue_delay_us=10**9))
    requests = [request() for _ in range(waiting)]
    start = time.process_time()
    for number, one in enumerate(requests):
        batcher.enqueue(one, number)
        assert batcher.take(None, True, number) is None
    return (time.process_time() - start) / waiting * 1e6


def case(name: str, measure: Callable[[int], float], sizes: tuple[int, ...] = WAITING) -> None:
    found = [min(measure(size) for _ in range(ROUNDS)) for size in sizes]
    print(f"| {name} | " + " | ".join(f"{us:.2f}" for us in found) + " |", flush=True)


def main() -> None:
    print("| µs per request | " + " | ".join(f"{waiting:,} waiting" for waiting in WAITING) + " |")
    print("|---" * (1 + len(WAITING)) + "|")

    def timed(action: TimeoutAction) -> Callable[[int], float]:
        return lambda waiting: overload(
            RequestQueue(QueuePolicy(action, default_timeout_us=waiting)), waiting, lambda number, now_ns: request()
        )

    case("no deadlines", lambda waiting: overload(RequestQueue(), waiting, lambda number, now_ns: request()))
    case("queue timeouts, REJECT", timed(TimeoutAction.REJECT))
    case("queue timeouts, DELAY", timed(TimeoutAction.DELAY))
    case("clients' deadlines", lambda waiting: overload(
        RequestQueue(), waiting, lambda number, now_ns: request(end_by_ns=now_ns + 1_000 * waiting)))  # fmt: skip
    case("clients' deadlines, the earliest first", lambda waiting: overload(
        RequestQueue(by_deadline=True), waiting,
        lambda number, now_ns: request(end_by_ns=now_ns + 1_000 * (waiting + number * 7919 % waiting))))  # fmt: skip
    case("a delay that the server finds", lambda waiting: overload(
        RequestQueue(), waiting, lambda number, now_ns: request(), auto=AutoDelay(8, 0, 1)))  # fmt: skip
    case("clients that leave", lambda waiting: overload(
        RequestQueue(), waiting, lambda number, now_ns: request(), cancels=True))  # fmt: skip
    case("a priority level for each", lambda waiting: overload(
        RequestQueue(QueuePolicy(default_timeout_us=waiting), MOST_LEVELS, 1), waiting,
        lambda number, now_ns: request(priority=number * 0x9E3779B97F4A7C15 % MOST_LEVELS + 1)))  # fmt: skip
    case("one batch that waits for more", held_back)
    print("\n| µs per request | " + " | ".join(f"{many:,} models" for many in MODELS) + " |")
    print("|---" * (1 + len(MODELS)) + "|")
    case("batches of eight, to each model in turn", steady, MODELS)


if __name__ == "__main__":
    main()
