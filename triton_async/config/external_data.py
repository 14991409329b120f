"""Which files beside an ONNX model hold its weights, read from the model's own bytes (onnx.proto3)."""

from __future__ import annotations

from collections.abc import Iterator

from triton_async.config.message_fields import fields
from triton_async.errors import InvalidArg

# Depth of subgraphs in subgraphs; exporters make a handful.
_MAX_DEPTH = 64

# Message -> field number -> message of that field; only what leads to tensors.
_FIELDS = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_BAD = "failed to parse ONNX model: it is not a valid protobuf message"


def external_files(model: bytes) -> tuple[str, ...]:
    """Locations, relative to the model's directory, of its external data, sorted. InvalidArg when it cannot be read."""
    try:
        return tuple(sorted(set(_locations(memoryview(model), "Model", 0))))
    except ValueError:
        raise InvalidArg(_BAD) from None


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise InvalidArg("failed to parse ONNX model: its graphs are nested too deeply")
    for number, value in fields(message):
        inner = _FIELDS[kind].get(number)
        if inner == "Entry":
            entry = {key: bytes(found) for key, found in fields(value)}
            if entry.get(1) == b"location":
                yield _text(entry.get(2, b""))
        elif inner is not None:
            yield from _locations(value, inner, depth + 1)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidArg("failed to parse ONNX model: the name of an external file is not UTF-8") from None
