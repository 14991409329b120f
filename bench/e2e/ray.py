"""Deployments of Ray Serve: ours, and plain Python ones of the same models: build/ray-venv/bin/python -m bench.e2e.ray.

Needs Ray (make ray installs it there). A cluster of two nodes on this machine, one HTTP proxy; clients that ask again
at once, from a process of their own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from . import curves_models, report
from .curves_load import Load, Measured

_COLUMNS = ("model", "deployment", "replicas", "clients", "requests/s", "p50 ms", "p99 ms", "÷ plain", "÷ 1 replica")
_KEYS = ("model", "name", "replicas", "clients", "per_s", "p50_ms", "p99_ms", "to_plain", "to_one")
_NOTE = (
    "`waits`: 20 ms for an execution, however many rows it has, as a GPU would; `heavy`: 200 ms, for four rows at "
    "most, so that replicas are what is waited for, and neither the proxy nor a processor; `small`: four dense layers "
    "of 1024 in ONNX Runtime, on one thread; `identity`: nothing, which leaves Ray's own cost. `plain`: the "
    "deployment that Ray's documentation begins with, a class whose `__call__` reads JSON and runs the model; `plain, "
    "batched`: with `serve.batch`. All through Ray's HTTP proxy, with its access log off. Of several windows the best "
    "counts: what others do on the machine can only make it slower. With two processors the proxy, the replicas and "
    "the clients share them: where no model waits, the proxy is what is measured."
)
_DEPLOYMENTS = ("plain", "plain, batched", "ours")
_DELAYS_S = {"waits": 0.02, "heavy": 0.2}
_BATCHES = {"heavy": 4}
_BATCH = 16
_SMALL_WIDTH = 1024
_WAITS = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep({delay_s})
        return [pb_utils.InferenceResponse([pb_utils.Tensor(
            "OUTPUT", pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy())]) for request in requests]
"""
_CONFIG = """
backend: "{backend}"
max_batch_size: {batch}
input {{ name: "INPUT" data_type: TYPE_FP32 dims: {width} }}
output {{ name: "OUTPUT" data_type: TYPE_FP32 dims: {width} }}
dynamic_batching {{ }}
"""


def _write(root: Path) -> None:
    engines = {"waits": "python", "heavy": "python", "identity": "identity", "small": "onnxruntime"}
    for name, backend in engines.items():
        width = _SMALL_WIDTH if name == "small" else 4
        (root / name / "1").mkdir(parents=True)
        text = _CONFIG.format(backend=backend, batch=_BATCHES.get(name, _BATCH), width=width)
        if name == "small":
            text += 'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n'
        (root / name / "config.pbtxt").write_text(text)
    for name, delay_s in _DELAYS_S.items():
        (root / name / "1" / "model.py").write_text(_WAITS.format(delay_s=delay_s))
    (root / "small" / "1" / "model.onnx").write_bytes(curves_models.small().SerializeToString())


def _runner(model: str, root: str) -> Callable[[np.ndarray], np.ndarray]:
    """Rows to rows."""
    import time

    if model == "identity":
        return lambda rows: rows
    if model in _DELAYS_S:
        delay_s = _DELAYS_S[model]

        def wait(rows: np.ndarray) -> np.ndarray:
            time.sleep(delay_s)
            return rows

        return wait
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(f"{root}/small/1/model.onnx", options)
    return lambda rows: session.run(None, {"INPUT": rows})[0]


def _plain(model: str, root: str, replicas: int, batched: bool) -> Any:
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import JSONResponse

    class Plain:
        def __init__(self) -> None:
            self._run = _runner(model, root)

        def _answer(self, row: np.ndarray) -> JSONResponse:
            output = {"name": "OUTPUT", "shape": [1, len(row)], "datatype": "FP32", "data": row.tolist()}
            return JSONResponse({"outputs": [output]})

        async def __call__(self, request: Request) -> JSONResponse:
            entry = (await request.json())["inputs"][0]
            rows = np.asarray(entry["data"], np.float32).reshape(entry["shape"])
            return self._answer(self._run(rows)[0])

    class Batched(Plain):
        @serve.batch(max_batch_size=_BATCHES.get(model, _BATCH), batch_wait_timeout_s=0)
        async def _several(self, several: list[np.ndarray]) -> list[np.ndarray]:
            return list(self._run(np.stack(several)))

        async def __call__(self, request: Request) -> JSONResponse:
            entry = (await request.json())["inputs"][0]
            return self._answer(await self._several(np.asarray(entry["data"], np.float32)))

    made = serve.deployment(
        Batched if batched else Plain, num_replicas=replicas, max_ongoing_requests=256,
        ray_actor_options={"num_cpus": 0.5}, logging_config={"enable_access_log": False},
    )  # fmt: skip
    return made.bind()


