"""How to divide the cores: python -m bench.e2e.cores [--seconds 5] [--front-ends 1 2] [--clients 12-15].

Small requests over HTTP beside a model whose engine takes all the cores that it is given: for each division what both
get. `--clients`: cores of the load generators, which the server does not use then; by default the last quarter where
there are four cores and more, and else the server's own, so that figures of few cores compare only with each other.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from triton_async.config.affinity import parse_affinity, ranges

from .load import Requests, require, wrk

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "tests" / "system")]

import front_end_models  # noqa: E402
from server_process import ServerProcess, running_server  # noqa: E402

SMALL, LARGE = "numbers", "products"
ELEMENTS, ROWS, WIDTH, PRODUCTS = 16, 64, 768, 4


def write_large(root: Path) -> None:
    """A few products of matrices: some ten milliseconds of one core, divided among the threads of the engine's pool."""
    names = ["X", *(f"p{number}" for number in range(1, PRODUCTS)), "Y"]
    weights = [numpy_helper.from_array(np.full((WIDTH, WIDTH), 1e-3, np.float32), f"w{n}") for n in range(PRODUCTS)]
    nodes = [helper.make_node("MatMul", [names[n], f"w{n}"], [names[n + 1]]) for n in range(PRODUCTS)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, WIDTH]) for name in ("X", "Y")]
    graph = helper.make_graph(nodes, LARGE, ends[:1], ends[1:], weights)
    folder = root / LARGE / "1"
    folder.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    (root / LARGE / "config.pbtxt").write_text('backend: "onnxruntime"\ninstance_group { count: 2 kind: KIND_CPU }\n')


class LargeClients:
    """So many connections that ask the large model, one request after the other."""

    def __init__(self, server: ServerProcess, count: int) -> None:
        self._url = server.http_url
        self._over = threading.Event()
        self.took_s: list[float] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        head = json.dumps({
            "inputs": [{
                "name": "X", "datatype": "FP32", "shape": [ROWS, WIDTH],
                "parameters": {"binary_data_size": 4 * ROWS * WIDTH},
            }],
            "outputs": [{"name": "Y", "parameters": {"binary_data": True}}],
        }).encode()  # fmt: skip
        body = head + np.ones((ROWS, WIDTH), np.float32).tobytes()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        connection = http.client.HTTPConnection(self._url, timeout=60)
        while not self._over.is_set():
            begun = time.monotonic()
            connection.request("POST", f"/v2/models/{LARGE}/infer", body, headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise SystemExit(answer.read())
            answer.read()
            self.took_s.append(time.monotonic() - begun)
        connection.close()

    def stop(self) -> None:
        """Waits for the last answers."""
        self._over.set()
        for thread in self._threads:
            thread.join()


def measure(server: ServerProcess, folder: Path, options: argparse.Namespace) -> str:
    """Columns of one line: small requests alone, then both."""
    script = Requests(folder, ELEMENTS).http()
    at = SimpleNamespace(http_port=int(server.http_url.rpartition(":")[2]))
    wrk(at, SMALL, script, options.concurrency, 1)  # type: ignore[arg-type]
    alone, alone_s, _, alone_p99 = wrk(at, SMALL, script, options.concurrency, options.seconds)  # type: ignore[arg-type]
    clients = LargeClients(server, options.large)
    time.sleep(0.5)
    clients.took_s.clear()
    answers, took_s, p50, p99 = wrk(at, SMALL, script, options.concurrency, options.seconds)  # type: ignore[arg-type]
    large = list(clients.took_s)
    clients.stop()
    return (
        f"{alone / alone_s:,.0f} | {alone_p99 / 1000:.1f} | {answers / took_s:,.0f} | {p50 / 1000:.1f} | "
        f"{p99 / 1000:.1f} | {len(large) / took_s:.1f} | {statistics.median(large) * 1000:.1f} |"
    )


def divisions(cores: list[int], count: int) -> list[tuple[str, ...]]:
    """Options to compare, for a server of so many front-ends."""
    whole = (f"--cpu-affinity={ranges(cores)}",)
    if len(cores) < 2:
        return [whole]
    found = [whole]
    for front in sorted({count, max(1, len(cores) // 4), len(cores) // 2}):
        if front < len(cores):
            found.append(
                (f"--cpu-affinity=front-ends:{ranges(cores[:front])}", f"--cpu-affinity=models:{ranges(cores[front:])}")
            )
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--front-ends", type=int, nargs="+", default=[1])
    parser.add_argument("--concurrency", type=int, default=16, help="connections with small requests")
    parser.add_argument("--large", type=int, default=2, help="connections with large ones")
    parser.add_argument("--clients", default="")
    options = parser.parse_args()
    require()
    everything = os.sched_getaffinity(0)
    cores, clients = sorted(everything), everything
    if options.clients or len(cores) >= 4:
        clients = set(parse_affinity([options.clients or ranges(cores[-(len(cores) // 4) :])]).models)
        cores = [core for core in cores if core not in clients]
        print(f"load generators on {ranges(clients)}, the server on {ranges(cores)}\n")
    print("| front-ends | division | small/s alone | p99 ms | small/s | p50 ms | p99 ms | large/s | p50 ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        front_end_models.build(folder / "models")
        write_large(folder / "models")
        for count in options.front_ends:
            for division in divisions(cores, count):
                with running_server(
                    [folder / "models"], folder, [f"--frontend-processes={count}", *division]
                ) as server:
                    os.sched_setaffinity(0, clients)
                    told = ", ".join(text.removeprefix("--cpu-affinity=") for text in division)
                    print(f"| {count} | {told} | {measure(server, folder, options)}", flush=True)
                    server.stop()
                    os.sched_setaffinity(0, everything)


if __name__ == "__main__":
    main()
