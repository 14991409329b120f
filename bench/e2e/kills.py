"""Kills Python workers at random under load, for minutes: python -m bench.e2e.kills --seconds 300."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[2] / "tests" / "system"


def main() -> None:
    """Prints what became of every request; fails when one had a wrong answer, or anything is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    sys.path.insert(0, str(_TESTS))
    import python_worker_models as models
    import worker_kills
    from server_process import poll, running_server

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        two = "instance_group [{ count: 2 kind: KIND_CPU }]"
        models.add(folder / "models", "echo", models.ECHO, models.config(models.ECHO_IO + two))
        with running_server([folder / "models"], folder) as server:
            worker_kills.run(server, "echo", 3, options.clients)
            before = worker_kills.open_descriptors(server.pid), len(worker_kills.family(server.pid))
            found = worker_kills.run(server, "echo", options.seconds, options.clients)
            server.wait_until_idle()
            poll(lambda: (worker_kills.open_descriptors(server.pid), len(worker_kills.family(server.pid))) == before,
                 "nothing to be left")  # fmt: skip
            server.stop()
    away = sorted(found.away_s)
    print(f"{found.kills} workers killed in {options.seconds:g} s; {found.asked} requests: {dict(found.answers)}")
    print(f"a worker was back after {statistics.median(away):.2f} s (median), {away[-1]:.2f} s (longest)")
    if found.wrong:
        raise SystemExit("\n".join(found.wrong[:10]))


if __name__ == "__main__":
    main()
