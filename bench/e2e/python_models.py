"""Python models against Triton's Python backend, the same model.py files: python -m bench.e2e.python_models.

Identity, 4 MB tensors, three models that call each other, and many responses per request; ours in the server's process
and isolated. CPU is the server's with its worker or stub processes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conformance.servers import Server
from tests.conformance.setup_oracle import Oracle, prepare

from . import python_files as files
from . import report, versus
from .identity import check
from .perf import Load, Window, measure
from .versus import OURS, TRITON, Point, Subject

LARGE_ELEMENTS = 1 << 20
_COLUMNS = ("workload", *report.COLUMNS)
_KEYS = ("workload", *report.COLUMNS.values())
_NOTE = (
    "`infer/s`, `CPU us/infer` and latencies of `1,000 responses` are per response, a request having that many; their "
    "p50 and p99 are those of whole requests. CPU: the server with its workers (Triton: its stubs). Ratios are to "
    "Triton in the same row group."
)


@dataclasses.dataclass(frozen=True)
class Workload:
    """One row group: the model, asked how, at which points."""

    name: str
    model: str
    elements: int
    points: tuple[Point, ...]
    responses: int = 1


def workloads(protocols: list[str], concurrency: list[int]) -> list[Workload]:
    """All of them."""

    def at(levels: list[int]) -> tuple[Point, ...]:
        return tuple((protocol, level) for protocol in protocols for level in levels)

    streams = tuple(("grpc", level) for level in (1, 4)) if "grpc" in protocols else ()
    return [
        Workload("identity FP32[16]", files.IDENTITY, 16, at(concurrency)),
        Workload("identity 4 MB", files.IDENTITY, LARGE_ELEMENTS, at([1, 4])),
        Workload("chain of three", files.CHAIN, 16, at([1, 8])),
        Workload("1,000 responses", files.REPEAT, 0, streams, files.RESPONSES),
    ]


def subjects(running: dict[str, Server], model: str, *, isolated: bool) -> list[Subject]:
    """Triton, ours in process, and ours isolated."""
    found = []
    if TRITON in running:
        found.append(Subject("tritonserver 2.51, Python backend", running[TRITON], model))
    if OURS in running:
        found.append(Subject("triton-async, in process", running[OURS], model))
        if isolated:
            found.append(Subject("triton-async, isolated", running[OURS], f"{model}_isolated"))
    return found


def window(oracle: Oracle, seconds: float, workload: Workload) -> Callable[[Subject, Point], Window]:
    """How a workload is measured."""

    def run(subject: Subject, point: Point) -> Window:
        protocol, concurrency = point
        shape = f"INPUT0:{workload.elements}" if workload.elements else ""
        port = subject.server.port(protocol)
        load = Load(protocol, port, subject.model, concurrency, seconds, shape, streaming=workload.responses > 1)
        got = measure(oracle, subject.server, load)
        factor = workload.responses
        return dataclasses.replace(got, infer_per_s=got.infer_per_s * factor, cpu_us=got.cpu_us / factor)

    return run


def stream_check(subject: Subject) -> None:
    """The decoupled model answers with all its numbers in order; raises where it does not."""
    import queue

    import numpy as np
    from tritonclient import grpc

    answers: queue.Queue[Any] = queue.Queue()
    with grpc.InferenceServerClient(f"127.0.0.1:{subject.server.grpc_port}") as client:
        tensor = grpc.InferInput("INPUT0", [1], "INT32")
        tensor.set_data_from_numpy(np.zeros(1, np.int32))
        client.start_stream(lambda result, error: answers.put(error or int(result.as_numpy("OUTPUT0")[0])))
        client.async_stream_infer(subject.model, [tensor])
        got = [answers.get(timeout=30) for _ in range(files.RESPONSES)]
    if got != list(range(files.RESPONSES)):
        raise RuntimeError(f"{subject.name}: the responses of {subject.model} are not 0, 1, …: {got[:5]}")


def main() -> None:
    """Starts the servers, measures, writes the report."""
    options = _options()
    oracle = prepare()
    rows: list[dict[str, Any]] = []
    chosen = [item for item in workloads(options.protocol, options.concurrency) if options.workload in item.name]
    with versus.both(
        oracle,
        options.only,
        lambda root: files.write(root, isolated=False),
        lambda root: files.write(root, isolated=not options.in_process),
    ) as running:
        for workload in chosen:
            found = subjects(running, workload.model, isolated=not options.in_process)
            if workload.responses == 1:
                check(found, options.protocol)
            else:
                for subject in found:
                    stream_check(subject)
            results = versus.take_turns(
                found, workload.points, options.rounds, window(oracle, options.seconds, workload)
            )
            rows += [{"workload": workload.name, **row} for row in report.medians(results)]
    print(report.save("Python models end to end", options.out, _COLUMNS, _KEYS, rows, note=_NOTE))


def _options() -> argparse.Namespace:
    parser = versus.parser("python_models", __doc__, [1, 8, 32])
    parser.add_argument("--workload", default="", help="only those whose name contains this")
    parser.add_argument("--in-process", action="store_true", help="leave out the isolated models")
    parser.set_defaults(out=Path("bench/results/python-models"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
