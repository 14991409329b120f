"""What the harnesses share: atheris with our mutators, starting from the inputs in corpus/.

Not part of CI. atheris has to be installed by hand; a harness takes libFuzzer's options, for example
`python tests/fuzz/fuzz_http.py -max_total_time=600 -rss_limit_mb=1024`. The compiled modules guide it when they were
built with `CFLAGS=-fsanitize-coverage=trace-pc,trace-cmp`; otherwise the checks in Python alone do. Such a build
cannot be imported without this module, which has to come first.
"""

from __future__ import annotations

import ctypes
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "unit/protocol"), str(HERE.parent)]

Mutate = Callable[[random.Random, list[bytes]], bytes]


def _cover() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "coverage.so"
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", HERE / "coverage.c", "-o", library], check=True)
        found = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    fuzzer = ctypes.CDLL(str(next(Path(atheris.__file__).parent.glob("core_with_libfuzzer.*.so"))))
    found.start(ctypes.c_void_p(fuzzer._handle))
    return found


_coverage = _cover()


def run(check: Callable[[bytes], str], target: str, mutators: list[Mutate]) -> None:
    """Fuzzes `check` until libFuzzer's options say stop; an exception is a finding and leaves its input behind."""
    folder = HERE / "corpus" / target
    seeds = [path.read_bytes() for path in sorted(folder.iterdir())]

    def one_input(data: bytes) -> None:
        check(data)

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        choose = random.Random(seed)
        if choose.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        try:
            return choose.choice(mutators)(choose, [data] * len(seeds) + seeds)[:max_size]
        except (ValueError, TypeError, RecursionError, struct.error):  # no JSON object any more
            return bytes(atheris.Mutate(data, max_size))

    with tempfile.TemporaryDirectory() as found:
        # libFuzzer writes to the first folder only.
        atheris.Setup([*sys.argv, found, str(folder)], one_input, custom_mutator=mutated)
        atheris.Fuzz()
