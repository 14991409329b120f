"""What the harnesses share: atheris with our mutators, starting from the seeds of the seeded tests.

Not part of CI. atheris has to be installed by hand; a harness takes libFuzzer's options, for example
`python tests/fuzz/fuzz_http.py -max_total_time=600 -rss_limit_mb=1024`.
"""

from __future__ import annotations

import random
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit/protocol"))

Mutate = Callable[[random.Random, list[bytes]], bytes]


def run(check: Callable[[bytes], str], seeds: list[bytes], mutators: list[Mutate]) -> None:
    """Fuzzes `check` until libFuzzer's options say stop; an exception is a finding and leaves its input behind."""

    def one_input(data: bytes) -> None:
        check(data)

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        choose = random.Random(seed)
        if choose.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        try:
            return choose.choice(mutators)(choose, [data, *seeds])[:max_size]
        except (ValueError, TypeError, RecursionError, struct.error):  # no JSON object any more
            return bytes(atheris.Mutate(data, max_size))

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / f"seed{number}").write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], one_input, custom_mutator=mutated)
        atheris.Fuzz()
