"""Instructions per call of the codecs, counted by valgrind: the same on a busy machine as on a quiet one.

    python bench/micro/instructions.py

Each call runs in two processes, a few and many times; the difference leaves out the start. protobuf and orjson do
the least that a server on their objects has to do.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable

import orjson
from grpc_codec import protobuf_decode, protobuf_encode, request_message
from http_codec import MODEL
from http_codec import calls as http_calls

from triton_async.infer.response import InferResponse
from triton_async.infer.tensor import make
from triton_async.protocol.grpc_codec import decode_request
from triton_async.protocol.grpc_encode import encode_response
from triton_async.protocol.http_head import classify
from triton_async.protocol.http_scan import scan

ELEMENTS = 16
FEW, MANY = 50, 1050
HEAD = (
    b"POST /v2/models/identity/infer HTTP/1.1\r\nHost: localhost:8000\r\nContent-Length: 233\r\n"
    b"Inference-Header-Content-Length: 169\r\nContent-Type: application/octet-stream\r\n\r\n"
)


def cases() -> dict[str, Callable[[], object]]:
    """What is counted, by name."""
    message, payload = request_message(ELEMENTS, False), bytes(4 * ELEMENTS)
    response = InferResponse(decode_request(message), "identity", 1, [make("OUTPUT0", 11, [1, ELEMENTS], payload)])
    entry = {"name": "INPUT0", "datatype": "FP32", "shape": [1, ELEMENTS]}
    text = orjson.dumps({"inputs": [{**entry, "data": [0.5] * ELEMENTS}]})
    header = orjson.dumps({
        "inputs": [{**entry, "parameters": {"binary_data_size": len(payload)}}],
        "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}],
    })  # fmt: skip
    body = header + payload
    return {
        "nothing": lambda: None,
        "HTTP head, as a dict": lambda: classify(HEAD),
        "HTTP decode binary, express": lambda: scan("m", -1, MODEL, body, len(header)),
        **{f"HTTP {name}": call for name, call in http_calls(ELEMENTS).items()},
        "orjson alone, decode JSON": lambda: orjson.loads(text),
        "gRPC decode": lambda: decode_request(message),
        "gRPC encode": lambda: encode_response(response),
        "protobuf decode": lambda: protobuf_decode(message),
        "protobuf encode": lambda: protobuf_encode(payload, ELEMENTS),
    }


def instructions(name: str, count: int) -> int:
    """Of a process that makes the call `count` times."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={folder}/out",
            sys.executable, __file__, "--run", name, "--count", str(count),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if found is None:
        raise RuntimeError(f"valgrind counted nothing:\n{done.stderr[-1000:]}")
    return int(found[1].replace(",", ""))


def main() -> None:
    """Prints one line per call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        call = cases()[options.run]
        for _ in range(options.count):
            call()
        return
    for name in cases():
        print(f"{name:30}{(instructions(name, MANY) - instructions(name, FEW)) // (MANY - FEW):>10,}", flush=True)


if __name__ == "__main__":
    main()
