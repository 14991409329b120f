"""Checks that models answer what they should: load generators look at no output."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

# Around the sizes where a server may change its path: nothing, one element, 64 KiB, above.
SHAPES = ((1, 16), (8, 16), (1, 1), (2, 0), (1, 4095), (3, 16384), (1, 16385), (8, 20000))
ROUNDS = 3
ADD_SUB_ELEMENTS, ADD_SUB_ROWS = 16, (1, 8, 3, 2)


def _client(protocol: str, port: int) -> tuple[Any, Any]:
    module = tritonclient.http if protocol == "http" else tritonclient.grpc
    return module, module.InferenceServerClient(f"127.0.0.1:{port}")


def echo_check(protocol: str, port: int, model: str) -> int:
    """Sends tensors of mixed shapes in a random order; returns how many came back unchanged, raises else."""
    module, client = _client(protocol, port)
    order = list(SHAPES) * ROUNDS
    # A fixed order would let every second tensor fit the buffer of the one before.
    random.Random(1).shuffle(order)
    for index, shape in enumerate(order):
        sent = np.random.default_rng(index).standard_normal(shape, dtype=np.float32)
        tensor = module.InferInput("INPUT0", list(shape), "FP32")
        tensor.set_data_from_numpy(sent)
        got = client.infer(model, [tensor], request_id=str(index)).as_numpy("OUTPUT0")
        if got is None or got.shape != sent.shape or got.tobytes() != sent.tobytes():
            raise RuntimeError(f"{model} over {protocol} did not echo shape {shape}")
    client.close()
    return len(order)


def add_sub_check(protocol: str, port: int, model: str) -> int:
    """Sums and differences of batches of mixed sizes; returns how many were right, raises for a wrong one."""
    module, client = _client(protocol, port)
    rows = list(ADD_SUB_ROWS) * ROUNDS
    for index, count in enumerate(rows):
        random_numbers = np.random.default_rng(index)
        sent = [random_numbers.standard_normal((count, ADD_SUB_ELEMENTS), dtype=np.float32) for _ in range(2)]
        tensors = [module.InferInput(f"INPUT{i}", list(values.shape), "FP32") for i, values in enumerate(sent)]
        for tensor, values in zip(tensors, sent, strict=True):
            tensor.set_data_from_numpy(values)
        got = client.infer(model, tensors, request_id=str(index))
        for name, expected in (("OUTPUT0", sent[0] + sent[1]), ("OUTPUT1", sent[0] - sent[1])):
            values = got.as_numpy(name)
            if values is None or not np.array_equal(values, expected):
                raise RuntimeError(f"{model} over {protocol}: {name} of {count} rows is wrong")
    client.close()
    return len(rows)
