"""A few lines over `onnx.helper`: collects nodes and weights and makes a checked model of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

# Old enough for every ONNX Runtime that the server supports.
OPSET = 17
IR_VERSION = 8

FLOAT = TensorProto.FLOAT
INT32 = TensorProto.INT32
INT64 = TensorProto.INT64
STRING = TensorProto.STRING

Dims = Sequence[int | str]


class GraphBuilder:
    """One ONNX graph being written; random weights come from one seeded generator."""

    def __init__(self, name: str, seed: int = 0) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(seed)

    def add(self, op_type: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Append a node with one output; returns the output's name."""
        name = output or f"{op_type.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, list(inputs), [name], name=f"{name}_node", **attributes))
        return name

    def constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        """Store a constant tensor; returns its name."""
        name = f"constant_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def convolution(
        self,
        source: str,
        channels: tuple[int, int],
        *,
        kernel: int = 3,
        stride: int = 1,
        gain: float = 1.0,
        bias: float = 0.0,
        output: str | None = None,
    ) -> str:
        """A convolution that keeps the size (divided by the stride), He-initialised times `gain`."""
        fan_in, filters = channels
        scale = gain * np.sqrt(2.0 / (fan_in * kernel * kernel))
        shape = (filters, fan_in, kernel, kernel)
        weight = self._random.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        inputs = [source, self.constant(weight, np.float32), self.constant([bias] * filters, np.float32)]
        padding = kernel // 2
        return self.add(
            "Conv",
            inputs,
            output,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[padding] * 4,
        )

    def model(
        self, inputs: dict[str, tuple[int, Dims]], outputs: dict[str, tuple[int, Dims]]
    ) -> onnx.ModelProto:
        """Close the graph: the model, checked."""
        graph = helper.make_graph(
            self._nodes,
            self._name,
            [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in inputs.items()],
            [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in outputs.items()],
            initializer=self._weights,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="triton-async-examples")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model
