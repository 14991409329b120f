"""Python models in one process and in two (--model-processes): python -m bench.e2e.model_processes.

Two models that compute some 50 ms of pure Python for each request: what both answer together, asked all the time, and
what a light model of another engine answers beside them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import statistics
import threading
import time
from pathlib import Path
from typing import Any

from tests.conformance.models import write_repository
from tests.conformance.servers import Server
from tests.conformance.setup_oracle import Oracle, prepare

from . import python_files as files
from . import report, versus
from .perf import CPU_TICK_US, Load, cpu_ticks, measure
from .python_beside import BODY, LIGHT, kept_busy
from .versus import OURS

_COUNTS = (1, 2)
_COLUMNS = {
    "model processes": "processes",
    "heavy answers/s": "heavy_per_s",
    "heavy p50 ms": "heavy_p50_ms",
    "CPU ms/answer": "heavy_cpu_ms",
    "cores busy": "cores",
    "light infer/s": "light_per_s",
    "light p50 us": "light_p50_us",
    "light p99 us": "light_p99_us",
}
_NOTE = (
    "Heavy: two models in pure Python, one client each, which always has a request out; nothing else is asked. Light: "
    "add_sub on ONNX Runtime, FP32[16], over HTTP with one request in flight while both heavy models are kept busy. "
    "The clients run on the same cores."
)


@dataclasses.dataclass(frozen=True)
class Heavy:
    """What the two models did in a window, asked by a client each."""

    per_s: float
    p50_ms: float
    cpu_ms: float
    cores: float


def heavy(server: Server, seconds: float) -> Heavy:
    """Asks both models for so long."""
    took: list[float] = []
    until = time.monotonic() + seconds

    def ask(model: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
        while (begun := time.monotonic()) < until:
            connection.request("POST", f"/v2/models/{model}/infer", BODY)
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                raise RuntimeError(f"{model}: {text.decode()}")
            took.append(time.monotonic() - begun)
        connection.close()

    threads = [threading.Thread(target=ask, args=(model,)) for model in files.HEAVY_PAIR]
    begun, ticks = time.monotonic(), cpu_ticks(server.process.pid)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed, used_us = time.monotonic() - begun, (cpu_ticks(server.process.pid) - ticks) * CPU_TICK_US
    if not took:
        raise RuntimeError("no answer of the heavy models")
    return Heavy(len(took) / elapsed, 1e3 * statistics.median(took), used_us / 1e3 / len(took), used_us / 1e6 / elapsed)


def light(oracle: Oracle, server: Server, seconds: float) -> tuple[float, float, float]:
    """Inferences in a second of the light model beside both, their p50 and p99 in microseconds."""
    with contextlib.ExitStack() as stack:
        for model in files.HEAVY_PAIR:
            stack.enter_context(kept_busy(server, model))
        window = measure(oracle, server, Load("http", server.http_port, files.LIGHT, 1, seconds))
    return window.infer_per_s, window.p50_us, window.p99_us


def rows(oracle: Oracle, servers: dict[int, Server], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Medians of rounds in which the servers take turns."""
    found: dict[int, list[dict[str, float]]] = {count: [] for count in servers}
    for _ in range(rounds):
        for count, server in servers.items():
            alone = heavy(server, seconds)
            per_s, p50_us, p99_us = light(oracle, server, seconds)
            found[count].append({
                "heavy_per_s": alone.per_s, "heavy_p50_ms": alone.p50_ms, "heavy_cpu_ms": alone.cpu_ms,
                "cores": alone.cores, "light_per_s": per_s, "light_p50_us": p50_us, "light_p99_us": p99_us,
            })  # fmt: skip
            print(f"{count}: {found[count][-1]}", flush=True)
    return [
        {"processes": count, **{key: round(statistics.median(row[key] for row in taken), 2) for key in taken[0]}}
        for count, taken in found.items()
    ]


def main() -> None:
    """Starts the servers, measures, writes the report."""
    parser = versus.parser("model_processes", __doc__, [1], ("http",))
    parser.set_defaults(out=Path("bench/results/model-processes"))
    options = parser.parse_args()
    oracle = prepare()

    def write(root: Path) -> Path:
        files.write_heavy_pair(root)
        return write_repository(root, (LIGHT,), "onnx")

    with contextlib.ExitStack() as stack:
        servers = {
            count: stack.enter_context(versus.both(None, OURS, write, write, (f"--model-processes={count}",)))[OURS]
            for count in _COUNTS
        }
        found = rows(oracle, servers, options.rounds, options.seconds)
    print(report.save("Python models in model processes", options.out, tuple(_COLUMNS), tuple(_COLUMNS.values()), found,
                      note=_NOTE))  # fmt: skip


if __name__ == "__main__":
    main()
