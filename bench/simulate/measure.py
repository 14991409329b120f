"""One replica measured: what calibrates the simulation, and what it is compared with."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.e2e import curves_models
from bench.e2e.curves_load import Load, Measured
from tests.conformance import servers
from tests.conformance.servers import Server

from .simulator import Replica, Service

MAX_BATCH = 8
_WIDTH = {"waits": 4, "small": 1024}
# A GPU's shape: most of an execution is the same for any batch. It sleeps, so that a busy machine disturbs it least.
_WAITS = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy() for request in requests]
        time.sleep(0.010 + 0.002 * sum(len(rows) for rows in inputs))
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", rows)]) for rows in inputs]
"""
_CONFIG = """
backend: "{backend}"
max_batch_size: {batch}
input {{ name: "INPUT" data_type: TYPE_FP32 dims: {width} }}
output {{ name: "OUTPUT" data_type: TYPE_FP32 dims: {width} }}
dynamic_batching {{ }}
"""
_ROUNDS = 4
# Standard deviations from the median to p99 of what is spread normally.
_TO_P99 = 2.326
_ONE_THREAD = 'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n'


def _write(root: Path, model: str) -> None:
    (root / model / "1").mkdir(parents=True)
    backend = "python" if model == "waits" else "onnxruntime"
    text = _CONFIG.format(backend=backend, batch=MAX_BATCH, width=_WIDTH[model])
    if model == "waits":
        (root / model / "1" / "model.py").write_text(_WAITS)
    else:
        text += _ONE_THREAD
        (root / model / "1" / "model.onnx").write_bytes(curves_models.small().SerializeToString())
    (root / model / "config.pbtxt").write_text(text)


def _request(model: str, rows: int) -> bytes:
    """Tensors in binary form."""
    data = np.random.default_rng(rows).standard_normal((rows, _WIDTH[model]), dtype=np.float32)
    entry = {"name": "INPUT", "shape": list(data.shape), "datatype": "FP32"}
    entry["parameters"] = {"binary_data_size": data.nbytes}
    text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    body = text + data.tobytes()
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        f"Inference-Header-Content-Length: {len(text)}\r\n\r\n"
    )
    return head.encode() + body


def _closed(port: int, request: bytes, clients: int, seconds: float) -> Measured:
    return Load(port, [request], seconds).closed(clients)


def _open(port: int, request: bytes, per_s: float, seconds: float) -> Measured:
    return Load(port, [request], seconds).open(per_s)


class Subject:
    """A server with one model, and the process that asks it."""

    def __init__(self, server: Server, model: str, pool: ProcessPoolExecutor) -> None:
        self._server, self._model, self._pool = server, model, pool

    def batches(self) -> dict[int, tuple[int, float]]:
        """Executions and seconds in them so far, by the size of their batch."""
        url = f"http://127.0.0.1:{self._server.http_port}/v2/models/{self._model}/stats"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.load(answer)["model_stats"][0]["batch_stats"]
        phases = ("compute_input", "compute_infer", "compute_output")
        return {
            int(one["batch_size"]): (one["compute_infer"]["count"], sum(one[phase]["ns"] for phase in phases) / 1e9)
            for one in found
        }

    def closed(self, rows: int, clients: int, seconds: float) -> Measured:
        """So many clients with requests of so many rows."""
        request = _request(self._model, rows)
        return self._pool.submit(_closed, self._server.http_port, request, clients, seconds).result()

    def open(self, per_s: float, seconds: float) -> tuple[Measured, float]:
        """Arrivals at random of one row each; and the mean size of a batch."""
        before = self.batches()
        request = _request(self._model, 1)
        found = self._pool.submit(_open, self._server.http_port, request, per_s, seconds).result()
        made = _difference(self.batches(), before)
        executions = sum(count for count, _ in made.values())
        return found, sum(size * count for size, (count, _) in made.items()) / max(executions, 1)


def _difference(
    after: dict[int, tuple[int, float]], before: dict[int, tuple[int, float]]
) -> dict[int, tuple[int, float]]:
    found = {}
    for size, (count, seconds) in after.items():
        earlier = before.get(size, (0, 0.0))
        if count > earlier[0]:
            found[size] = count - earlier[0], seconds - earlier[1]
    return found


@contextmanager
def subject(model: str) -> Iterator[tuple[Subject, float]]:
    """A server for a model, and the seconds from its start to its first answer."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, mp_context=context) as pool:
        root = Path(folder) / "models"
        _write(root, model)
        began_s = time.monotonic()
        command, log = servers.ours_command(root), Path(folder) / "log"
        with servers.running("triton-async", command, servers.ours_env(), log) as server:
            start_s = time.monotonic() - began_s
            yield Subject(server, model, pool), start_s


def calibrate(found: Subject, start_s: float, seconds: float) -> Replica:
    """What the simulation needs to know of a replica.

    The time of an execution by batch size is what the server's statistics say while one client at a time sends requests
    of so many rows. What its answers took beyond that is `outside_s`, and their spread, from median to p99, that of
    executions. `gap_s` is what is missing between full executions when more wait than one batch holds. Of several
    rounds the fastest counts: what others do on the machine can only make it slower.
    """
    sizes = sorted({1, 2, MAX_BATCH // 2, MAX_BATCH})
    found.closed(1, 1, 1.0)
    times, outside, spreads = [], [], []
    for size in sizes:
        answers, mean_s = min((_round(found, size, 1, size, seconds) for _ in range(_ROUNDS)), key=_mean_ms)
        times.append(mean_s)
        outside.append(answers.mean_ms / 1e3 - mean_s)
        spreads.append((answers.p99_ms - answers.p50_ms) / 1e3 / _TO_P99 / mean_s)
    rounds = (_round(found, 1, 4 * MAX_BATCH, MAX_BATCH, seconds) for _ in range(_ROUNDS))
    answers, full_s = min(rounds, key=_mean_ms)
    between_s = MAX_BATCH / answers.per_s
    filled = np.interp(np.arange(1, MAX_BATCH + 1), sizes, times)
    service = Service(
        tuple(float(one) for one in filled), float(np.median(spreads)), max(between_s - full_s, 0.0),
        float(np.median(outside)),
    )  # fmt: skip
    return Replica(service, max_batch=MAX_BATCH, start_s=start_s)


def _round(found: Subject, rows: int, clients: int, size: int, seconds: float) -> tuple[Measured, float]:
    """What clients saw, and the mean seconds of an execution of `size` rows meanwhile."""
    before = found.batches()
    answers = found.closed(rows, clients, seconds)
    count, spent_s = _difference(found.batches(), before)[size]
    return answers, spent_s / count


def _mean_ms(one: tuple[Measured, float]) -> float:
    return one[0].mean_ms


def as_json(replica: Replica) -> dict[str, Any]:
    """A calibrated replica to keep."""
    service = replica.service
    return {
        "times_s": [round(one, 6) for one in service.times_s], "spread": round(service.spread, 4),
        "gap_s": round(service.gap_s, 6), "outside_s": round(service.outside_s, 6), "max_batch": replica.max_batch,
        "start_s": round(replica.start_s, 2),
    }  # fmt: skip


def from_json(kept: dict[str, Any]) -> Replica:
    """The same from what was kept."""
    service = Service(tuple(kept["times_s"]), kept["spread"], kept["gap_s"], kept["outside_s"])
    return Replica(service, max_batch=kept["max_batch"], start_s=kept["start_s"])
