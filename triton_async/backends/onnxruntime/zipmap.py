"""Classifiers as scikit-learn converters write them: their probabilities are a sequence of maps, made by the operator
ZipMap of a tensor. The tensor says the same, its columns are the map's keys: this makes it the output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from triton_async.config.message_fields import varint

# Field numbers (onnx.proto3).
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_OUTPUT = 1, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INTS, _ATTRIBUTE_STRINGS = 1, 8, 9
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TENSOR_ELEMENT, _TENSOR_SHAPE, _SHAPE_DIM, _DIM_VALUE = 1, 1, 2, 1, 1
_FLOAT = 1

_BYTES = 2


@dataclass(frozen=True, slots=True)
class Unzipped:
    """A model whose ZipMaps are gone. `labels`: keys of the maps, the columns of the tensor, by output."""

    model: bytes
    labels: dict[str, tuple[str, ...]]


def unzip(model: bytes) -> Unzipped | None:
    """The model with tensors in place of what ZipMap makes of them, where that is an output. None where there is no
    such output, or the bytes are no model.
    """
    try:
        labels = _zipped(memoryview(model))
        if not labels:
            return None
        graph = b"".join(
            _rewritten_graph(value, labels) if (number, kind) == (_MODEL_GRAPH, _BYTES) else bytes(whole)
            for number, kind, value, whole in _fields(memoryview(model))
        )
    except (ValueError, UnicodeDecodeError):
        return None
    return Unzipped(graph, labels)


def _zipped(model: memoryview) -> dict[str, tuple[str, ...]]:
    zipped: dict[str, tuple[str, ...]] = {}
    outputs: set[str] = set()
    for number, kind, graph, _ in _fields(model):
        if (number, kind) != (_MODEL_GRAPH, _BYTES):
            continue
        for field, inner, value, _ in _fields(graph):
            if inner == _BYTES and field == _GRAPH_NODE and _text(value, _NODE_OPERATOR) == "ZipMap":
                zipped[_text(value, _NODE_OUTPUT)] = _labels(value)
            elif inner == _BYTES and field == _GRAPH_OUTPUT:
                outputs.add(_text(value, _VALUE_NAME))
    return {name: labels for name, labels in zipped.items() if name in outputs}


def _labels(node: memoryview) -> tuple[str, ...]:
    for number, kind, attribute, _ in _fields(node):
        if (number, kind) != (_NODE_ATTRIBUTE, _BYTES):
            continue
        if not _text(attribute, _ATTRIBUTE_NAME).startswith("classlabels"):
            continue
        found: list[str] = []
        for field, _, value, _ in _fields(attribute):
            if field == _ATTRIBUTE_STRINGS:
                found.append(bytes(value).decode())
            elif field == _ATTRIBUTE_INTS:
                at = 0
                while at < len(value):  # one, or all of them packed
                    label, at = varint(value, at)
                    found.append(str(label - (1 << 64) if label >> 63 else label))
        if found:
            return tuple(found)
    return ()


def _rewritten_graph(graph: memoryview, labels: dict[str, tuple[str, ...]]) -> bytes:
    parts = []
    for number, kind, value, whole in _fields(graph):
        if kind == _BYTES and number == _GRAPH_NODE and _text(value, _NODE_OUTPUT) in labels and (
            _text(value, _NODE_OPERATOR) == "ZipMap"
        ):
            parts.append(_block(_GRAPH_NODE, _identity(value)))
        elif kind == _BYTES and number == _GRAPH_OUTPUT and (name := _text(value, _VALUE_NAME)) in labels:
            parts.append(_block(_GRAPH_OUTPUT, _tensor(name, len(labels[name]))))
        else:
            parts.append(bytes(whole))
    return _block(_MODEL_GRAPH, b"".join(parts))


def _identity(node: memoryview) -> bytes:
    kept = b"".join(
        bytes(whole) for number, _, _, whole in _fields(node) if number in (_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME)
    )
    return kept + _block(_NODE_OPERATOR, b"Identity")


def _tensor(name: str, columns: int) -> bytes:
    dims = _block(_SHAPE_DIM, b"") + _block(_SHAPE_DIM, _number(_DIM_VALUE, columns) if columns else b"")
    tensor = _number(_TENSOR_ELEMENT, _FLOAT) + _block(_TENSOR_SHAPE, dims)
    return _block(_VALUE_NAME, name.encode()) + _block(_VALUE_TYPE, _block(_TYPE_TENSOR, tensor))


def _text(message: memoryview, wanted: int) -> str:
    """The first field of this number, "" when there is none."""
    return next((bytes(value).decode() for number, kind, value, _ in _fields(message)
                 if number == wanted and kind == _BYTES), "")  # fmt: skip


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview, memoryview]]:
    """Number, wire type, value and the whole field. ValueError for what is no message."""
    at = 0
    while at < len(message):
        begin = at
        tag, at = varint(message, at)
        kind = tag & 7
        if kind == 0:
            start = at
            _, at = varint(message, at)
        elif kind == _BYTES:
            size, start = varint(message, at)
            at = start + size
        elif kind in (1, 5):
            start, at = at, at + (8 if kind == 1 else 4)
        else:
            raise ValueError("not a protobuf message")
        if at > len(message):
            raise ValueError("a field is longer than its message")
        yield tag >> 3, kind, message[start:at], message[begin:at]


def _block(number: int, value: bytes) -> bytes:
    return _varint_of(number << 3 | _BYTES) + _varint_of(len(value)) + value


def _number(number: int, value: int) -> bytes:
    return _varint_of(number << 3) + _varint_of(value)


def _varint_of(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
