"""Many Python models in one server: seconds until all are ready, and memory: python -m bench.e2e.python_start."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conformance import servers
from tests.conformance.servers import Server
from tests.conformance.setup_oracle import Oracle, prepare

from . import python_files, report
from .many import wait_ready
from .perf import CPU_TICK_US, cpu_ticks, family

_COLUMNS = ("server", "models", "ready s", "CPU s", "processes", "PSS MiB", "ready vs first", "PSS vs first")
_KEYS = ("server", "models", "ready_s", "cpu_s", "processes", "pss_mib", "ready_ratio", "pss_ratio")
_NOTE = "Medians. PSS: of the server and all its workers or stubs, shared pages counted once, shared memory included."
_ISOLATED = "triton-async, isolated"
Start = Callable[[Path, Path], Server]


def _pss_mib(pid: int) -> float:
    """Proportional set size of one process; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return float(line.split()[1]) / 1024
    return 0.0


def _once(start: Start, count: int, isolated: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        root = python_files.write_many(Path(folder, "models"), count, isolated=isolated)
        begun = time.monotonic()
        server = start(root, Path(folder, "log"))
        try:
            ready_s = wait_ready(server, begun)
            cpu_s = cpu_ticks(server.process.pid) * CPU_TICK_US / 1e6
            members = family(server.process.pid)
            pss = sum(_pss_mib(pid) for pid in members)
            return {"ready_s": ready_s, "cpu_s": cpu_s, "processes": len(members), "pss_mib": pss}
        finally:
            server.stop()


def _starts(oracle: Oracle) -> dict[str, tuple[Start, bool]]:
    def triton(root: Path, log: Path) -> Server:
        return Server("tritonserver", servers.triton_command(oracle, root), oracle.server_env(), log)

    def ours(root: Path, log: Path) -> Server:
        return Server("triton-async", servers.ours_command(root), servers.ours_env(), log)

    return {
        "tritonserver 2.51": (triton, False),
        "triton-async, in process": (ours, False),
        _ISOLATED: (ours, True),
    }


def main() -> None:
    """Starts each server in turn, some rounds, writes the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.e2e.python_start", description=__doc__)
    parser.add_argument("--models", type=int, default=100, help="number of models (default: 100)")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each server (default: 3)")
    parser.add_argument("--out", type=Path, default=Path("bench/results/python-start"))
    parser.add_argument("--in-process", action="store_true", help="leave out the isolated models")
    options = parser.parse_args()
    starts = _starts(prepare())
    if options.in_process:
        del starts[_ISOLATED]
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in starts}
    for _ in range(options.rounds):
        for name, (start, isolated) in starts.items():
            taken[name].append(_once(start, options.models, isolated))
            print(name, {key: round(value, 1) for key, value in taken[name][-1].items()}, flush=True)
    rows: list[dict[str, Any]] = []
    for name, rounds in taken.items():
        row: dict[str, Any] = {"server": name, "models": options.models}
        row |= {key: round(statistics.median(one[key] for one in rounds), 2) for key in rounds[0]}
        first = rows[0] if rows else row
        row["ready_ratio"] = round(row["ready_s"] / first["ready_s"], 3)
        row["pss_ratio"] = round(row["pss_mib"] / first["pss_mib"], 3)
        rows.append(row)
    print(report.save("Start of many Python models", options.out, _COLUMNS, _KEYS, rows, note=_NOTE))


if __name__ == "__main__":
    main()
