"""Tensors of 4 MB in system shared memory and in request bodies, both servers: python -m bench.e2e.shm."""

from __future__ import annotations

from dataclasses import replace

from tests.conformance.setup_oracle import prepare

from . import models, report, versus
from .identity import check, identities
from .perf import Load, Window, measure
from .versus import Point, Subject

ELEMENTS = 1 << 20
NBYTES = 4 * ELEMENTS
SHARED = ", shared memory"


def main() -> None:
    """Starts the servers, measures, writes the report."""
    options = versus.parser("shm", __doc__, [4]).parse_args()
    oracle = prepare()

    def window(subject: Subject, point: Point) -> Window:
        protocol, concurrency = point
        load = Load(
            protocol, subject.server.port(protocol), subject.model, concurrency, options.seconds,
            f"INPUT0:{ELEMENTS}", NBYTES if subject.name.endswith(SHARED) else 0,
        )  # fmt: skip
        return measure(oracle, subject.server, load)

    flags = ["--allow-client-shm=true"]
    with versus.both(oracle, options.only, models.triton_repository, models.our_repository, flags) as running:
        plain = identities(running)
        check(plain, options.protocol)
        subjects = [made for one in plain for made in (replace(one, name=one.name + SHARED), one)]
        results = versus.take_turns(subjects, versus.points(options), options.rounds, window)
    title = "Identity of 4 MB tensors, in system shared memory and in bodies"
    print(report.save_comparison(title, options.out, results))


if __name__ == "__main__":
    main()
