"""Guided fuzzing of the gRPC infer codec against protobuf; see guided.py."""

from __future__ import annotations

import atheris
from guided import run

with atheris.instrument_imports(include=["fuzzing", "triton_async"]):
    from fuzzing import check_grpc, mutate

if __name__ == "__main__":
    run(check_grpc, "grpc", [mutate])
