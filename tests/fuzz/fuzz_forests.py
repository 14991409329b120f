"""Guided fuzzing of the readers of forests, and of the forests that come of it; see guided.py."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris
from guided import run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit/backends"))

with atheris.instrument_imports(include=["fuzzing_forests", "triton_async"]):
    from fuzzing_forests import MUTATORS, check_forest

if __name__ == "__main__":
    run(check_forest, "forests", list(MUTATORS))
