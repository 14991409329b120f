"""Resident memory of the server over 200,000 requests and more: python -m bench.e2e.steady."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.conformance.setup_oracle import prepare

from . import models, report, versus
from .identity import check, identities
from .idle import resident_kb
from .load import Requests, drive, require
from .perf import inference_count

_COLUMNS = ("server", "protocol", "elements", "inferences", "resident MiB", "KiB since the first row of its kind")
_KEYS = ("server", "protocol", "elements", "count", "mib", "grown")
_SMALL, _LARGE = 32, 4


def main() -> None:
    """Drives each server until it has served enough, and looks at its memory now and then."""
    parser = versus.parser("steady", __doc__, [])
    parser.add_argument("--inferences", type=int, default=200_000, help="small ones per protocol (default: 200000)")
    parser.set_defaults(only=versus.OURS, seconds=2.0, rounds=3)
    options = parser.parse_args()
    require()
    oracle = prepare()
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        versus.both(oracle, options.only, models.triton_repository, models.our_repository) as running,
    ):
        subjects = identities(running)
        check(subjects, options.protocol)
        for subject in subjects:
            pid = subject.server.process.pid
            for elements, concurrency in ((models.ELEMENTS, _SMALL), (models.LARGE_ELEMENTS, _LARGE)):
                requests = Requests(Path(folder), elements)
                wanted = options.inferences if elements == models.ELEMENTS else 0
                for protocol in options.protocol:
                    start, base, rounds, count = inference_count(subject.server, subject.model), 0.0, 0, 0
                    while rounds < options.rounds or count < wanted:
                        drive(subject, (protocol, concurrency), requests, options.seconds)
                        rounds += 1
                        count = inference_count(subject.server, subject.model) - start
                        resident = resident_kb(pid)
                        base = base or resident
                        row = {
                            "server": subject.name, "protocol": protocol, "elements": elements, "count": count,
                            "mib": round(resident / 1024, 1), "grown": round(resident - base),
                        }  # fmt: skip
                        rows.append(row)
                        print(*row.values(), flush=True)
    print(report.save("Memory over many requests", options.out, _COLUMNS, _KEYS, rows))


if __name__ == "__main__":
    main()
