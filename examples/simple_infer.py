"""The smallest client: adds and subtracts two rows with the model `simple`, over HTTP and over gRPC."""

from __future__ import annotations

import argparse
import importlib
import sys

import numpy as np


def add_and_subtract(protocol: str, url: str, model: str) -> bool:
    """One request; prints both answers and says whether they are right."""
    triton = importlib.import_module(f"tritonclient.{protocol}")
    left = np.arange(16, dtype=np.int32).reshape(1, 16)
    right = np.ones((1, 16), dtype=np.int32)

    inputs = [triton.InferInput("INPUT0", [1, 16], "INT32"), triton.InferInput("INPUT1", [1, 16], "INT32")]
    inputs[0].set_data_from_numpy(left)
    inputs[1].set_data_from_numpy(right)
    with triton.InferenceServerClient(url) as client:
        result = client.infer(model, inputs)

    total, difference = result.as_numpy("OUTPUT0"), result.as_numpy("OUTPUT1")
    print(f"{protocol}: sum        {total[0].tolist()}")
    print(f"{protocol}: difference {difference[0].tolist()}")
    return np.array_equal(total, left + right) and np.array_equal(difference, left - right)


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 when both protocols answered rightly."""
    parser = argparse.ArgumentParser(description="Ask the model `simple` over both protocols.")
    parser.add_argument("-m", "--model", default="simple", help="simple or add_sub")
    parser.add_argument("--http-url", default="localhost:8000")
    parser.add_argument("--grpc-url", default="localhost:8001")
    options = parser.parse_args(arguments)
    answers = [
        add_and_subtract("http", options.http_url, options.model),
        add_and_subtract("grpc", options.grpc_url, options.model),
    ]
    return 0 if all(answers) else 1


if __name__ == "__main__":
    sys.exit(main())
