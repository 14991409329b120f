"""Throughput that perf_analyzer cannot reach: identity models under wrk and h2load: python -m bench.e2e.raw."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.conformance.setup_oracle import prepare

from . import models, report, versus
from .identity import check, identities
from .load import STREAMS, Requests, drive, require
from .perf import Window
from .versus import Point, Subject

_NOTE = f"HTTP: wrk, one connection per request at work. gRPC: h2load, {STREAMS} streams per connection."


def main() -> None:
    """Starts the servers, measures, writes the report."""
    parser = versus.parser("raw", __doc__, [1, 32, 128])
    parser.add_argument("--elements", type=int, default=models.ELEMENTS, help="of FP32 in a request (default: 16)")
    options = parser.parse_args()
    require()
    oracle = prepare()
    with tempfile.TemporaryDirectory() as folder:
        requests = Requests(Path(folder), options.elements)

        def window(subject: Subject, point: Point) -> Window:
            return drive(subject, point, requests, options.seconds)

        with versus.both(oracle, options.only, models.triton_repository, models.our_repository) as running:
            subjects = identities(running)
            check(subjects, options.protocol)
            results = versus.take_turns(subjects, versus.points(options), options.rounds, window)
    title = f"Identity FP32[{options.elements}] under wrk and h2load"
    print(report.save_comparison(title, options.out, results, _NOTE))


if __name__ == "__main__":
    main()
