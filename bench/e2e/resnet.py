"""ResNet-18 as an ONNX model with random weights: the architecture costs what it costs, trained or not."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

INPUT, OUTPUT = "data", "logits"
INPUT_SHAPE, CLASSES = (1, 3, 224, 224), 1000
_OPSET, _IR_VERSION = 17, 8
# Output channels and first stride of the four stages of two blocks each.
_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))


class _Graph:
    """Nodes and weights as they are added, and the name of what was computed last."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.random = np.random.default_rng(18)

    def _weight(self, name: str, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def add(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        """One node; returns its output."""
        name = f"{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def conv(self, source: str, shape: tuple[int, int, int], stride: int = 1) -> str:
        """Convolution to `shape` (out channels, in channels, kernel) with batch normalisation."""
        out, into, kernel = shape
        prefix = f"w{len(self.nodes)}"
        scale = np.sqrt(2.0 / (into * kernel * kernel))
        weight = self._weight(f"{prefix}.conv", self.random.standard_normal((out, into, kernel, kernel)) * scale)
        node = self.add(
            "Conv",
            [source, weight],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
        )
        ones, zeros = np.ones(out), np.zeros(out)
        statistics = [
            self._weight(f"{prefix}.{name}", values)
            for name, values in (("gamma", ones), ("beta", zeros), ("mean", zeros), ("variance", ones))
        ]
        return self.add("BatchNormalization", [node, *statistics])

    def block(self, source: str, into: int, out: int, stride: int) -> str:
        """Two convolutions and the way round them."""
        inner = self.add("Relu", [self.conv(source, (out, into, 3), stride)])
        inner = self.conv(inner, (out, out, 3))
        around = source if stride == 1 and into == out else self.conv(source, (out, into, 1), stride)
        return self.add("Relu", [self.add("Add", [inner, around])])

    def head(self, source: str, channels: int) -> None:
        """Average over the image and the last matrix product."""
        flat = self.add("Flatten", [self.add("GlobalAveragePool", [source])])
        weight = self._weight("fc.weight", self.random.standard_normal((CLASSES, channels)) * 0.01)
        bias = self._weight("fc.bias", np.zeros(CLASSES))
        self.nodes.append(helper.make_node("Gemm", [flat, weight, bias], [OUTPUT], transB=1))


def resnet18() -> ModelProto:
    """The model for one image."""
    graph = _Graph()
    last = graph.add("Relu", [graph.conv(INPUT, (64, 3, 7), 2)])
    last = graph.add("MaxPool", [last], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    into = 64
    for out, stride in _STAGES:
        last = graph.block(last, into, out, stride)
        last = graph.block(last, out, out, 1)
        into = out
    graph.head(last, into)
    proto = helper.make_graph(
        graph.nodes,
        "resnet18",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, INPUT_SHAPE)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, (1, CLASSES))],
        initializer=graph.weights,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    return model
