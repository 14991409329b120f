"""How close HTTP is to what uvloop allows: CPU per request, ours over a bare server's: python -m bench.e2e.limit."""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
from pathlib import Path

from tests.conformance import servers
from tests.conformance.servers import Server
from tests.conformance.setup_oracle import prepare

from . import models, report, versus
from .identity import check, identities
from .idle import http_infer, read_http
from .load import Requests, drive, require, wrk
from .perf import CPU_TICK_US, Window, cpu_ticks
from .versus import OURS, TRITON, Point, Subject

BARE = "bare uvloop server"
# Most CPU per request that we want to take, over the bare server's, by connections.
_TARGETS = {1: 1.6, 8: 1.35, 32: 1.25}
_TIMEOUT_S = 20.0
_NOTE = (
    "wrk, one connection per request at work. The bare server reads the same bytes as ours and writes one canned "
    "answer, which is ours. Wanted of triton-async, CPU vs first: at most {targets}. The built-in identity is what the "
    "server itself takes; ONNX Runtime's own Run of one identity is about 2 µs besides."
)


def _ask(server: Server, model: str, requests: Requests) -> bytes:
    """The answer to the request of the load; raises unless it brings the tensor back."""
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=_TIMEOUT_S) as sock:
        sock.sendall(http_infer(requests, model))
        answer = read_http(sock)
    if not answer.endswith(requests.tensor):
        raise RuntimeError(f"{server.name} answered {answer!r}")
    return answer


def _bare_window(subject: Subject, concurrency: int, requests: Requests, seconds: float) -> Window:
    """As `drive`, of a server that counts nothing: what wrk counts has to do."""
    pid = subject.server.process.pid
    ticks = cpu_ticks(pid)
    answers, took_s, p50, p99 = wrk(subject.server, subject.model, requests.http(), concurrency, seconds)
    ticks = cpu_ticks(pid) - ticks
    return Window(answers / took_s, p50, p99, ticks * CPU_TICK_US / answers)


def _options() -> argparse.Namespace:
    parser = versus.parser("limit", __doc__, list(_TARGETS), protocols=("http",))
    parser.set_defaults(only=OURS, rounds=7, seconds=2.0)
    options = parser.parse_args()
    if options.only == TRITON:
        parser.error("what the bare server answers is ours")
    return options


def main() -> None:
    """Starts the servers, measures in turns, writes the report."""
    options = _options()
    require()
    oracle = None if options.only == OURS else prepare()
    with tempfile.TemporaryDirectory() as folder:
        requests = Requests(Path(folder), models.ELEMENTS)

        def window(subject: Subject, point: Point) -> Window:
            if subject.name == BARE:
                return _bare_window(subject, point[1], requests, options.seconds)
            return drive(subject, point, requests, options.seconds)

        with versus.both(oracle, options.only, models.triton_repository, models.our_repository) as running:
            subjects = identities(running)
            check(subjects, ["http"])
            canned = Path(folder) / "answer"
            canned.write_bytes(_ask(running[OURS], models.IDENTITY, requests))
            command = [sys.executable, str(Path(__file__).with_name("bare.py")), f"--answer={canned}"]
            with servers.running(BARE, command, servers.ours_env(), Path(folder) / "log") as server:
                _ask(server, models.IDENTITY, requests)
                subjects.insert(0, Subject(BARE, server, models.IDENTITY))
                results = versus.take_turns(subjects, versus.points(options), options.rounds, window)
    targets = ", ".join(f"{most} at {concurrency}" for concurrency, most in _TARGETS.items())
    title = f"Identity FP32[{models.ELEMENTS}] over HTTP against a bare uvloop server"
    print(report.save_comparison(title, options.out, results, _NOTE.format(targets=targets)))


if __name__ == "__main__":
    main()
