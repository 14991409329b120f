"""The example models that are generated: small graphs with the shapes users bring."""

from __future__ import annotations

import numpy as np
import onnx
from onnx_graph import FLOAT, INT32, STRING, Dims, GraphBuilder

# Classes of the common detection and segmentation datasets (COCO, Pascal VOC).
YOLO_CLASSES = 80
SEGMENTATION_CLASSES = 21
JOINTS = 17


def add_sub() -> onnx.ModelProto:
    """OUTPUT0 = INPUT0 + INPUT1 and OUTPUT1 = INPUT0 - INPUT1 on INT32[16] rows."""
    graph = GraphBuilder("add_sub")
    graph.add("Add", ["INPUT0", "INPUT1"], "OUTPUT0")
    graph.add("Sub", ["INPUT0", "INPUT1"], "OUTPUT1")
    row: tuple[int, Dims] = (INT32, ["batch", 16])
    return graph.model({"INPUT0": row, "INPUT1": row}, {"OUTPUT0": row, "OUTPUT1": row})


def identity(element_type: int) -> onnx.ModelProto:
    """OUTPUT0 = INPUT0, rows of any length."""
    graph = GraphBuilder("identity")
    graph.add("Identity", ["INPUT0"], "OUTPUT0")
    rows = (element_type, ["batch", "length"])
    return graph.model({"INPUT0": rows}, {"OUTPUT0": rows})


def identity_fp32() -> onnx.ModelProto:
    """The identity on FP32."""
    return identity(FLOAT)


def identity_bytes() -> onnx.ModelProto:
    """The identity on strings (BYTES on the wire)."""
    return identity(STRING)


def segmentation() -> onnx.ModelProto:
    """Scores per pixel and class; any height and width that are multiples of four."""
    graph = GraphBuilder("segmentation", seed=21)
    features = graph.add("Relu", [graph.convolution("input", (3, 16), stride=2)])
    features = graph.add("Relu", [graph.convolution(features, (16, 32), stride=2)])
    scores = graph.convolution(features, (32, SEGMENTATION_CLASSES), kernel=1)
    scales = graph.constant([1.0, 1.0, 4.0, 4.0], np.float32)
    graph.add(
        "Resize",
        [scores, "", scales],
        "out",
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    return graph.model(
        {"input": (FLOAT, ["batch", 3, "height", "width"])},
        {"out": (FLOAT, ["batch", SEGMENTATION_CLASSES, "out_height", "out_width"])},
    )


def _cell_centres(graph: GraphBuilder, plane: str, axis: int, stride: int) -> str:
    """Pixel coordinate of each cell's centre along `axis`, shaped as `plane` ([batch,1,rows,columns]).

    A running sum over ones counts the cells whatever the image size, without a Shape/Range/Expand chain.
    """
    zeros = graph.add("Mul", [plane, graph.constant(0.0, np.float32)])
    ones = graph.add("Add", [zeros, graph.constant(1.0, np.float32)])
    numbers = graph.add("CumSum", [ones, graph.constant(axis, np.int64)])
    centred = graph.add("Sub", [numbers, graph.constant(0.5, np.float32)])
    return graph.add("Mul", [centred, graph.constant(float(stride), np.float32)])


def _slice_channels(graph: GraphBuilder, source: str, start: int, stop: int) -> str:
    bounds = [graph.constant([value], np.int64) for value in (start, stop, 1)]
    return graph.add("Slice", [source, *bounds])


def _yolo_head(graph: GraphBuilder, features: str, channels: int, stride: int) -> str:
    """Boxes (centre, size in pixels) and class scores of one level, as [batch, 4+classes, cells]."""
    # The bias keeps most scores low, as a trained detector's are.
    raw = graph.convolution(features, (channels, 4 + YOLO_CLASSES), kernel=1, bias=-3.0)
    plane = _slice_channels(graph, features, 0, 1)
    unit = graph.add("Sigmoid", [raw])
    sizes = graph.add("Mul", [_slice_channels(graph, unit, 2, 4), graph.constant(16.0 * stride, np.float32)])
    parts = [
        _cell_centres(graph, plane, 3, stride),
        _cell_centres(graph, plane, 2, stride),
        sizes,
        _slice_channels(graph, unit, 4, 4 + YOLO_CLASSES),
    ]
    level = graph.add("Concat", parts, axis=1)
    return graph.add("Reshape", [level, graph.constant([0, 4 + YOLO_CLASSES, -1], np.int64)])


def yolo() -> onnx.ModelProto:
    """A detector with an Ultralytics export's signature: three strides, anchors that depend on the image."""
    graph = GraphBuilder("yolo", seed=8)
    features, channels, heads = "images", 3, []
    for level, filters in enumerate([8, 16, 32, 48, 64]):
        features = graph.add("Relu", [graph.convolution(features, (channels, filters), stride=2)])
        channels = filters
        if level >= 2:
            heads.append(_yolo_head(graph, features, channels, stride=2 ** (level + 1)))
    graph.add("Concat", heads, "output0", axis=2)
    return graph.model(
        {"images": (FLOAT, ["batch", 3, "height", "width"])},
        {"output0": (FLOAT, ["batch", 4 + YOLO_CLASSES, "anchors"])},
    )


def hrnet() -> onnx.ModelProto:
    """Heat maps of joints from two resolutions that hear of each other, as HRNet has four of."""
    graph = GraphBuilder("hrnet", seed=17)
    stem = graph.add("Relu", [graph.convolution("input", (3, 16), stride=2)])
    fine = graph.add("Relu", [graph.convolution(stem, (16, 24), stride=2)])
    coarse = graph.add("Relu", [graph.convolution(fine, (24, 48), stride=2)])
    scales = graph.constant([1.0, 1.0, 2.0, 2.0], np.float32)
    for _ in range(2):
        fine_next = graph.add("Relu", [graph.convolution(fine, (24, 24), gain=0.7)])
        coarse_next = graph.add("Relu", [graph.convolution(coarse, (48, 48), gain=0.7)])
        down = graph.convolution(fine_next, (24, 48), stride=2, gain=0.5)
        up = graph.add(
            "Resize", [graph.convolution(coarse_next, (48, 24), kernel=1, gain=0.5), "", scales], mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )  # fmt: skip
        fine, coarse = graph.add("Add", [fine_next, up]), graph.add("Add", [coarse_next, down])
    graph.convolution(fine, (24, JOINTS), kernel=1, output="output")
    return graph.model(
        {"input": (FLOAT, ["batch", 3, 256, 192])},
        {"output": (FLOAT, ["batch", JOINTS, 64, 48])},
    )
