"""add_sub FP32[16]: our ONNX Runtime backend and the real server's Python backend: python -m bench.e2e.add_sub."""

from __future__ import annotations

from tests.conformance.servers import Server
from tests.conformance.setup_oracle import prepare

from . import models, report, versus
from .echo import add_sub_check
from .perf import Load, Window, measure
from .versus import OURS, TRITON, Point, Subject

_NOTE = (
    "The wheel of the real server has no ONNX Runtime backend. Measured elsewhere on 2 cores, with that backend in "
    "C++, concurrency 32: 10,600 infer/s over HTTP, 15,000 over gRPC."
)


def _subjects(running: dict[str, Server]) -> list[Subject]:
    names = {TRITON: "tritonserver 2.51, Python backend", OURS: "triton-async, ONNX Runtime"}
    return [Subject(names[key], server, models.ADD_SUB) for key, server in running.items()]


def main() -> None:
    """Starts the servers, measures, writes the report."""
    options = versus.parser("add_sub", __doc__, [32]).parse_args()
    oracle = prepare()

    def window(subject: Subject, point: Point) -> Window:
        protocol, concurrency = point
        load = Load(protocol, subject.server.port(protocol), subject.model, concurrency, options.seconds)
        return measure(oracle, subject.server, load)

    with versus.both(oracle, options.only, models.triton_repository, models.our_repository) as running:
        subjects = _subjects(running)
        for protocol in options.protocol:
            for subject in subjects:
                add_sub_check(protocol, subject.server.port(protocol), subject.model)
        results = versus.take_turns(subjects, versus.points(options), options.rounds, window)
    print(report.save_comparison("add_sub FP32[16] end to end", options.out, results, _NOTE))


if __name__ == "__main__":
    main()
