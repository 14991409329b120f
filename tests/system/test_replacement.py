"""Nothing is lost, and nothing is run twice, when a server takes the place of another one on the same ports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_request_is_answered_while_servers_come_and_go() -> None:
    # The benchmark fails when a request was lost, or run twice.
    run = subprocess.run(
        [sys.executable, "-m", "bench.e2e.replacements", "--times=3"], cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
        capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    answered = [int(count) for count in re.findall(r"'(?:http|grpc)': (\d+)", run.stdout)]
    assert len(answered) == 2 and min(answered) > 100, run.stdout
    counted = re.search(r"of (\d+) that were counted doubled or never run: 0$", run.stdout.strip())
    assert counted is not None and int(counted[1]) > 100, run.stdout
