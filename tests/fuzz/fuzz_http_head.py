"""Guided fuzzing of the HTTP head parser, the chunk tracker and the scanner of infer headers; see guided.py."""

from __future__ import annotations

import atheris
from guided import run

with atheris.instrument_imports(include=["fuzzing", "fuzzing_head", "triton_async"]):
    from fuzzing import mutate
    from fuzzing_head import check_head, mutate_chunks, mutate_infer, mutate_lines

if __name__ == "__main__":
    run(check_head, "http_head", [mutate, mutate_lines, mutate_chunks, mutate_infer])
