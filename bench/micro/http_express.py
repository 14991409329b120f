"""Microseconds of the HTTP express lane's pieces: head, JSON header, and a whole exchange on a transport of memory.

Run from the repository root with the package built in place: `python bench/micro/http_express.py`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import uvloop

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit" / "core"), str(ROOT / "tests" / "unit" / "frontends" / "http")]

from core_harness import write_model  # noqa: E402
from express_harness import Wire, express  # noqa: E402
from http_harness import infer_body, message  # noqa: E402

from triton_async.infer.signature import ModelSignature, TensorSpec  # noqa: E402
from triton_async.protocol.http_codec import decode_infer  # noqa: E402
from triton_async.protocol.http_head import classify  # noqa: E402
from triton_async.protocol.http_scan import scan  # noqa: E402

ROUNDS = 20_000
SIGNATURE = ModelSignature("m", 1, [TensorSpec("INPUT0", 11, (-1,))], [TensorSpec("OUTPUT0", 11, (-1,))])


def per_call(call: Callable[[], object]) -> float:
    """Best of five, in microseconds."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter_ns()
        for _ in range(ROUNDS):
            call()
        best = min(best, time.perf_counter_ns() - start)
    return best / ROUNDS / 1000


async def exchanges(root: Path, request: bytes) -> float:
    """One pipelined run of exchanges through a connection and the identity model, microseconds of each."""
    async with express(root) as (_, listener):
        wire = Wire(listener)
        start = time.perf_counter_ns()
        for _ in range(50):
            wire.output.clear()
            wire.send(request * 100)
            await wire.until(lambda wire: wire.output.count(b"HTTP/1.1 200") == 100)
        return (time.perf_counter_ns() - start) / 5000 / 1000


def main() -> None:
    body, headers = infer_body(np.arange(16, dtype=np.float32), id="1")
    request = message("POST", "/v2/models/m/infer", body, [*headers, ("Accept", "*/*"), ("User-Agent", "bench")])
    length = int(headers[0][1])
    assert json.loads(body[:length])
    print(f"head                {per_call(lambda: classify(request)):6.2f} µs (with a dict for Python)")
    print(f"JSON by the scanner {per_call(lambda: scan('m', -1, SIGNATURE, body, length)):6.2f} µs")
    general = per_call(lambda: decode_infer("m", -1, SIGNATURE, body, length, 1 << 26, 0))
    print(f"JSON by the decoder {general:6.2f} µs")
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), "m")
        print(f"exchange            {uvloop.run(exchanges(Path(folder), request)):6.2f} µs (wall, with the instance)")


if __name__ == "__main__":
    main()
