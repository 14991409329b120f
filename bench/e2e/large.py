"""Tensors of 602 KB, FP32[1,3,224,224], through identity models of both servers: python -m bench.e2e.large."""

from __future__ import annotations

from tests.conformance.setup_oracle import prepare

from . import models, report, versus
from .identity import check, identities
from .perf import Load, Window, measure
from .versus import Point, Subject


def main() -> None:
    """Starts the servers, measures, writes the report."""
    options = versus.parser("large", __doc__, [4]).parse_args()
    oracle = prepare()

    def window(subject: Subject, point: Point) -> Window:
        protocol, concurrency = point
        port, shape = subject.server.port(protocol), f"INPUT0:{models.LARGE_ELEMENTS}"
        return measure(oracle, subject.server, Load(protocol, port, subject.model, concurrency, options.seconds, shape))

    with versus.both(oracle, options.only, models.triton_repository, models.our_repository) as running:
        subjects = identities(running)
        check(subjects, options.protocol)
        results = versus.take_turns(subjects, versus.points(options), options.rounds, window)
    print(report.save_comparison("Identity of 602 KB tensors end to end", options.out, results))


if __name__ == "__main__":
    main()
