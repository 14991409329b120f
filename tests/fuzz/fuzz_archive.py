"""Guided fuzzing of the check of exported programs; see guided.py. No PyTorch sees what is made here."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris
from guided import run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit/backends"))

with atheris.instrument_imports(include=["fuzzing_archive", "triton_async"]):
    from fuzzing_archive import check_archive, mutate_archive, mutate_bytes

if __name__ == "__main__":
    run(check_archive, "archive", [mutate_archive, mutate_bytes])
