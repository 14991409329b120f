"""Guided fuzzing of the JSON reader of all other bodies against Python's own; see guided.py."""

from __future__ import annotations

import atheris
from guided import run

with atheris.instrument_imports(include=["fuzzing", "triton_async"]):
    from fuzzing import check_json, mutate

if __name__ == "__main__":
    run(check_json, "json", [mutate])
