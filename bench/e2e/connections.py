"""A server with several front-ends as its connections grow: python -m bench.e2e.connections [--counts 100 10000].

All connections infer in turn, so many at a time, whatever their number: what differs is how many are held. The servers
run side by side, and are measured in turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from . import report
from .holds import holds
from .idle import HTTP_INFER, Idle, raise_limit
from .load import Requests
from .perf import CPU_TICK_US, family, own_ticks

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "tests" / "system")]

import front_end_models  # noqa: E402
from front_end_processes import front_ends  # noqa: E402
from server_process import ServerProcess, running_server  # noqa: E402

MODEL = "numbers"
ELEMENTS = 16
# Time for the server to give back what accepting the connections took.
_SETTLE_S = 2.0
_COLUMNS = (
    "connections", "asking", "fewest and most of a front-end", "opened in s", "KB each", "server CPU us/infer",
    "CPU vs first", "p50 us", "p99 us", "p99 vs first",
)  # fmt: skip
_KEYS = ("count", "asking", "shares", "opened_s", "kb", "cpu_us", "cpu_ratio", "p50_us", "p99_us", "p99_ratio")
_NOTE = (
    "{front_ends} front-ends. Every connection infers FP32[16] in turn, {at_once} at a time, from one client of one "
    "thread on the same machine, or only as many as the second column says, while the others wait; the servers run "
    "side by side and are measured in {rounds} turns of {requests} requests, of which the medians count. Memory: what "
    "all processes of the server have grown by, pages they share counted once."
)


class Held:
    """One server and its connections."""

    def __init__(self, stack: ExitStack, folder: Path, count: int, options: Any) -> None:
        folder.mkdir()
        front_end_models.build(folder / "models")
        flags = [f"--frontend-processes={options.front_ends}"]
        self._server: ServerProcess = stack.enter_context(running_server([folder / "models"], folder, flags))
        self._count, self._options, self._next = count, options, 0
        self._cpu_us: dict[int, list[float]] = {}
        self._took_ns: dict[int, list[list[int]]] = {}
        port = int(self._server.http_url.rpartition(":")[2])
        self._connections = stack.enter_context(Idle(HTTP_INFER, port, Requests(folder, ELEMENTS), MODEL))
        with Idle(HTTP_INFER, port, Requests(folder, ELEMENTS), MODEL) as first:  # what is made once is there before
            first.grow(options.at_once)
            first.ask(0, options.at_once)
        time.sleep(_SETTLE_S)
        before = holds(self._server.pid).proportional_mb
        begun = time.monotonic()
        self._connections.grow(count)
        self._opened_s = time.monotonic() - begun
        time.sleep(_SETTLE_S)
        self._kb = (holds(self._server.pid).proportional_mb - before) * 1024 / count

    def turn(self, asking: int) -> None:
        """Measures once."""
        pids = family(self._server.pid)
        before = sum(map(own_ticks, pids))
        took_ns: list[int] = []
        while len(took_ns) < self._options.requests:
            took_ns += self._connections.ask(self._next % asking, self._options.at_once)
            self._next += self._options.at_once
        cpu_us = (sum(map(own_ticks, pids)) - before) * CPU_TICK_US / len(took_ns)
        self._cpu_us.setdefault(asking, []).append(cpu_us)
        self._took_ns.setdefault(asking, []).append(took_ns)

    def rows(self) -> list[dict[str, Any]]:
        """What was found, for each number of connections that asked."""
        shares = [len(os.listdir(f"/proc/{pid}/fd")) for pid in front_ends(self._server)]
        found = []
        for asking, windows in self._took_ns.items():
            cuts = [statistics.quantiles(took_ns, n=100) for took_ns in windows]
            found.append({
                "count": self._count, "asking": asking, "shares": f"{min(shares)}, {max(shares)}",
                "opened_s": round(self._opened_s, 1), "kb": round(self._kb, 1),
                "cpu_us": round(statistics.median(self._cpu_us[asking]), 1),
                "p50_us": round(statistics.median(cut[49] for cut in cuts) / 1e3),
                "p99_us": round(statistics.median(cut[98] for cut in cuts) / 1e3),
            })  # fmt: skip
        return found


def main() -> None:
    """Starts the servers, measures, writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 10000])
    parser.add_argument("--front-ends", type=int, default=4)
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--requests", type=int, default=5000, help="of a turn")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("bench/results/connections"))
    options = parser.parse_args()
    raise_limit(sum(options.counts))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        held = [Held(stack, Path(name) / str(count), count, options) for count in options.counts]
        for _ in range(options.rounds):
            for one, count in zip(held, options.counts, strict=True):
                for asking in sorted({options.counts[0], count}):
                    one.turn(asking)
        rows = [row for one in held for row in one.rows()]
    for row in rows:
        row["cpu_ratio"] = round(row["cpu_us"] / rows[0]["cpu_us"], 2)
        row["p99_ratio"] = round(row["p99_us"] / rows[0]["p99_us"], 2)
    note = _NOTE.format(**vars(options))
    print(report.save("Connections over several front-ends", options.out, _COLUMNS, _KEYS, rows, note=note))


if __name__ == "__main__":
    main()
