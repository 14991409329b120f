"""A light ONNX model beside a heavy Python model, in process and isolated: python -m bench.e2e.python_beside.

The heavy model runs some 50 ms of pure Python per request and always has one; what the light one's clients notice.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.models import Model, Tensor, write_repository
from tests.conformance.servers import Server
from tests.conformance.setup_oracle import prepare

from . import python_files as files
from . import report, versus
from .perf import Load, Window, measure
from .versus import OURS, Point, Subject

LIGHT = Model(
    files.LIGHT,
    tuple(Tensor(name, "FP32", (16,)) for name in ("INPUT0", "INPUT1")),
    tuple(Tensor(name, "FP32", (16,)) for name in ("OUTPUT0", "OUTPUT1")),
    (("add", "INPUT0", "INPUT1"), ("sub", "INPUT0", "INPUT1")),
    8,
)
_ALONE, _IN_PROCESS, _ISOLATED = "alone", "beside one in process", "beside an isolated one"
_HEAVY = {_ALONE: "", _IN_PROCESS: files.HEAVY, _ISOLATED: files.HEAVY_ISOLATED}
BODY = json.dumps({"inputs": [{"name": "INPUT0", "shape": [1, 16], "datatype": "FP32", "data": [1.0] * 16}]})
_NOTE = (
    "The light model is add_sub on ONNX Runtime, FP32[16]. CPU is the whole server's, the heavy model included, so it "
    "says nothing of the light one."
)


@contextlib.contextmanager
def kept_busy(server: Server, model: str) -> Iterator[None]:
    """One request of `model` after the other inside the block; none for "". Raises when one fails."""
    stop = threading.Event()
    failures: list[str] = []

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
        while not stop.is_set() and not failures:
            connection.request("POST", f"/v2/models/{model}/infer", BODY)
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                failures.append(text.decode())
        connection.close()

    thread = threading.Thread(target=ask)
    if model:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if model:
            thread.join()
    if failures:
        raise RuntimeError(f"{model}: {failures[0]}")


def main() -> None:
    """Starts the server, measures, writes the report."""
    parser = versus.parser("python_beside", __doc__, [1, 4])
    parser.add_argument("--in-process", action="store_true", help="leave out the isolated models")
    parser.set_defaults(out=Path("bench/results/python-beside"))
    options = parser.parse_args()
    oracle = prepare()

    def write(root: Path) -> Path:
        files.write(root, isolated=not options.in_process)
        return write_repository(root, (LIGHT,), "onnx")

    def window(subject: Subject, point: Point) -> Window:
        protocol, concurrency = point
        load = Load(protocol, subject.server.port(protocol), files.LIGHT, concurrency, options.seconds)
        with kept_busy(subject.server, subject.model):
            return measure(oracle, subject.server, load)

    beside = {name: model for name, model in _HEAVY.items() if name != _ISOLATED or not options.in_process}
    with versus.both(oracle, OURS, write, write) as running:
        subjects = [Subject(f"light model {name}", running[OURS], model) for name, model in beside.items()]
        results = versus.take_turns(subjects, versus.points(options), options.rounds, window)
    print(report.save_comparison("A light model beside a heavy Python model", options.out, results, _NOTE))


if __name__ == "__main__":
    main()
