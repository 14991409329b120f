"""ResNet-18 for ImageNet-shaped input, built from its description, with random weights."""

from __future__ import annotations

import onnx
from onnx_graph import FLOAT, GraphBuilder

CLASSES = 1000
STAGES = [64, 128, 256, 512]


def _basic_block(graph: GraphBuilder, source: str, channels: tuple[int, int], stride: int) -> str:
    """Two 3x3 convolutions and the shortcut; the batch norms of the paper are folded into the weights."""
    inner = graph.add("Relu", [graph.convolution(source, channels, stride=stride)])
    # Halving the branch keeps the variance near one through eight additions: with no training, nothing else
    # would.
    branch = graph.convolution(inner, (channels[1], channels[1]), gain=0.5)
    shortcut = source
    if stride != 1 or channels[0] != channels[1]:
        shortcut = graph.convolution(source, channels, kernel=1, stride=stride, gain=0.7)
    return graph.add("Relu", [graph.add("Add", [branch, shortcut])])


def resnet18() -> onnx.ModelProto:
    """The network; its scores come out as [batch,1000,1,1], the model config reshapes them to [1000]."""
    graph = GraphBuilder("resnet18", seed=18)
    features = graph.add("Relu", [graph.convolution("data", (3, 64), kernel=7, stride=2)])
    features = graph.add("MaxPool", [features], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, filters in enumerate(STAGES):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            features = _basic_block(graph, features, (channels, filters), stride)
            channels = filters
    pooled = graph.add("GlobalAveragePool", [features])
    graph.convolution(pooled, (channels, CLASSES), kernel=1, output="resnetv18_dense0_fwd")
    return graph.model(
        {"data": (FLOAT, ["batch", 3, 224, 224])},
        {"resnetv18_dense0_fwd": (FLOAT, ["batch", CLASSES, 1, 1])},
    )
