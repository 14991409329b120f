"""Compares triton-async with the real tritonserver on an identity model: python -m bench.e2e."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.conformance import servers
from tests.conformance.servers import Server
from tests.conformance.setup_oracle import Oracle, prepare

from . import models, report
from .echo import echo_check
from .perf import Load, measure
from .report import Results

# A server under test: its name in the report, the server that serves it, the model to ask for.
Subject = tuple[str, Server, str]
_COLUMNS = (
    "protocol",
    "concurrency",
    "server",
    "infer/s",
    "p50 us",
    "p99 us",
    "server CPU us/infer",
    "vs Triton",
)
_KEYS = ("protocol", "concurrency", "server", "infer_per_s", "p50_us", "p99_us", "cpu_us", "ratio")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.e2e", description=__doc__)
    parser.add_argument("--protocol", choices=("http", "grpc", "both"), default="both")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one window (default: 3)")
    parser.add_argument("--rounds", type=int, default=5, help="windows per server and point (default: 5)")
    parser.add_argument("--only", choices=("triton", "ours"), help="run one of the servers only")
    parser.add_argument("--out", type=Path, default=Path("bench/results/e2e"), help="path without ending")
    return parser.parse_args()


def _subjects(oracle: Oracle, work: Path, only: str | None, stack: list[Server]) -> list[Subject]:
    """Starts the servers, to be stopped by whoever owns `stack`."""
    subjects: list[Subject] = []
    if only != "ours":
        command = servers.triton_command(oracle, models.triton_repository(work / "triton"))
        server = Server("tritonserver", command, oracle.server_env(), work / "triton.log")
        stack.append(server)
        subjects.append(("tritonserver 2.51, Python backend", server, models.IDENTITY))
    if only != "triton":
        command = servers.ours_command(models.our_repository(work / "ours"))
        server = Server("triton-async", command, servers.ours_env(), work / "ours.log")
        stack.append(server)
        subjects.append(("triton-async, ONNX Runtime", server, models.IDENTITY))
        subjects.append(("triton-async, built-in identity", server, models.BUILT_IN))
    for server in stack:
        server.wait_ready()
    return subjects


def _run(oracle: Oracle, subjects: list[Subject], options: argparse.Namespace) -> Results:
    """Alternates between the servers within each round, so that a slow minute hits all of them."""
    protocols = ("http", "grpc") if options.protocol == "both" else (options.protocol,)
    for protocol in protocols:
        for name, server, model in subjects:
            echoed = echo_check(protocol, server.port(protocol), model)
            print(f"{name}: {echoed} tensors echoed over {protocol}", flush=True)
    results: Results = {}
    for protocol in protocols:
        for concurrency in options.concurrency:
            for _ in range(options.rounds):
                for name, server, model in subjects:
                    load = Load(
                        protocol,
                        server.port(protocol),
                        model,
                        concurrency,
                        options.seconds,
                        f"INPUT0:{models.ELEMENTS}",
                    )
                    window = measure(oracle, server, load)
                    results.setdefault((name, protocol, concurrency), []).append(window)
                    print(f"{protocol} {concurrency:3d} {name}: {window.infer_per_s:.0f} infer/s", flush=True)
    return results


def main() -> None:
    """Starts the servers, measures, writes the report."""
    options = _arguments()
    oracle = prepare()
    running: list[Server] = []
    with tempfile.TemporaryDirectory() as work:
        try:
            results = _run(oracle, _subjects(oracle, Path(work), options.only, running), options)
        finally:
            for server in running:
                server.stop()
    title = "Identity FP32[16] end to end"
    print(report.save(title, options.out, _COLUMNS, _KEYS, report.medians(results)))


if __name__ == "__main__":
    main()
