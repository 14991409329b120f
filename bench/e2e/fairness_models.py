"""The models of the fairness bench."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LIGHT, WIDE, TEXT, MAKER, ROUNDS, SLOW = "light", "wide", "text", "maker", "rounds", "slow"

# Products of constant matrices, which ONNX Runtime computes when it loads the model: some seconds.
_SLOW_SIZE, _SLOW_PRODUCTS = 1024, 64


def _value(name: str, kind: int, *dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(dims))


def _save(root: Path, graph: onnx.GraphProto) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder = root / graph.name / "1"
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    (root / graph.name / "config.pbtxt").write_text("max_batch_size: 0\n")


def _rounds(root: Path) -> None:
    """As many products of a matrix with itself as the request says."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_out"]), helper.make_node("MatMul", ["state", "state"], ["next"])],
        "body",
        [_value("i", TensorProto.INT64), _value("go", TensorProto.BOOL), _value("state", TensorProto.FLOAT, 64, 64)],
        [_value("go_out", TensorProto.BOOL), _value("next", TensorProto.FLOAT, 64, 64)],
    )
    start = helper.make_tensor("start", TensorProto.FLOAT, [64, 64], [0.01] * 64 * 64)
    nodes = [
        helper.make_node("Loop", ["N", "", "start"], ["state_end"], body=body),
        helper.make_node("ReduceSum", ["state_end"], ["Y"], keepdims=0),
    ]
    ends = [_value("N", TensorProto.INT64)], [_value("Y", TensorProto.FLOAT)]
    _save(root, helper.make_graph(nodes, ROUNDS, *ends, [start]))


def _slow(root: Path) -> None:
    """Takes long to load."""
    factor = np.eye(_SLOW_SIZE, dtype=np.float32) * 0.5
    constants = [numpy_helper.from_array(factor, "factor")]
    nodes = [helper.make_node("MatMul", ["factor", "factor"], ["p0"])]
    nodes += [helper.make_node("MatMul", [f"p{i}", "factor"], [f"p{i + 1}"]) for i in range(_SLOW_PRODUCTS)]
    nodes += [
        helper.make_node("ReduceSum", [f"p{_SLOW_PRODUCTS}"], ["sum"], keepdims=0),
        helper.make_node("Add", ["X", "sum"], ["Y"]),
    ]
    ends = [_value("X", TensorProto.FLOAT, 1)], [_value("Y", TensorProto.FLOAT, 1)]
    _save(root, helper.make_graph(nodes, SLOW, *ends, constants))


def write(root: Path) -> Path:
    """The repository: a light model, and those that the offenders ask."""
    add = [helper.make_node("Add", ["X", "X"], ["Y"])]
    _save(root, helper.make_graph(
        add, LIGHT, [_value("X", TensorProto.FLOAT, 16)], [_value("Y", TensorProto.FLOAT, 16)]
    ))  # fmt: skip
    same = [helper.make_node("Identity", ["X"], ["Y"])]
    _save(root, helper.make_graph(
        same, WIDE, [_value("X", TensorProto.FLOAT, "n")], [_value("Y", TensorProto.FLOAT, "n")]
    ))  # fmt: skip
    _save(root, helper.make_graph(
        same, TEXT, [_value("X", TensorProto.STRING, "n")], [_value("Y", TensorProto.STRING, "n")]
    ))  # fmt: skip
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.5])
    fill = [helper.make_node("Expand", ["one", "N"], ["Y"])]
    _save(root, helper.make_graph(
        fill, MAKER, [_value("N", TensorProto.INT64, 1)], [_value("Y", TensorProto.FLOAT, "n")], [one]
    ))  # fmt: skip
    _rounds(root)
    _slow(root)
    return root