def _ours(model: str, root: str, replicas: int) -> Any:
    import triton_async.ray

    return triton_async.ray.deployment(
        repository=root, model=model, num_replicas=replicas, options={"log-info": False},
        ray_actor_options={"num_cpus": 0.5}, logging_config={"enable_access_log": False},
    )  # fmt: skip


def _request(model: str, path: str) -> bytes:
    width = _SMALL_WIDTH if model == "small" else 4
    data = np.random.default_rng(5).standard_normal(width).round(4).tolist()
    entry = {"name": "INPUT", "shape": [1, width], "datatype": "FP32", "data": data}
    body = json.dumps({"inputs": [entry]}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _drive(port: int, request: bytes, clients: int, seconds: float) -> Measured:
    return Load(port, [request], seconds).closed(clients)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class _Runs:
    def __init__(self, port: int, root: str, pool: ProcessPoolExecutor, options: argparse.Namespace) -> None:
        self._port, self._root, self._pool, self._options = port, root, pool, options
        self.rows: list[dict[str, Any]] = []

    def measure(self, model: str, name: str, replicas: int) -> None:
        """One deployment, warmed up first."""
        from ray import serve

        if name == "ours":
            application, path = _ours(model, self._root, replicas), f"/v2/models/{model}/infer"
        else:
            application, path = _plain(model, self._root, replicas, name != "plain"), "/"
        serve.run(application)
        request = _request(model, path)
        self._pool.submit(_drive, self._port, request, 8, 4.0).result()
        for clients in self._options.clients:
            found = [
                self._pool.submit(_drive, self._port, request, clients, self._options.seconds).result()
                for _ in range(self._options.rounds)
            ]
            best = max(found, key=lambda one: one.per_s)
            row = {
                "model": model, "name": name, "replicas": replicas, "clients": clients, "per_s": round(best.per_s, 1),
                "p50_ms": round(best.p50_ms, 1), "p99_ms": round(best.p99_ms, 1),
            }  # fmt: skip
            self._compare(row)
            self.rows.append(row)
            print(*row.values(), flush=True)
        serve.delete("default")

    def _compare(self, row: dict[str, Any]) -> None:
        def rate(name: str, replicas: int) -> float:
            same = [one["per_s"] for one in self.rows
                    if (one["model"], one["clients"], one["name"], one["replicas"])
                    == (row["model"], row["clients"], name, replicas)]  # fmt: skip
            return float(same[0]) if same else 0.0

        plain, one = rate("plain", row["replicas"]), rate(row["name"], 1)
        row["to_plain"] = f"{row['per_s'] / plain:.2f}" if plain else ""
        row["to_one"] = f"{row['per_s'] / one:.2f}" if one and row["replicas"] > 1 else ""


def main() -> None:
    """Starts the cluster, measures, stops it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each window")
    parser.add_argument("--rounds", type=int, default=4, help="windows, of which the best one counts")
    parser.add_argument("--clients", type=int, nargs="+", default=[32])
    parser.add_argument("--models", nargs="+", default=["waits", "heavy", "small", "identity"])
    parser.add_argument("--deployments", nargs="+", choices=_DEPLOYMENTS, default=list(_DEPLOYMENTS))
    parser.add_argument("--out", type=Path, default=Path("bench/results/ray"))
    options = parser.parse_args()
    os.environ["RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING"] = "0"
    os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=2, object_store_memory=80 << 20)
    cluster.wait_for_nodes()
    context = multiprocessing.get_context("spawn")
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        port = _free_port()
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, mp_context=context) as pool:
            _write(Path(folder))
            runs = _Runs(port, folder, pool, options)
            for model in options.models:
                for name in options.deployments:
                    for replicas in (1, 2) if model in _DELAYS_S else (1,):
                        runs.measure(model, name, replicas)
        serve.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()
    print(report.save("Ray Serve", options.out, _COLUMNS, _KEYS, runs.rows, note=_NOTE))


if __name__ == "__main__":
    main()
