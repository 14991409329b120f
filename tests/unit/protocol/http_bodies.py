"""Builders of infer bodies, and shorthands round the HTTP codec."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from triton_async import datatypes
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy
from triton_async.protocol.http_codec import decode_infer, encode_infer

LIMIT = 1 << 26
JSON_TYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32,
    "FP64": np.float64,
}  # fmt: skip
SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (0,), (7,), (1, 16), (2, 0, 3), (3, 4, 2), (1, 1, 1, 1), (5, 1))


def signature(datatype: str = "FP32", dims: tuple[int, ...] = (-1,), batch: int = 0, inputs: int = 1,
              labels: tuple[str, ...] = ()) -> ModelSignature:  # fmt: skip
    number = datatypes.from_name(datatype)
    return ModelSignature(
        "m", 3,
        [TensorSpec(f"INPUT{i}", number, dims) for i in range(inputs)],
        [TensorSpec("OUTPUT0", number, dims, labels=labels)],
        batch,
    )  # fmt: skip


def entry(datatype: str, shape: Any, **members: Any) -> dict[str, Any]:
    return {"name": "INPUT0", "datatype": datatype, "shape": shape, **members}


def body(*inputs: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({**members, "inputs": list(inputs)}).encode()


def decode(
    text: Any, header_length: int = -1, model: ModelSignature | None = None, limit: int = LIMIT
) -> InferRequest:
    return decode_infer("m", -1, model or signature(), text, header_length, limit, 5)


def answer(request: InferRequest, array: np.ndarray, datatype: str | None = None, **more: Any) -> InferResponse:
    number = None if datatype is None else datatypes.from_name(datatype)
    return InferResponse(request, "m", 3, [from_numpy("OUTPUT0", array, number)], **more)


def encode(
    request: InferRequest, array: np.ndarray, datatype: str | None = None, model: ModelSignature | None = None
) -> tuple[Any, bytes, int | None, str]:
    """The parsed header, the joined parts, header length and content type."""
    head, parts, length, kind = encode_infer(request, answer(request, array, datatype), model or signature())
    return json.loads(head), b"".join(parts), length, kind


def sample(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    kind = JSON_TYPES[name]
    if name == "BOOL":
        return random.integers(0, 2, shape).astype(np.bool_)
    if name.startswith("FP"):
        return random.standard_normal(shape).astype(kind)
    limits = np.iinfo(kind)
    return random.integers(limits.min, limits.max, shape, kind, endpoint=True)
