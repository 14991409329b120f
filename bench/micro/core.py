"""Microseconds from `submit` to `deliver` through core and the identity backend, without a front-end.

Run from the repository root with the package built in place: `python bench/micro/core.py`. CPU is that of all threads.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import uvloop

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit" / "core")]

from core_harness import request, running, write_model  # noqa: E402

from triton_async.core.server import InferenceServer  # noqa: E402
from triton_async.infer.response import InferResponse, ResponseSink  # noqa: E402

ROUNDS, REQUESTS = 5, 20_000
AUTO = 'parameters { key: "dynamic_batching.max_queue_delay" value { string_value: "auto" } }'
TENSOR = np.arange(16, dtype=np.float32).reshape(1, 16)


class Refill(ResponseSink):
    """Submits the next request for every response until `left` are used up."""

    def __init__(self, server: InferenceServer, model: str, left: int) -> None:
        self.server, self.model, self.left = server, model, left
        self.waiting = 0
        self.done = asyncio.get_running_loop().create_future()

    def submit(self) -> None:
        self.left -= 1
        self.waiting += 1
        self.server.submit(request(self.model, TENSOR), self)

    def on_response(self, response: InferResponse) -> None:
        assert response.error is None
        self.waiting -= 1
        if self.left > 0:
            self.submit()
        elif self.waiting == 0:
            self.done.set_result(None)


def making() -> float:
    """Microseconds that a request object of the harness takes, to be taken off."""
    start = time.process_time()
    for _ in range(REQUESTS):
        request("plain", TENSOR)
    return (time.process_time() - start) / REQUESTS * 1e6


async def measure(server: InferenceServer, model: str, concurrency: int) -> tuple[float, float]:
    """Wall and CPU microseconds of each request, best of some rounds."""
    found = []
    for _ in range(ROUNDS):
        sink = Refill(server, model, REQUESTS)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(concurrency):
            sink.submit()
        await sink.done
        found.append(((time.perf_counter() - wall) / REQUESTS * 1e6, (time.process_time() - cpu) / REQUESTS * 1e6))
    return min(wall for wall, _ in found), min(cpu for _, cpu in found)


async def main(root: Path) -> None:
    """Prints a table."""
    base = making()
    print(f"the request object, taken off below: {base:.2f} µs\n")
    print(f"{'model':10}{'at work':>8}{'wall µs':>10}{'CPU µs':>10}")
    async with running(root) as server:
        for model in ("plain", "batching", "auto"):
            for concurrency in (1, 8, 32, 256):
                wall, cpu = await measure(server, model, concurrency)
                print(f"{model:10}{concurrency:>8}{wall - base:>10.2f}{cpu - base:>10.2f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        one = "instance_group { count: 1 kind: KIND_CPU }"
        write_model(Path(folder), "plain", max_batch_size=8, more=one)
        write_model(Path(folder), "batching", max_batch_size=8, more=one + " dynamic_batching { }")
        write_model(Path(folder), "auto", max_batch_size=8, more=one + " dynamic_batching { } " + AUTO)
        uvloop.run(main(Path(folder)))
