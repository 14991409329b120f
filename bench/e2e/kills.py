"""Kills Python workers, or model processes, at random under load, for minutes: python -m bench.e2e.kills --seconds 300.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

from .holds import HEAD, holds

_WORKERS = 2
_SETTLE_S = 2.0
_TESTS = Path(__file__).resolve().parents[2] / "tests" / "system"


def main() -> None:
    """Prints what became of every request; fails when one had a wrong answer, or anything is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--model-processes", action="store_true", help="of which each has an instance of the model")
    options = parser.parse_args()
    sys.path.insert(0, str(_TESTS))
    import python_worker_models as models
    import worker_kills
    from server_process import poll, running_server

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = models.config(f"{models.ECHO_IO}instance_group [{{ count: {_WORKERS} kind: KIND_CPU }}]")
        flags = []
        if options.model_processes:
            config = config.replace('"ISOLATION"', '"MODEL_PROCESS"').replace('"process"', '"spread"')
            flags = [f"--model-processes={_WORKERS}"]
        models.add(folder / "models", "echo", models.ECHO, config)
        with running_server([folder / "models"], folder, flags) as server:

            def settle() -> None:
                server.wait_until_idle()
                poll(lambda: len(worker_kills.workers_of(server)) == _WORKERS, "all workers to be there")

            worker_kills.run(server, "echo", 3, options.clients)
            settle()
            time.sleep(_SETTLE_S)  # connections of clients that have gone
            before = holds(server.pid)
            found = worker_kills.Outcome()
            rows = [before.row("before")]
            for when in ("half way", "afterwards"):
                found.add(worker_kills.run(server, "echo", options.seconds / 2, options.clients))
                settle()
                with contextlib.suppress(AssertionError):
                    poll(lambda: holds(server.pid).same_as(before), "nothing to be left")
                after = holds(server.pid)
                rows.append(after.row(when))
            away = sorted(found.away_s)
            print(f"{found.kills} workers killed in {options.seconds:g} s")
            print(f"{found.asked} requests: {dict(found.answers)}")
            print(
                f"a worker was back after {statistics.median(away):.2f} s (median), {away[-1]:.2f} s (longest); "
                f"{sum(one > 1 for one in away)} took more than a second"
            )
            print(HEAD, *rows, sep="\n")
            found.wrong += [] if after.same_as(before) else ["something is left"]
            server.stop()
    if found.wrong:
        raise SystemExit("\n".join(found.wrong[:10]))


if __name__ == "__main__":
    main()
