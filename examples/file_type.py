"""Tells what kind of file each path is, with the model `file_type` and the classification extension."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# The network looks at this many bytes of each end, chosen from the outer block without its outer blanks.
SIDE = 1024
BLOCK = 4096
NO_BYTE = 256
# With fewer bytes there is too little to tell; the model's authors do not ask it then.
FEWEST_BYTES = 8

Features = npt.NDArray[np.int32]


def features(content: bytes) -> Features | None:
    """The network's 2048 numbers for a file's content, or None for (nearly) empty content."""
    head = content[:BLOCK].lstrip()[:SIDE]
    tail = content[-BLOCK:].rstrip()[-SIDE:]
    if len(head) < FEWEST_BYTES:
        return None
    row = np.full(2 * SIDE, NO_BYTE, dtype=np.int32)
    row[: len(head)] = np.frombuffer(head, dtype=np.uint8)
    row[2 * SIDE - len(tail) :] = np.frombuffer(tail, dtype=np.uint8)
    return row


def classify(triton: Any, client: Any, rows: Sequence[Features], classes: int = 1) -> list[list[str]]:
    """For each row its best classes, as the server words them: `score:index:label`."""
    batch = np.stack(rows)
    tensor = triton.InferInput("bytes", list(batch.shape), "INT32")
    tensor.set_data_from_numpy(batch)
    wanted = [triton.InferRequestedOutput("target_label", class_count=classes)]
    answer = client.infer("file_type", [tensor], outputs=wanted).as_numpy("target_label")
    return [[text.decode() for text in row] for row in answer]


def main(arguments: list[str] | None = None) -> int:
    """Print `path: label (score)` for every file."""
    parser = argparse.ArgumentParser(description="Tell what kind of files these are.")
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("-u", "--url", help="host:port, default localhost:8000 (8001 with --grpc)")
    parser.add_argument("--grpc", action="store_true", help="use gRPC instead of HTTP")
    options = parser.parse_args(arguments)
    triton = importlib.import_module("tritonclient.grpc" if options.grpc else "tritonclient.http")
    url = options.url or ("localhost:8001" if options.grpc else "localhost:8000")
    with triton.InferenceServerClient(url) as client:
        for path in options.paths:
            row = features(path.read_bytes())
            if row is None:
                print(f"{path}: too short to tell")
                continue
            score, _, label = classify(triton, client, [row])[0][0].split(":")
            print(f"{path}: {label} ({float(score):.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
