"""What the server adds to ONNX Runtime on ResNet-18 at batch 1: python -m bench.e2e.overhead.

A bare loop over the session and the server with the same thread settings take turns; perf_analyzer
keeps the server busy, so its throughput is to be that of the bare loop.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

from tests.conformance import servers
from tests.conformance.servers import Server
from tests.conformance.setup_oracle import Oracle, prepare

from . import report
from .perf import Load, Window, measure
from .resnet import CLASSES, INPUT, INPUT_SHAPE, OUTPUT, resnet18

MODEL = "resnet18"
BARE = "bare ONNX Runtime loop"
_COLUMNS = ("way", "concurrency", "infer/s", "p50 us", "p99 us", "server CPU us/infer", "overhead %")
_KEYS = ("way", "concurrency", "infer_per_s", "p50_us", "p99_us", "cpu_us", "overhead")
_CONFIG = """name: "{model}"
backend: "onnxruntime"
max_batch_size: 0
input {{ name: "{input}" data_type: TYPE_FP32 dims: [ {dims} ] }}
output {{ name: "{output}" data_type: TYPE_FP32 dims: [ 1, {classes} ] }}
instance_group {{ count: 1 kind: KIND_CPU }}
parameters {{ key: "intra_op_thread_count" value {{ string_value: "{threads}" }} }}
parameters {{ key: "inter_op_thread_count" value {{ string_value: "1" }} }}
"""

# (way, concurrency) -> windows of all rounds
Results = dict[tuple[str, int], list[Window]]


def _repository(root: Path, model: bytes, threads: int) -> Path:
    folder = root / MODEL
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(model)
    text = _CONFIG.format(
        model=MODEL,
        input=INPUT,
        dims=", ".join(map(str, INPUT_SHAPE)),
        output=OUTPUT,
        classes=CLASSES,
        threads=threads,
    )
    (folder / "config.pbtxt").write_text(text)
    return root


def _session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _bare(session: onnxruntime.InferenceSession, seconds: float) -> Window:
    """The loop without a server, for this long."""
    feed = {INPUT: np.random.default_rng(0).standard_normal(INPUT_SHAPE, dtype=np.float32)}
    took: list[float] = []
    cpu = time.process_time()
    start = time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        session.run(None, feed)
        took.append((time.perf_counter() - now) * 1e6)
    cpu = time.process_time() - cpu
    cuts = statistics.quantiles(took, n=100)
    return Window(len(took) / (time.perf_counter() - start), cuts[49], cuts[98], cpu * 1e6 / len(took))


def _run(oracle: Oracle, server: Server, session: onnxruntime.InferenceSession, options: argparse.Namespace) -> Results:
    results: Results = {}
    for _ in range(options.rounds):
        results.setdefault((BARE, 1), []).append(_bare(session, options.seconds))
        for protocol in options.protocol:
            for concurrency in options.concurrency:
                load = Load(protocol, server.port(protocol), MODEL, concurrency, options.seconds)
                window = measure(oracle, server, load)
                results.setdefault((f"server, {protocol}", concurrency), []).append(window)
                print(f"{protocol} {concurrency}: {window.infer_per_s:.1f} infer/s", flush=True)
    return results


def _rows(results: Results) -> list[dict[str, object]]:
    """Medians; overhead is the median over rounds of the time per inference over the bare loop's."""
    rows: list[dict[str, object]] = []
    bare = results[BARE, 1]
    for (way, concurrency), windows in results.items():
        row: dict[str, object] = {"way": way, "concurrency": concurrency}
        for field in ("infer_per_s", "p50_us", "p99_us", "cpu_us"):
            row[field] = round(statistics.median(getattr(window, field) for window in windows), 1)
        ratios = [base.infer_per_s / window.infer_per_s for base, window in zip(bare, windows, strict=True)]
        row["overhead"] = round((statistics.median(ratios) - 1) * 100, 2)
        rows.append(row)
    return rows


def main() -> None:
    """Starts the server, measures in turns, writes the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.e2e.overhead", description=__doc__)
    parser.add_argument("--protocol", choices=("http", "grpc"), nargs="+", default=["http", "grpc"])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--threads", type=int, default=1, help="intra-op threads of both sides (default: 1)")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results/overhead"))
    options = parser.parse_args()
    oracle = prepare()
    model = resnet18().SerializeToString()
    with tempfile.TemporaryDirectory() as work:
        command = servers.ours_command(_repository(Path(work) / "models", model, options.threads))
        with servers.running("triton-async", command, servers.ours_env(), Path(work) / "log") as server:
            results = _run(oracle, server, _session(model, options.threads), options)
    rows = _rows(results)
    print(report.save("Overhead over ONNX Runtime on ResNet-18, batch 1", options.out, _COLUMNS, _KEYS, rows))


if __name__ == "__main__":
    main()
