"""Silero's voice activity detector as a model whose state the server keeps, and whose streams share batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RATE = 16000


def detector(weights: Path) -> onnx.ModelProto:
    """The network of silero_vad.onnx at 16 kHz, in batches: `state` is [batch, 2, 128] in place of [2, batch, 128]."""
    model = onnx.load(str(weights))
    graph = model.graph
    kept = [tensor for tensor in graph.input if tensor.name == "input"]
    outputs = [tensor for tensor in graph.output if tensor.name == "output"]
    shape = ["batch", 2, 128]
    del graph.input[:], graph.output[:]
    graph.input.extend([*kept, helper.make_tensor_value_info("state_in", TensorProto.FLOAT, shape)])
    graph.output.extend([*outputs, helper.make_tensor_value_info("state_out", TensorProto.FLOAT, shape)])
    graph.initializer.append(numpy_helper.from_array(np.array(RATE, np.int64), "sr"))
    graph.node.insert(0, helper.make_node("Transpose", ["state_in"], ["state"], perm=[1, 0, 2]))
    graph.node.append(helper.make_node("Transpose", ["stateN"], ["state_out"], perm=[1, 0, 2]))
    graph.input[0].type.tensor_type.shape.CopyFrom(
        helper.make_tensor_value_info("", TensorProto.FLOAT, ["batch", 576]).type.tensor_type.shape
    )
    graph.output[0].type.tensor_type.shape.CopyFrom(
        helper.make_tensor_value_info("", TensorProto.FLOAT, ["batch", 1]).type.tensor_type.shape
    )
    return model
