"""Microseconds of an inference through the C API: a C++ program with the server in it, the identity model, 16 FP32.

Run from the repository root with the package built in place: `python bench/micro/c_api.py`. CPU is that of all threads
of the program, its own waiting and checking included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from triton_async import native  # noqa: E402

# Threads of the program, requests that each keeps on their way, rounds.
LOADS = ((1, 1, 20_000), (1, 8, 5_000), (1, 32, 2_000), (4, 32, 500), (1, 256, 300))
CONFIG = """backend: "identity"
input { name: "IN" data_type: TYPE_FP32 dims: -1 }
output { name: "OUT" data_type: TYPE_FP32 dims: -1 }
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "models" / "same" / "1").mkdir(parents=True)
        (root / "models" / "same" / "config.pbtxt").write_text(CONFIG)
        program = root / "program"
        subprocess.run(
            ["g++", "-std=c++17", "-O2", f"-I{native.INCLUDE}", str(ROOT / "tests" / "csrc" / "embedding_threads.cc"),
             str(native.LIBRARY), f"-Wl,-rpath,{native.LIBRARY.parent}", "-pthread", "-o", str(program)], check=True,
        )  # fmt: skip
        environment = os.environ | {"TRITON_ASYNC_PYTHON": sys.executable}
        for load in LOADS:
            arguments = [str(program), str(root / "models"), *map(str, load)]
            done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment)
            print(f"{load[0]} threads, {load[1]:3} each on their way: {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
