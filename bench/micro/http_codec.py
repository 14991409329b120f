"""Microseconds per call of the HTTP codec: a small and a large FP32 tensor, binary and JSON, both ways.

    python bench/micro/http_codec.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np

from triton_async import datatypes
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy
from triton_async.protocol.http_codec import decode_infer, encode_infer

FP32 = datatypes.from_name("FP32")
MODEL = ModelSignature("m", 1, [TensorSpec("INPUT0", FP32, [-1])], [TensorSpec("OUTPUT0", FP32, [-1])], 8)
SIZES = {"FP32[16]": 16, "600 KB": 150_528}
ROUNDS = 7
SECONDS_PER_ROUND = 0.1


def best_us(call: Callable[[], object]) -> float:
    """Least time per call over some rounds; the rest is what other processes took."""
    call()
    started = time.perf_counter()
    call()
    count = max(1, int(SECONDS_PER_ROUND / (time.perf_counter() - started)))
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(count):
            call()
        rounds.append((time.perf_counter() - started) / count * 1e6)
    return min(rounds)


def calls(count: int) -> dict[str, Callable[[], object]]:
    """The four measured calls for a tensor of `count` elements."""
    array = np.random.default_rng(0).standard_normal((1, count)).astype(np.float32)
    entry = {"name": "INPUT0", "datatype": "FP32", "shape": [1, count]}
    binary = json.dumps({
        "inputs": [{**entry, "parameters": {"binary_data_size": array.nbytes}}],
        "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}],
    }).encode()  # fmt: skip
    body = binary + array.tobytes()
    text = json.dumps({"inputs": [{**entry, "data": array.reshape(-1).tolist()}]}).encode()

    def decode_binary() -> object:
        return decode_infer("m", -1, MODEL, body, len(binary), 1 << 26, 0)

    def decode_json() -> object:
        return decode_infer("m", -1, MODEL, text, -1, 1 << 26, 0)

    as_binary = decode_infer("m", -1, MODEL, body, len(binary), 1 << 26, 0)
    as_json = decode_infer("m", -1, MODEL, text, -1, 1 << 26, 0)
    outputs = [from_numpy("OUTPUT0", array)]
    answer = InferResponse(as_json, "m", 1, outputs)
    return {
        "decode binary": decode_binary,
        "decode JSON": decode_json,
        "encode binary": lambda: encode_infer(as_binary, answer, MODEL),
        "encode JSON": lambda: encode_infer(as_json, answer, MODEL),
    }


def main() -> None:
    """Prints one line per call."""
    for name, count in SIZES.items():
        for what, call in calls(count).items():
            print(f"{name:10} {what:14} {best_us(call):10.2f} us")


if __name__ == "__main__":
    main()
