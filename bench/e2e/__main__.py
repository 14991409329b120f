"""Compares triton-async with the real tritonserver on an identity model: python -m bench.e2e."""

from __future__ import annotations

from tests.conformance.setup_oracle import prepare

from . import models, report, versus
from .identity import check, identities
from .perf import Load, Window, measure
from .versus import Point, Subject


def main() -> None:
    """Starts the servers, measures, writes the report."""
    options = versus.parser("", __doc__, [1, 8, 32]).parse_args()
    oracle = prepare()

    def window(subject: Subject, point: Point) -> Window:
        protocol, concurrency = point
        shape = f"INPUT0:{models.ELEMENTS}"
        port = subject.server.port(protocol)
        return measure(oracle, subject.server, Load(protocol, port, subject.model, concurrency, options.seconds, shape))

    with versus.both(oracle, options.only, models.triton_repository, models.our_repository) as running:
        subjects = identities(running)
        check(subjects, options.protocol)
        results = versus.take_turns(subjects, versus.points(options), options.rounds, window)
    print(report.save_comparison("Identity FP32[16] end to end", options.out, results))


if __name__ == "__main__":
    main()
