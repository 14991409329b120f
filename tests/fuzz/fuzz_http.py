"""Guided fuzzing of the HTTP infer codec; see guided.py."""

from __future__ import annotations

import atheris
from guided import run

with atheris.instrument_imports(include=["fuzzing", "triton_async"]):
    from fuzzing import check_http, mutate, mutate_json

if __name__ == "__main__":
    run(check_http, "http", [mutate, mutate_json])
