"""Three times the requests that a model can answer: every one of them ends as its rule says, in bounded memory.

How many are answered in time is for the benchmark to say, on a machine that does nothing else.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = 7
EACH = 400
OUTCOMES = {
    "grpc queue size": {"UNAVAILABLE"}, "grpc queue timeout": {"UNAVAILABLE"},
    "grpc client deadlines alone": {"DEADLINE_EXCEEDED"}, "grpc memory alone": {"RESOURCE_EXHAUSTED"},
    "http queue size": {"503"}, "http queue timeout": {"503"}, "http memory alone": {"503"},
}  # fmt: skip
# MiB: far above the budget of 1 that the benchmark gives, below all that is sent beyond it on a longer run.
HELD_MIB = 64


@pytest.mark.skipif(not (ROOT / "bench").exists(), reason="only the package is here")
def test_every_request_comes_to_its_end(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "bench.e2e.overload", f"--requests={ROWS * EACH}", "--seconds=1", f"--out={tmp_path}/r"],
        cwd=ROOT, env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
        capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    rows = [ast.literal_eval(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == ROWS, run.stderr[-2000:]
    for row in rows:
        found = {name: int(count) for name, count in (entry.rsplit(" ", 1) for entry in row["outcomes"].split(", "))}
        assert sum(found.values()) == EACH, row
        assert set(found) <= {"good", "late", *OUTCOMES[f"{row['protocol']} {row['rule']}"]}, row
        assert found.get("good", 0) + found.get("late", 0) > 0, row
        assert row["held_mib"] <= HELD_MIB, row
