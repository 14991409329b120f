"""What a request costs over the lane between a front-end and the models' process: written, read, answered and the
answer read, on both sides together, without what the server does with it.

Run from the repository root with the package built in place: `python -m bench.micro.lanes`. CPU time of one process
that has both ends, less that of the same requests asked of the server directly; the least of some rounds. Wake-ups are
counted: each is a system call of its own (about 1 µs) and whatever the kernel takes to run the other process.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "tests" / "unit" / "core")]

from lane_pair import Pair, request, run  # noqa: E402

REQUESTS, ROUNDS = 20_000, 7


async def cost_us(server: Any, count: int, at_once: int) -> float:
    """Microseconds per request of `count` floats, so many at once."""
    array = np.zeros((1, count), np.float32)
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(0, REQUESTS, at_once):
            await asyncio.gather(*(server.infer(request(array)) for _ in range(at_once)))
        best = min(best, time.process_time() - begun)
    return best / REQUESTS * 1e6


async def _measure(both: Pair) -> None:
    print("| floats | at once | µs per request on the lane | wake-ups per request, both ways |\n|---|---|---|---|")
    for count in (16, 256, 1024):
        for at_once in (8, 32, 128):
            direct = await cost_us(both.server, count, at_once)
            before = both.model_process.n_rings + both.front_end.n_rings
            remote = await cost_us(both.remote, count, at_once)
            rings = both.model_process.n_rings + both.front_end.n_rings - before
            print(f"| {count} | {at_once} | {remote - direct:.2f} | {rings / REQUESTS / ROUNDS:.3f} |", flush=True)


def main() -> None:
    """Prints a table."""
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), _measure)


if __name__ == "__main__":
    main()
