"""Server CPU per inference as requests and idle connections grow, and what an idle one costs: -m bench.e2e.flat."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.conformance.setup_oracle import prepare

from . import models, report, versus
from .identity import check, identities
from .idle import KINDS, Idle, raise_limit, resident_kb
from .load import Requests, drive, require
from .versus import Subject

_COLUMNS = ("server", "what grows", "to", "server CPU us/infer", "CPU vs first", "KB per further idle connection")
_KEYS = ("server", "what", "count", "cpu_us", "ratio", "kb")
_NOTE = (
    "Concurrency: one connection per request at work. Idle connections did what their name says once; the load beside "
    "them has concurrency {concurrency}, their memory is the growth of the server's resident memory. Each kind has a "
    "server of its own: one that served many before has free memory to put them into."
)
# Another model of a server that is there already.
_LEFT_OUT = ("triton-async, ONNX Runtime",)
# Time for the server to give back what accepting the connections took.
_SETTLE_S = 1.5
Rows = list[dict[str, Any]]


class Bench:
    """Measures one server after the other; CPU is the median of some rounds."""

    def __init__(self, requests: Requests, seconds: float, rounds: int) -> None:
        self._requests, self._seconds, self._rounds = requests, seconds, rounds
        self.rows: Rows = []

    def _cpu_us(self, subject: Subject, protocol: str, concurrency: int) -> float:
        windows = [
            drive(subject, (protocol, concurrency), self._requests, self._seconds, streams=1)
            for _ in range(self._rounds)
        ]
        return statistics.median(window.cpu_us for window in windows)

    def _add(self, subject: Subject, what: str, measured: list[tuple[int, float, str | float]]) -> None:
        first = measured[0][1]
        for count, cpu_us, kb in measured:
            row = {
                "server": subject.name, "what": what, "count": count, "cpu_us": round(cpu_us, 1),
                "ratio": round(cpu_us / first, 2), "kb": kb,
            }  # fmt: skip
            self.rows.append(row)
            print(*row.values(), flush=True)

    def concurrency(self, subject: Subject, protocol: str, counts: list[int]) -> None:
        """The load grows."""
        measured = [(count, self._cpu_us(subject, protocol, count), "") for count in counts]
        self._add(subject, f"{protocol} concurrency", measured)  # type: ignore[arg-type]

    def idle(self, subject: Subject, kind: str, counts: list[int], concurrency: int) -> None:
        """Idle connections grow beside a load that stays the same. The first count has to be 0."""
        protocol = kind.split(maxsplit=1)[0]
        pid = subject.server.process.pid
        measured: list[tuple[int, float, str | float]] = []
        with Idle(kind, subject.server.port(protocol), self._requests, subject.model) as connections:
            # What grows with the load itself is there before.
            self._cpu_us(subject, protocol, concurrency)
            resident, before = resident_kb(pid), 0
            for count in counts:
                connections.grow(count)
                time.sleep(_SETTLE_S if count else 0)
                grown = resident_kb(pid)
                kb = round((grown - resident) / (count - before), 1) if count else ""
                measured.append((count, self._cpu_us(subject, protocol, concurrency), kb))
                # Not what the load beside them takes.
                resident, before = resident_kb(pid), count
        self._add(subject, f"idle connections, {kind}", measured)


def main() -> None:
    """Starts the servers, measures, writes the report."""
    parser = versus.parser("flat", __doc__, [1, 8, 64, 256])
    parser.add_argument("--idle", type=int, nargs="+", default=[0, 1000, 5000], help="first 0 (default: 0 1000 5000)")
    parser.add_argument("--idle-kinds", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--beside", type=int, default=32, help="concurrency beside idle connections (default: 32)")
    parser.set_defaults(rounds=3, only=versus.OURS)
    options = parser.parse_args()
    require()
    raise_limit(max(options.idle))
    oracle = prepare()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Requests(Path(folder), models.ELEMENTS), options.seconds, options.rounds)
        for protocol in options.protocol:
            for kind in ("", *(kind for kind in options.idle_kinds if kind.startswith(protocol))):
                with versus.both(oracle, options.only, models.triton_repository, models.our_repository) as running:
                    subjects = [subject for subject in identities(running) if subject.name not in _LEFT_OUT]
                    check(subjects, [protocol])
                    for subject in subjects:
                        if kind:
                            bench.idle(subject, kind, options.idle, options.beside)
                        else:
                            bench.concurrency(subject, protocol, options.concurrency)
    note = _NOTE.format(concurrency=options.beside)
    print(report.save("Flatness", options.out, _COLUMNS, _KEYS, bench.rows, note=note))


if __name__ == "__main__":
    main()
