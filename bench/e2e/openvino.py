"""What the server costs beside OpenVINO's own asynchronous loop on ResNet-18: python -m bench.e2e.openvino.

The loop is OpenVINO's AsyncInferQueue with as many requests as the model has instances, always full. The server runs
the same file with the same hints, kept busy by perf_analyzer in shared memory; both take turns. Ratios are over the
loop beside them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from tests.conformance import servers
from tests.conformance.servers import Server
from tests.conformance.setup_oracle import Oracle, prepare

from . import report
from .perf import Load, Window, measure
from .resnet import CLASSES, INPUT, INPUT_SHAPE, OUTPUT, resnet18

MODEL = "resnet18"
_COLUMNS = (
    "way", "concurrency", "infer/s", "p50 us", "p99 us", "CPU us/infer", "rate of the loop's", "CPU of the loop's",
)
_KEYS = ("way", "concurrency", "infer_per_s", "p50_us", "p99_us", "cpu_us", "ratio", "cpu_ratio")
_LOOP = "AsyncInferQueue"
_CONFIG = """name: "{model}"
backend: "openvino"
max_batch_size: 0
input {{ name: "{input}" data_type: TYPE_FP32 dims: [ {dims} ] }}
output {{ name: "{output}" data_type: TYPE_FP32 dims: [ 1, {classes} ] }}
instance_group {{ count: {instances} kind: KIND_CPU }}
parameters {{ key: "INFERENCE_PRECISION" value {{ string_value: "f32" }} }}
parameters {{ key: "PERFORMANCE_HINT" value {{ string_value: "THROUGHPUT" }} }}
parameters {{ key: "INFERENCE_NUM_THREADS" value {{ string_value: "{threads}" }} }}
"""

# (way, concurrency) -> windows of all rounds
Results = dict[tuple[str, int], list[Window]]


def _repository(root: Path, model: bytes, options: argparse.Namespace) -> Path:
    folder = root / MODEL
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(model)
    text = _CONFIG.format(
        model=MODEL, input=INPUT, dims=", ".join(map(str, INPUT_SHAPE)), output=OUTPUT, classes=CLASSES,
        instances=options.instances, threads=options.threads,
    )  # fmt: skip
    (folder / "config.pbtxt").write_text(text)
    return root


def _loop(compiled: Any, options: argparse.Namespace) -> Window:
    """The loop without a server."""
    queue = ov.AsyncInferQueue(compiled, options.instances)
    feed = {0: np.random.default_rng(0).standard_normal(INPUT_SHAPE, dtype=np.float32)}
    took: list[float] = []
    queue.set_callback(lambda request, start: took.append((time.perf_counter() - start) * 1e6))
    cpu, begin = time.process_time(), time.perf_counter()
    while time.perf_counter() - begin < options.seconds:
        queue.start_async(feed, time.perf_counter())
    queue.wait_all()
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    cuts = statistics.quantiles(took, n=100)
    return Window(len(took) / seconds, cuts[49], cuts[98], cpu * 1e6 / len(took))


def _run(oracle: Oracle, server: Server, compiled: Any, options: argparse.Namespace) -> Results:
    results: Results = {}
    for _ in range(options.rounds):
        results.setdefault((_LOOP, options.instances), []).append(_loop(compiled, options))
        for protocol in options.protocol:
            load = Load(protocol, server.port(protocol), MODEL, options.concurrency, options.seconds,
                        shared_nbytes=4 * CLASSES)  # fmt: skip
            window = measure(oracle, server, load)
            results.setdefault((f"server, {protocol}", options.concurrency), []).append(window)
            print(f"{protocol}: {window.infer_per_s:.1f} infer/s", flush=True)
    return results


def _rows(results: Results) -> list[dict[str, object]]:
    """Medians; ratios are the median over rounds of the rate over that of the loop beside it."""
    rows: list[dict[str, object]] = []
    loop = next(windows for (way, _), windows in results.items() if way == _LOOP)
    for (way, concurrency), windows in results.items():
        row: dict[str, object] = {"way": way, "concurrency": concurrency}
        for field in ("infer_per_s", "p50_us", "p99_us", "cpu_us"):
            row[field] = round(statistics.median(getattr(window, field) for window in windows), 1)
        ratios = [window.infer_per_s / base.infer_per_s for base, window in zip(loop, windows, strict=True)]
        row["ratio"] = round(statistics.median(ratios), 3)
        ratios = [window.cpu_us / base.cpu_us for base, window in zip(loop, windows, strict=True)]
        row["cpu_ratio"] = round(statistics.median(ratios), 3)
        rows.append(row)
    return rows


def main() -> None:
    """Starts the server, measures in turns, writes the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.e2e.openvino", description=__doc__)
    parser.add_argument("--protocol", choices=("http", "grpc"), nargs="+", default=["http", "grpc"])
    parser.add_argument("--instances", type=int, default=1, help="of the model, and requests of the loop")
    parser.add_argument("--threads", type=int, default=1, help="of OpenVINO on both sides (default: 1)")
    parser.add_argument("--concurrency", type=int, default=2, help="of perf_analyzer")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results/openvino"))
    options = parser.parse_args()
    oracle = prepare()
    with tempfile.TemporaryDirectory() as work:
        repository = _repository(Path(work) / "models", resnet18().SerializeToString(), options)
        compiled = ov.Core().compile_model(
            str(repository / MODEL / "1" / "model.onnx"), "CPU",
            {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT",
             "PERFORMANCE_HINT_NUM_REQUESTS": options.instances, "INFERENCE_NUM_THREADS": options.threads},
        )  # fmt: skip
        command = servers.ours_command(repository, "--allow-client-shm=true")
        with servers.running("triton-async", command, servers.ours_env(), Path(work) / "log") as server:
            results = _run(oracle, server, compiled, options)
    rows = _rows(results)
    title = "The server beside OpenVINO's own loop, ResNet-18 at batch 1"
    print(report.save(title, options.out, _COLUMNS, _KEYS, rows))


if __name__ == "__main__":
    main()
