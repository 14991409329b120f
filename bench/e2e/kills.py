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

            def held() -> tuple[int, int]:
                return worker_kills.open_descriptors(server.pid), len(worker_kills.family(server.pid))

            def settle() -> None:
                server.wait_until_idle()
                poll(lambda: len(worker_kills.workers_of(server)) == _WORKERS, "all workers to be there")

            worker_kills.run(server, "echo", 3, options.clients)
            settle()
            time.sleep(_SETTLE_S)  # connections of clients that have gone
            before = held()
            found = worker_kills.run(server, "echo", options.seconds, options.clients)
            away = sorted(found.away_s)
            print(f"{found.kills} workers killed in {options.seconds:g} s")
            print(f"{found.asked} requests: {dict(found.answers)}")
            print(f"a worker was back after {statistics.median(away):.2f} s (median), {away[-1]:.2f} s (longest)")
            settle()
            with contextlib.suppress(AssertionError):
                poll(lambda: held() == before, "nothing to be left")
            print(f"descriptors and processes: {before} before, {held()} afterwards")
            found.wrong += [] if held() == before else ["something is left"]
            server.stop()
    if found.wrong:
        raise SystemExit("\n".join(found.wrong[:10]))


if __name__ == "__main__":
    main()
