"""Runs a measurement on several servers in turns, and what all such benchmarks take as options."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tests.conformance import servers
from tests.conformance.servers import Server
from tests.conformance.setup_oracle import Oracle

from .perf import Load, Window, measure
from .report import Results

PROTOCOLS = ("http", "grpc")
TRITON, OURS, BOTH = "triton", "ours", "both"
# (protocol, concurrency)
Point = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A server under test: its name in the report, the server that serves it, the model to ask for."""

    name: str
    server: Server
    model: str


Measure = Callable[[Subject, Point], Window]
Writer = Callable[[Path], Path]


def parser(
    module: str, description: str | None, concurrency: list[int], protocols: Sequence[str] = PROTOCOLS
) -> argparse.ArgumentParser:
    """The options that every comparison has; `module` is the last part of its name, "" for the package."""
    prog = f"python -m bench.e2e.{module}".removesuffix(".")
    made = argparse.ArgumentParser(prog=prog, description=description)
    made.add_argument("--protocol", choices=protocols, nargs="+", default=list(protocols))
    made.add_argument("--concurrency", type=int, nargs="+", default=concurrency)
    made.add_argument("--seconds", type=float, default=3.0, help="length of one window (default: 3)")
    made.add_argument("--rounds", type=int, default=5, help="windows per server and point (default: 5)")
    made.add_argument("--only", choices=(TRITON, OURS, BOTH), default=BOTH, help="run one server only")
    made.add_argument("--out", type=Path, default=Path(f"bench/results/{module or 'e2e'}"), help="path without ending")
    return made


@contextlib.contextmanager
def both(
    oracle: Oracle | None, only: str, triton: Writer, ours: Writer, flags: Sequence[str] = ()
) -> Iterator[dict[str, Server]]:
    """The servers that are asked for, ready, over the repositories that `triton` and `ours` write; then stopped.
    `flags`: further ones of ours.

    Without `oracle` there is no Triton to ask for.
    """
    running: dict[str, Server] = {}
    # The servers have sessions of their own: they would outlive a benchmark that is told to end.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        try:
            if oracle is not None and only != OURS:
                command = servers.triton_command(oracle, triton(work / TRITON))
                running[TRITON] = Server("tritonserver", command, oracle.server_env(), work / "triton.log")
            if only != TRITON:
                command = servers.ours_command(ours(work / OURS), *flags)
                running[OURS] = Server("triton-async", command, servers.ours_env(), work / "ours.log")
            for server in running.values():
                server.wait_ready()
            yield running
        finally:
            for server in running.values():
                server.stop()


def points(options: argparse.Namespace) -> list[Point]:
    """Every protocol with every concurrency that the options name."""
    return [(protocol, concurrency) for protocol in options.protocol for concurrency in options.concurrency]


def by_perf_analyzer(oracle: Oracle, shape: str, seconds: float) -> Measure:
    """Windows of perf_analyzer with requests of `shape`, "NAME:DIMS"."""

    def window(subject: Subject, point: Point) -> Window:
        protocol, concurrency = point
        port = subject.server.port(protocol)
        return measure(oracle, subject.server, Load(protocol, port, subject.model, concurrency, seconds, shape))

    return window


def take_turns(subjects: list[Subject], at: Iterable[Point], rounds: int, measure: Measure) -> Results:
    """Alternates between the servers within each round, so that a slow minute hits all of them."""
    results: Results = {}
    for point in at:
        protocol, concurrency = point
        for _ in range(rounds):
            for subject in subjects:
                window = measure(subject, point)
                results.setdefault((subject.name, protocol, concurrency), []).append(window)
                print(
                    f"{protocol} {concurrency:3d} {subject.name}: {window.infer_per_s:.0f} infer/s, "
                    f"p99 {window.p99_us:.0f} us, CPU {window.cpu_us:.1f} us/infer",
                    flush=True,
                )
    return results
