"""What an ONNX file says of its model and a session does not tell, read from the file's own bytes (onnx.proto3).

Weights of any size are not read: they are skipped in the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError

from triton_async.config.message_fields import file_varint
from triton_async.protos import message

# A file of at most this size is read as a whole.
_SMALL_FILE = 1 << 20
# Nodes above this size carry a constant; what operator they are is not looked up.
_LARGEST_NODE = 1 << 20
# Field numbers.
_MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
_GRAPH_NODE, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 11, 12

_Model, _Function, _Node, _Value = (
    message(f"triton_async.onnx.{name}") for name in ("Model", "Function", "Node", "Value")
)

# Operators that look at a whole tensor where a batch is one tensor: each row depends on the others in it.
_WHOLE_TENSOR = frozenset(("DynamicQuantizeLinear", "DynamicQuantizeMatMul"))

# Operators whose time follows from the shapes of their inputs, and whose outputs' shapes follow from these and
# attributes. All others may take as long as a value in a request says: loops, searches, fillers, strings, and whatever
# a library of custom operators brings.
_BOUNDED = frozenset("""
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift
    BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Concat Constant Conv ConvInteger
    ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Flatten
    Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual GroupNormalization GRU HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf
    IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool LRN LSTM MatMul
    MatMulInteger Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg Not Or Pow PRelu QLinearConv
    QLinearMatMul QuantizeLinear Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape RMSNormalization RNN Round Scatter
    ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Transpose Trilu Unsqueeze Where Xor
""".split())  # noqa: SIM905


@dataclass(slots=True)
class Graph:
    """`operators`: of all graphs of the model. `shapes`: of its inputs and outputs by name, each dimension by its name,
    "" where it has none; None where not even the rank is declared. `skipped`: a node was too large to be looked at.
    """

    operators: set[str] = field(default_factory=set)
    shapes: dict[str, tuple[str, ...] | None] = field(default_factory=dict)
    skipped: bool = False

    def unranked(self) -> frozenset[str]:
        """Inputs and outputs whose rank is not declared."""
        return frozenset(name for name, dims in self.shapes.items() if dims is None)

    def is_bounded(self) -> bool:
        """Whether the shapes of a request bound the time that it takes."""
        return not self.skipped and self.operators <= _BOUNDED

    def mixes_rows(self) -> str:
        """Why a request's result depends on the others in its batch; "" when no operator is known to do that."""
        found = sorted(self.operators & _WHOLE_TENSOR)
        return f"its operator {found[0]} takes one scale for all rows of a batch" if found else ""

    def unbatched(self, ignored: frozenset[str] = frozenset()) -> str:
        """Why the first dimensions are not one batch, by their names; "" when the names do not tell. `ignored`: inputs
        that do not count.
        """
        shapes = {name: dims for name, dims in self.shapes.items() if dims and name not in ignored}
        first = _named({name: dims[:1] for name, dims in shapes.items()})
        elsewhere = _named({name: dims[1:] for name, dims in shapes.items()})
        if len(first) < 2:
            return ""
        for name in sorted(first.keys() & elsewhere.keys()):
            return (
                f"dimension '{name}' is the first one of '{first[name]}' and another one of '{elsewhere[name]}', so "
                "that not all inputs and outputs begin with the batch"
            )
        return ""


def read_graph(path: Path) -> Graph | None:
    """What the model file at `path` says; None when it is no ONNX model. Blocking."""
    graph = Graph()
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > _SMALL_FILE or not _add_model(file.read(), graph):
                file.seek(0)
                _read_model(file, size, graph)
    except (OSError, ValueError, DecodeError):
        return None
    return graph


def _add_model(data: bytes, graph: Graph) -> bool:
    try:
        model = _Model.FromString(data)
    except DecodeError:  # of graphs in graphs, too: deeper than messages may be
        return False
    _add_nodes(model.graph.node, graph)
    for function in model.functions:
        _add_nodes(function.node, graph)
    for value in (*model.graph.input, *model.graph.output):
        _add_value(value, graph)
    return True


def _read_model(file: BinaryIO, end: int, graph: Graph) -> None:
    for number, size in _file_fields(file, end):
        if number == _MODEL_GRAPH:
            _read_graph_of_file(file, file.tell() + size, graph)
        elif number == _MODEL_FUNCTION:
            _add_nodes(_Function.FromString(file.read(size)).node, graph)
        else:
            file.seek(size, os.SEEK_CUR)


def _read_graph_of_file(file: BinaryIO, end: int, graph: Graph) -> None:
    for number, size in _file_fields(file, end):
        wanted = number in (_GRAPH_INPUT, _GRAPH_OUTPUT) or (number == _GRAPH_NODE and size <= _LARGEST_NODE)
        graph.skipped = graph.skipped or (number == _GRAPH_NODE and not wanted)
        if not wanted:
            file.seek(size, os.SEEK_CUR)
        elif number == _GRAPH_NODE:
            _add_nodes((_Node.FromString(file.read(size)),), graph)
        else:
            _add_value(_Value.FromString(file.read(size)), graph)


def _add_nodes(nodes: Iterable[Any], graph: Graph) -> None:
    for node in nodes:
        graph.operators.add(node.op_type)
        for attribute in node.attribute:
            _add_nodes(attribute.g.node, graph)
            for inner in attribute.graphs:
                _add_nodes(inner.node, graph)


def _add_value(value: Any, graph: Graph) -> None:
    if value.type.HasField("tensor_type"):
        shape = value.type.tensor_type.shape if value.type.tensor_type.HasField("shape") else None
        graph.shapes[value.name] = None if shape is None else tuple(dim.dim_param for dim in shape.dim)


def _named(shapes: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Names of dimensions, and the first tensor that has each."""
    found: dict[str, str] = {}
    for tensor, dims in shapes.items():
        for dim in dims:
            if dim:
                found.setdefault(dim, tensor)
    return found


def _file_fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """(number, size) of the length-delimited fields up to `end`, the file at the value, which the caller passes."""
    while file.tell() < end:
        tag = file_varint(file)
        if tag & 7 == 2:
            size = file_varint(file)
            if size > end - file.tell():
                raise ValueError("a field is longer than its message")
            yield tag >> 3, size
        elif tag & 7 == 0:
            file_varint(file)
        elif tag & 7 in (1, 5):
            file.seek(8 if tag & 7 == 1 else 4, os.SEEK_CUR)
        else:
            raise ValueError("not a protobuf message")
