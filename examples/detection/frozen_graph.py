"""A frozen TensorFlow graph, written field by field (tensorflow/core/framework/graph.proto): needs no TensorFlow.

`python examples/detection/frozen_graph.py FOLDER` writes a model folder with the detector. Its weights are random:
it does all that a detector does, and has learnt nothing.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

OUTPUTS = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")

# DataType of types.proto.
TYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "string": 7, "int64": 9, "bool": 10}


class Kind(str):
    """The value of an attribute that is a type."""


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def shape_proto(dims: Sequence[int] | None) -> bytes:
    if dims is None:
        return number(3, 1)
    return b"".join(block(2, number(1, dim)) for dim in dims)


def attribute(value: Any) -> bytes:
    if isinstance(value, Kind):
        return number(6, TYPES[value])
    if isinstance(value, bool):
        return number(5, value)
    if isinstance(value, int):
        return number(3, value)
    if isinstance(value, float):
        return varint(4 << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, str):
        return block(2, value)
    if isinstance(value, np.ndarray):
        tensor = number(1, TYPES[str(value.dtype)]) + block(2, shape_proto(value.shape)) + block(4, value.tobytes())
        return block(8, tensor)
    if isinstance(value, list):
        return block(1, b"".join(number(3, item) for item in value))
    return block(7, shape_proto(value.dims))


class Dims:
    """The value of an attribute that is a shape."""

    def __init__(self, dims: Sequence[int] | None) -> None:
        self.dims = dims


class Builder:
    """Nodes in the order in which they were added."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []

    def add(self, op: str, inputs: Sequence[str] = (), name: str = "", **attributes: Any) -> str:
        """One node; returns its name."""
        name = name or f"{op}_{len(self._nodes)}"
        parts = [block(1, name), block(2, op), *(block(3, source) for source in inputs)]
        for key, value in attributes.items():
            parts.append(block(5, block(1, key) + block(2, attribute(value))))
        self._nodes.append(block(1, b"".join(parts)))
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        array = np.asarray(value, dtype)
        return self.add("Const", dtype=Kind(array.dtype.name), value=array)

    def placeholder(self, name: str, dtype: str, dims: Sequence[int] | None) -> str:
        return self.add("Placeholder", name=name, dtype=Kind(dtype), shape=Dims(dims))

    def graph(self) -> bytes:
        """A GraphDef."""
        return b"".join(self._nodes) + block(4, number(1, 1987))


FLOAT, INT = Kind("float32"), Kind("int32")


def detector() -> bytes:
    """A small detector with the signature of the object detection API's frozen graphs: convolutions, boxes and scores
    of a grid, non-maximum suppression, what is left filled up to 100. For one picture at a time.
    """
    g = Builder()
    random = np.random.default_rng(0)
    picture = g.placeholder("image_tensor", "uint8", [-1, -1, -1, 3])
    x = g.add("Cast", [picture], SrcT=Kind("uint8"), DstT=FLOAT)
    x = g.add("Mul", [x, g.constant(1 / 255)], T=FLOAT)
    for channels, filters, stride in ((3, 8, 8), (8, 6, 4)):
        kernel = g.constant(random.standard_normal((3, 3, channels, filters)) * 0.3)
        x = g.add("Conv2D", [x, kernel], T=FLOAT, strides=[1, stride, stride, 1], padding="SAME")
        x = g.add("Relu", [x], T=FLOAT) if filters == 8 else x
    flat = g.add("Reshape", [x, g.constant([-1, 6], np.int32)], T=FLOAT, Tshape=INT)

    def columns(source: str, first: int, count: int) -> str:
        begin, size = g.constant([0, first], np.int32), g.constant([-1, count], np.int32)
        return g.add("Slice", [source, begin, size], T=FLOAT, Index=INT)

    sides = g.add("Sigmoid", [columns(flat, 0, 4)], T=FLOAT)
    corners = [columns(sides, 0, 2), columns(sides, 2, 2)]
    ends = [g.add(op, corners, T=FLOAT) for op in ("Minimum", "Maximum")]
    boxes = g.add("ConcatV2", [*ends, g.constant(1, np.int32)], N=2, T=FLOAT, Tidx=INT)
    line = g.constant([-1], np.int32)
    scores = g.add("Reshape", [g.add("Sigmoid", [columns(flat, 4, 1)], T=FLOAT), line], T=FLOAT, Tshape=INT)
    kinds = g.add("Reshape", [columns(flat, 5, 1), line], T=FLOAT, Tshape=INT)
    kinds = g.add("Cast", [g.add("Greater", [kinds, g.constant(0)], T=FLOAT)], SrcT=Kind("bool"), DstT=FLOAT)
    kinds = g.add("AddV2", [kinds, g.constant(1)], T=FLOAT)
    limits = [g.constant(100, np.int32), g.constant(0.6), g.constant(0.3)]
    kept = g.add("NonMaxSuppressionV3", [boxes, scores, *limits], T=FLOAT, T_threshold=FLOAT)
    count = g.add("Size", [kept], T=INT, out_type=INT)
    rest = g.add("Sub", [g.constant(100, np.int32), count], T=INT)
    zero = g.constant(0, np.int32)

    def filled(source: str, name: str, rank: int) -> None:
        found = g.add("GatherV2", [source, kept, zero], Tparams=FLOAT, Tindices=INT, Taxis=INT, batch_dims=0)
        first = g.add("Pack", [zero, rest], N=2, T=INT, axis=0)
        pairs = [first, g.constant([0, 0], np.int32)][:rank]
        padding = g.add("Pack", pairs, N=rank, T=INT, axis=0)
        found = g.add("Pad", [found, padding], T=FLOAT, Tpaddings=INT)
        g.add("ExpandDims", [found, zero], name, T=FLOAT, Tdim=INT)

    filled(boxes, OUTPUTS[0], 2)
    filled(kinds, OUTPUTS[1], 1)
    filled(scores, OUTPUTS[2], 1)
    g.add("ExpandDims", [g.add("Cast", [count], SrcT=INT, DstT=FLOAT), zero], OUTPUTS[3], T=FLOAT, Tdim=INT)
    return g.graph()


def main(arguments: list[str] | None = None) -> int:
    """Write the model folder."""
    (folder,) = sys.argv[1:] if arguments is None else arguments
    version = Path(folder) / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version / "model.graphdef").write_bytes(detector())
    config = Path(__file__).with_name("config.pbtxt").read_text()
    (version.parent / "config.pbtxt").write_text(config)
    print(f"{folder}: version 1 and its config")
    return 0


if __name__ == "__main__":
    sys.exit(main())
