"""The models of the curves: as large as a ResNet, a transformer with texts and with queries of mixed lengths, and a
small one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .. import ROOT

# FP32 of one row.
_IMAGE = (3, 224, 224)
_SMALL_WIDTH, _SMALL_LAYERS = 1024, 4
_WORDS = 1000
_TEXTS, _QUERIES = range(8, 129, 8), range(2, 9)  # tokens
_AUTO = 'parameters { key: "dynamic_batching.max_queue_delay" value { string_value: "auto" } }\n'
_PADDING = {
    "inputs": {"INPUT": {"dims": ["length"], "value": 0}},
    "masks": {"attention_mask": {"data_type": "TYPE_INT64", "dims": ["length"]}},
}
PADDED = "padded"


@dataclass(frozen=True)
class _Size:
    width: int
    heads: int
    layers: int


# The second one is as large as all-MiniLM-L6.
_SIZES = {"transformer": _Size(256, 4, 4), "queries": _Size(384, 12, 6)}


@dataclass(frozen=True)
class Way:
    """A way to batch that is measured beside others: delays, and parameters of the config."""

    delays_us: tuple[int, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """A model and how it is loaded. `closed`: numbers of clients; `ways`: by their names; `longer`: how much longer its
    windows are than those of others, as it answers less.
    """

    name: str
    max_batch_size: int
    datatype: str
    shapes: Sequence[tuple[int, ...]]
    closed: tuple[int, ...]
    ways: Mapping[str, Way]
    longer: float = 1.0


def _transformer_kind(name: str, lengths: Sequence[int], delays_us: tuple[int, ...], longer: float) -> Kind:
    ways = {"": Way((0, *delays_us)), PADDED: Way((0, delays_us[1]), {"padding": json.dumps(_PADDING)})}
    return Kind(name, 16, "INT64", [(length,) for length in lengths], (1, 4, 8, 16, 32), ways, longer)


KINDS = (
    Kind("resnet", 8, "FP32", [_IMAGE], (1, 2, 4, 8, 16), {"": Way((0, 3_000, 10_000, 30_000))}, 1.4),
    _transformer_kind("transformer", _TEXTS, (500, 2_000, 8_000), 1.0),
    _transformer_kind("queries", _QUERIES, (1_000, 4_000, 16_000), 1.4),
    Kind("small", 32, "FP32", [(_SMALL_WIDTH,)], (1, 2, 8, 16, 32), {"": Way((0, 100, 300, 1_000))}, 0.6),
)


def _examples() -> None:
    folder = str(ROOT / "examples")
    if folder not in sys.path:
        sys.path.append(folder)


def _resnet(name: str, way: str) -> onnx.ModelProto:
    _examples()
    from resnet import resnet18

    return resnet18()


def _transformer(kind: str, way: str) -> onnx.ModelProto:
    """Tokens to the mean of their last states; random weights. Padded it takes a mask, and has more to compute."""
    _examples()
    from onnx_graph import FLOAT, INT64, GraphBuilder
    from transformer import Layers, Shape, padding_mask

    size = _SIZES[kind]
    random = np.random.default_rng(4)
    weights: dict[str, np.ndarray] = {}

    def linear(name: str, into: int, out: int) -> None:
        weights[f"{name}.weight"] = (random.standard_normal((out, into)) * into**-0.5).astype(np.float32)
        weights[f"{name}.bias"] = np.zeros(out, np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = np.ones(size.width, np.float32)
        weights[f"{name}.bias"] = np.zeros(size.width, np.float32)

    for table, rows in (("word", _WORDS), ("position", _TEXTS[-1])):
        values = random.standard_normal((rows, size.width)).astype(np.float32)
        weights[f"embeddings.{table}_embeddings.weight"] = values
    for number in range(size.layers):
        layer = f"layer.{number}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", size.width, size.width)
        linear(f"{layer}.attention.output.dense", size.width, size.width)
        linear(f"{layer}.intermediate.dense", size.width, 4 * size.width)
        linear(f"{layer}.output.dense", 4 * size.width, size.width)
        norm(f"{layer}.attention.output.LayerNorm")
        norm(f"{layer}.output.LayerNorm")
    graph = GraphBuilder("transformer")
    layers = Layers(graph, weights, Shape(size.width, size.heads))
    hidden = layers.embedded("INPUT", "embeddings")
    masked = way == PADDED
    mask = padding_mask(graph, "attention_mask") if masked else graph.constant(0.0, np.float32)
    for number in range(size.layers):
        hidden = layers.layer(hidden, mask, f"layer.{number}")
    inputs = {"INPUT": (INT64, ["batch", "length"])}
    if masked:
        inputs["attention_mask"] = inputs["INPUT"]
        kept = graph.add("Cast", ["attention_mask"], to=FLOAT)
        wide = graph.add("Unsqueeze", [kept, graph.constant([2], np.int64)])
        total = graph.add("ReduceSum", [graph.add("Mul", [hidden, wide]), graph.constant([1], np.int64)], keepdims=0)
        count = graph.add("ReduceSum", [kept, graph.constant([1], np.int64)], keepdims=1)
        graph.add("Div", [total, count], "OUTPUT")
    else:
        graph.add("ReduceMean", [hidden], "OUTPUT", axes=[1], keepdims=0)
    return graph.model(inputs, {"OUTPUT": (FLOAT, ["batch", size.width])})


def small() -> onnx.ModelProto:
    """A few dense layers: an execution reads all weights, however many rows it has."""
    random = np.random.default_rng(5)
    nodes, weights, last = [], [], "INPUT"
    for number in range(_SMALL_LAYERS):
        values = random.standard_normal((_SMALL_WIDTH, _SMALL_WIDTH)).astype(np.float32) * _SMALL_WIDTH**-0.5
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"m{number}"]))
        last = "OUTPUT" if number == _SMALL_LAYERS - 1 else f"r{number}"
        nodes.append(helper.make_node("Relu", [f"m{number}"], [last]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", _SMALL_WIDTH])
            for name in ("INPUT", "OUTPUT")]  # fmt: skip
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


_MAKERS: Mapping[str, Callable[[str, str], onnx.ModelProto]] = {
    "resnet": _resnet, "transformer": _transformer, "queries": _transformer, "small": lambda name, way: small(),
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """A line of the picture: the way that it is one of, and what its config has."""

    way: str
    config: str


def settings(kind: Kind) -> dict[str, Setting]:
    """By their names."""
    found = {}
    for way, what in kind.ways.items():
        more = "".join(
            f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(value)} }} }}\n'
            for key, value in what.parameters.items()
        )
        if way == PADDED:
            more += 'input { name: "INPUT" data_type: TYPE_INT64 dims: [ -1 ] }\n'
            more += f'output {{ name: "OUTPUT" data_type: TYPE_FP32 dims: [ {_SIZES[kind.name].width} ] }}\n'
        suffix = f" {way}" if way else ""
        for delay_us in what.delays_us:
            name = f"{delay_us / 1000:g} ms" if delay_us else "none"
            text = f"dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}\n{more}"
            found[name + suffix] = Setting(way, text)
        found["auto" + suffix] = Setting(way, f"dynamic_batching {{ }}\n{_AUTO}{more}")
    return found


def model_name(kind: Kind, setting: str) -> str:
    """Of the copy of the model that has this setting."""
    return f"{kind.name}_{setting.replace(' ', '_')}"


def write(root: Path, kind: Kind) -> Path:
    """A repository with a copy of the model for each setting, one instance each, on one thread: the load that drives
    them needs the other processor.
    """
    root.mkdir(parents=True)
    files = {}
    for way in kind.ways:
        files[way] = root / f"{kind.name}-{way}.onnx"
        onnx.save(_MAKERS[kind.name](kind.name, way), files[way])
    repository = root / "models"
    for name, setting in settings(kind).items():
        folder = repository / model_name(kind, name) / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").hardlink_to(files[setting.way])
        (folder.parent / "config.pbtxt").write_text(
            f"max_batch_size: {kind.max_batch_size}\n{setting.config}"
            'backend: "onnxruntime"\ninstance_group { count: 1 kind: KIND_CPU }\n'
            'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n'
        )
    return repository


def requests(kind: Kind, input_name: str, model: str) -> list[bytes]:
    """HTTP requests in the binary form, one for each shape, to be sent as they are."""
    made = []
    for shape in kind.shapes:
        array = np.ones((1, *shape), np.float32 if kind.datatype == "FP32" else np.int64)
        data = array.tobytes()
        head = json.dumps({
            "inputs": [{"name": input_name, "datatype": kind.datatype, "shape": list(array.shape),
                        "parameters": {"binary_data_size": len(data)}}],
            "parameters": {"binary_data_output": True},
        }).encode()  # fmt: skip
        made.append(
            f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
            f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(head) + len(data)}\r\n\r\n".encode()
            + head + data
        )  # fmt: skip
    return made
