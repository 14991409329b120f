"""Guided fuzzing of the HTTP/2 session: any bytes, in any pieces, while it answers; see guided.py."""

from __future__ import annotations

import atheris
from guided import run

with atheris.instrument_imports(include=["fuzzing", "fuzzing_http2", "triton_async"]):
    from fuzzing import mutate
    from fuzzing_http2 import check_http2, mutate_frames

if __name__ == "__main__":
    run(check_http2, "http2", [mutate, mutate_frames, mutate_frames])
