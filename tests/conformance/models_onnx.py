"""The ONNX form of the conformance models."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from .models import Model, Tensor

_ELEM_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}
# Old enough for every ONNX Runtime that the package accepts.
_OPSET, _IR_VERSION = 17, 8
# One product of these takes a tenth of a millisecond or more; the whole has to outlast several requests.
_SLOW_SIDE, _SLOW_TRIPS = 256, 3000


def _value(model: Model, tensor: Tensor) -> ValueInfoProto:
    """The graph's declaration of one input or output, with a named dimension for each -1."""
    shape: list[int | str] = [
        f"{tensor.name}_d{index}" if dim < 0 else dim for index, dim in enumerate(tensor.model_dims)
    ]
    if model.max_batch_size > 0:
        shape.insert(0, "batch")
    return helper.make_tensor_value_info(tensor.name, _ELEM_TYPES[tensor.dtype], shape)


def _slow_nodes(source: str, target: str) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes that copy `source` to `target` after several hundred matrix products, and their constants."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["slow_go"], ["slow_go_out"]),
            helper.make_node("MatMul", ["slow_state", "slow_state"], ["slow_next"]),
        ],
        "slow_body",
        [
            helper.make_tensor_value_info("slow_i", TensorProto.INT64, []),
            helper.make_tensor_value_info("slow_go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("slow_state", TensorProto.FLOAT, [_SLOW_SIDE, _SLOW_SIDE]),
        ],
        [
            helper.make_tensor_value_info("slow_go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("slow_next", TensorProto.FLOAT, [_SLOW_SIDE, _SLOW_SIDE]),
        ],
    )
    # The start depends on the input, or the optimiser would compute the loop once at load.
    nodes = [
        helper.make_node("Cast", [source], ["slow_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["slow_float"], ["slow_sum"], keepdims=0),
        helper.make_node("Mul", ["slow_sum", "slow_zero"], ["slow_null"]),
        helper.make_node("Add", ["slow_eye", "slow_null"], ["slow_start"]),
        helper.make_node("Loop", ["slow_trips", "slow_true", "slow_start"], ["slow_end"], body=body),
        helper.make_node("ReduceMax", ["slow_end"], ["slow_one"], keepdims=0),
        helper.make_node("Cast", ["slow_one"], ["slow_int"], to=TensorProto.INT32),
        helper.make_node("Mul", [source, "slow_int"], [target]),
    ]
    constants = [
        numpy_helper.from_array(np.eye(_SLOW_SIDE, dtype=np.float32), "slow_eye"),
        numpy_helper.from_array(np.array(0, np.float32), "slow_zero"),
        numpy_helper.from_array(np.array(_SLOW_TRIPS, np.int64), "slow_trips"),
        numpy_helper.from_array(np.array(True), "slow_true"),
    ]
    return nodes, constants


def model_file(model: Model) -> bytes:
    """The serialised ONNX model of `model`."""
    nodes: list[NodeProto] = []
    # An optional input is an ONNX input with a default value.
    constants: list[TensorProto] = [
        numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name)
        for tensor in model.inputs
        if tensor.optional
    ]
    for output, (operation, *sources) in zip(model.outputs, model.wiring, strict=True):
        if operation == "slow":
            more_nodes, more_constants = _slow_nodes(sources[0], output.name)
            nodes += more_nodes
            constants += more_constants
        else:
            op_type = {"copy": "Identity", "add": "Add", "sub": "Sub"}[operation]
            nodes.append(helper.make_node(op_type, sources, [output.name]))
    graph = helper.make_graph(
        nodes,
        model.name,
        [_value(model, tensor) for tensor in model.inputs],
        [_value(model, tensor) for tensor in model.outputs],
        initializer=constants,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    proto.ir_version = _IR_VERSION
    return bytes(proto.SerializeToString())
