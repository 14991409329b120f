"""Many small ONNX models in one server: python -m bench.e2e.many.

How long until it is ready, its threads and memory; how long a load, a scrape and the index take, and hold up others.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.conformance import servers
from tests.conformance.models import Model, Tensor
from tests.conformance.models_onnx import model_file
from tests.conformance.servers import Server

from . import report
from .perf import CPU_TICK_US, cpu_ticks

_ADD_SUB = Model(
    "add_sub",
    (Tensor("INPUT0", "FP32", (16,)), Tensor("INPUT1", "FP32", (16,))),
    (Tensor("OUTPUT0", "FP32", (16,)), Tensor("OUTPUT1", "FP32", (16,))),
    (("add", "INPUT0", "INPUT1"), ("sub", "INPUT0", "INPUT1")),
    8,
)
_COLUMNS = ("models", "ready s", "CPU s", "threads", "RSS MiB", "PSS MiB", *(
    f"{what} ms{more}" for what in ("load", "unload", "index", "metrics") for more in ("", ", others wait")
))  # fmt: skip
_KEYS = ("models", "ready_s", "cpu_s", "threads", "rss_mib", "pss_mib", *(
    f"{what}{more}_ms" for what in ("load", "unload", "index", "metrics") for more in ("", "_stall")
))  # fmt: skip
_NOTE = (
    "Models without a config.pbtxt, two instances each. Times of one request are medians; `others wait`: the "
    "longest that another client, who asks for `/v2/health/live` all the time, waited in the meantime, {idle:.2f} ms "
    "beside an idle server."
)
# The server's own poll for readiness takes 0.1 s steps.
_POLL_S = 0.005


def _repository(root: Path, count: int) -> Path:
    content = model_file(_ADD_SUB)
    for index in range(count):
        _add(root, f"model_{index:05d}", content)
    return root


def _add(root: Path, name: str, content: bytes) -> None:
    (root / name / "1").mkdir(parents=True)
    (root / name / "1" / "model.onnx").write_bytes(content)


class Probe:
    """Another client: asks one question after the other on a connection of its own; the waits in ms."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.waits: list[float] = []

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._stop.is_set():
            begun = time.perf_counter()
            connection.request("GET", "/v2/health/live")
            connection.getresponse().read()
            self.waits.append((time.perf_counter() - begun) * 1e3)
            time.sleep(0.0005)
        connection.close()


class Bench:
    """One server with `count` models, measured."""

    def __init__(self, server: Server, root: Path) -> None:
        self._server = server
        self._root = root
        self._connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)

    def _ask(self, method: str, path: str) -> bytes:
        self._connection.request(method, path)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {body[:200]!r}")
        return body

    def idle_ms(self, seconds: float) -> float:
        """The longest that a client waits when it is alone."""
        with Probe(self._server.http_port) as probe:
            time.sleep(seconds)
        return max(probe.waits)

    def _timed(self, what: str, rounds: int, ask: Callable[[int], object]) -> dict[str, float]:
        took: list[float] = []
        with Probe(self._server.http_port) as probe:
            for index in range(rounds):
                begun = time.perf_counter()
                ask(index)
                took.append((time.perf_counter() - begun) * 1e3)
                time.sleep(0.02)
        return {f"{what}_ms": round(statistics.median(took), 2), f"{what}_stall_ms": round(max(probe.waits), 2)}

    def measure(self, rounds: int) -> dict[str, object]:
        """All of a row but the time to be ready."""
        status = Path(f"/proc/{self._server.process.pid}/status").read_text()
        smaps = Path(f"/proc/{self._server.process.pid}/smaps_rollup").read_text()
        row: dict[str, object] = {
            "threads": int(_field(status, "Threads")),
            "rss_mib": round(_field(status, "VmRSS") / 1024, 1),
            "pss_mib": round(_field(smaps, "Pss") / 1024, 1),
        }
        content = model_file(_ADD_SUB)
        for index in range(rounds):
            _add(self._root, f"late_{index}", content)
        repository = "/v2/repository"
        row |= self._timed("load", rounds, lambda i: self._ask("POST", f"{repository}/models/late_{i}/load"))
        row |= self._timed("unload", rounds, lambda i: self._ask("POST", f"{repository}/models/late_{i}/unload"))
        row |= self._timed("index", rounds, lambda _: self._index())
        row |= self._timed("metrics", rounds, lambda _: self._metrics())
        for index in range(rounds):
            shutil.rmtree(self._root / f"late_{index}")
        return row

    def _index(self) -> None:
        self.models = len(json.loads(self._ask("POST", "/v2/repository/index")))

    def _metrics(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.metrics_port, timeout=60)
        connection.request("GET", "/metrics")
        connection.getresponse().read()
        connection.close()


def _field(text: str, name: str) -> float:
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:"))


def wait_ready(server: Server, begun: float) -> float:
    """Seconds from `begun` until the server is ready; raises when it ends instead."""
    while not server.ready():
        if not server.alive():
            raise RuntimeError(f"the server ended; its log ends:\n{server.log.read_text()[-4000:]}")
        time.sleep(_POLL_S)
    return time.monotonic() - begun


def main() -> None:
    """Starts the server with one number of models after the other, measures, writes the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.e2e.many", description=__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=[1, 1000])
    parser.add_argument("--rounds", type=int, default=30, help="loads, scrapes and so on of each kind (default: 30)")
    parser.add_argument("--out", type=Path, default=Path("bench/results/many"))
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    idle = 0.0
    for count in options.models:
        with tempfile.TemporaryDirectory() as folder:
            root = _repository(Path(folder, "models"), count)
            explicit = ("--model-control-mode=explicit", "--load-model=*")
            begun = time.monotonic()
            server = Server(
                "triton-async", servers.ours_command(root, *explicit), servers.ours_env(), Path(folder, "log")
            )
            try:
                row: dict[str, object] = {"models": count, "ready_s": round(wait_ready(server, begun), 2)}
                row["cpu_s"] = round(cpu_ticks(server.process.pid) * CPU_TICK_US / 1e6, 2)
                bench = Bench(server, root)
                idle = max(idle, bench.idle_ms(1.0))
                row |= bench.measure(options.rounds)
            finally:
                server.stop()
        rows.append(row)
        print(row, flush=True)
    print(report.save("Many models in one server", options.out, _COLUMNS, _KEYS, rows, note=_NOTE.format(idle=idle)))


if __name__ == "__main__":
    main()
