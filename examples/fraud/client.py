"""Asks for the probability that payments are fraud, and for what speaks for it: python examples/fraud/client.py"""

from __future__ import annotations

import argparse

import numpy as np
from forest import COLUMNS, payments
from tritonclient import http


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    arguments.add_argument("-u", "--url", default="localhost:8000")
    arguments.add_argument("-n", "--count", type=int, default=5, help="payments to ask for, default %(default)s")
    options = arguments.parse_args()
    rows, _ = payments(options.count, 1)
    tensor = http.InferInput("input__0", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    with http.InferenceServerClient(options.url) as client:
        answer = client.infer("fraud", [tensor])
    probabilities, reasons = answer.as_numpy("output__0"), answer.as_numpy("treeshap_output")
    for row, probability, added in zip(rows, probabilities, reasons, strict=True):
        print(f"fraud {probability:6.1%}")
        for column in np.argsort(-np.abs(added[:-1]))[:3]:
            print(f"  {added[column]:+.2f}  {COLUMNS[column]} = {row[column]:.6g}")
        # What all columns add to an unknown payment is the log of the odds.
        assert np.isclose(1 / (1 + np.exp(-added.sum())), probability, atol=1e-4)


if __name__ == "__main__":
    main()
