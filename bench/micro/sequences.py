"""What the sequence batcher costs per request: enqueue, take in batches of 8, end; by the number of live sequences.

Run from the repository root with the package built in place: `python -m bench.micro.sequences`. Calls from Python are
part of it, about 0.1 µs each; making the requests is not. CPU time, the least of some rounds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "tests")]

from tests.unit.core.sequence_stage import START, Stage  # noqa: E402

ROWS, REQUESTS, ROUNDS = 8, 8000, 5


def cost_us(live: int, oldest: bool) -> float:
    """Microseconds per request, the best of some rounds, with so many sequences that have a slot and a state."""
    stage = Stage(ROWS, oldest=oldest, candidates=live)
    batcher, (instance,) = stage.batcher, stage.instances

    def run() -> None:
        while (batch := batcher.take(instance, True, stage.now_ns)) is not None:
            for request in batch.requests:
                batcher.done(request, stage.now_ns)

    for sequence in range(1, live + 1):
        batcher.enqueue(stage.request(sequence, START), stage.now_ns)
    run()
    best = float("inf")
    for _ in range(ROUNDS):
        requests = [stage.request(1 + number * 7919 % live) for number in range(REQUESTS)]
        begun = time.process_time()
        for at in range(0, REQUESTS, ROWS):
            for request in requests[at : at + ROWS]:
                batcher.enqueue(request, stage.now_ns)
            run()
        best = min(best, (time.process_time() - begun) / REQUESTS)
    return best * 1e6


def main() -> None:
    """Prints a table."""
    print("| live sequences | oldest, µs per request | direct |\n|---|---|---|")
    for live in (8, 100, 1000, 10_000):
        direct = f"{cost_us(live, False):.2f}" if live == ROWS else ""
        print(f"| {live:,} | {cost_us(live, True):.2f} | {direct} |")


if __name__ == "__main__":
    main()
