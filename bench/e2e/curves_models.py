"""The models of the curves: as large as a ResNet, a transformer with texts of mixed lengths, and a small one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .. import ROOT

# FP32 of one row.
_IMAGE = (3, 224, 224)
_SMALL_WIDTH, _SMALL_LAYERS = 1024, 4
_WIDTH, _HEADS, _LAYERS, _WORDS = 256, 4, 4, 1000
_LENGTHS = range(8, 129, 8)
_AUTO = 'parameters { key: "dynamic_batching.max_queue_delay" value { string_value: "auto" } }\n'


@dataclass(frozen=True)
class Kind:
    """A model and how it is loaded. `delays_us`: the fixed ones that it is measured with; `closed`: numbers of clients;
    `ways`: parameters of its config, by the name of a way to batch that is measured with all delays; `longer`: how much
    longer its windows are than those of others, as it answers less.
    """

    name: str
    max_batch_size: int
    delays_us: tuple[int, ...]
    datatype: str
    shapes: Sequence[tuple[int, ...]]
    closed: tuple[int, ...]
    longer: float = 1.0
    ways: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: {"": {}})


KINDS = (
    Kind("resnet", 8, (0, 3_000, 10_000, 30_000), "FP32", [_IMAGE], (1, 2, 4, 8, 16), 1.4),
    Kind("transformer", 16, (0, 500, 2_000, 8_000), "INT64", [(length,) for length in _LENGTHS], (1, 4, 8, 16, 32)),
    Kind("small", 32, (0, 100, 300, 1_000), "FP32", [(_SMALL_WIDTH,)], (1, 2, 8, 16, 32), 0.6),
)


def _examples() -> None:
    folder = str(ROOT / "examples")
    if folder not in sys.path:
        sys.path.append(folder)


def _resnet() -> onnx.ModelProto:
    _examples()
    from resnet import resnet18

    return resnet18()


def _transformer() -> onnx.ModelProto:
    """Tokens to the mean of their last states; random weights."""
    _examples()
    from onnx_graph import FLOAT, INT64, GraphBuilder
    from transformer import Layers, Shape

    random = np.random.default_rng(4)
    weights: dict[str, np.ndarray] = {}

    def linear(name: str, into: int, out: int) -> None:
        weights[f"{name}.weight"] = (random.standard_normal((out, into)) * into**-0.5).astype(np.float32)
        weights[f"{name}.bias"] = np.zeros(out, np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(_WIDTH, np.float32), np.zeros(_WIDTH, np.float32)

    weights["embeddings.word_embeddings.weight"] = random.standard_normal((_WORDS, _WIDTH)).astype(np.float32)
    weights["embeddings.position_embeddings.weight"] = random.standard_normal((_LENGTHS[-1], _WIDTH)).astype(np.float32)
    for number in range(_LAYERS):
        layer = f"layer.{number}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", _WIDTH, _WIDTH)
        linear(f"{layer}.attention.output.dense", _WIDTH, _WIDTH)
        linear(f"{layer}.intermediate.dense", _WIDTH, 4 * _WIDTH)
        linear(f"{layer}.output.dense", 4 * _WIDTH, _WIDTH)
        norm(f"{layer}.attention.output.LayerNorm")
        norm(f"{layer}.output.LayerNorm")
    graph = GraphBuilder("transformer")
    layers = Layers(graph, weights, Shape(_WIDTH, _HEADS))
    hidden = layers.embedded("INPUT", "embeddings")
    none = graph.constant(0.0, np.float32)
    for number in range(_LAYERS):
        hidden = layers.layer(hidden, none, f"layer.{number}")
    graph.add("ReduceMean", [hidden], "OUTPUT", axes=[1], keepdims=0)
    return graph.model({"INPUT": (INT64, ["batch", "length"])}, {"OUTPUT": (FLOAT, ["batch", _WIDTH])})


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


_MAKERS = {"resnet": _resnet, "transformer": _transformer, "small": small}


def settings(kind: Kind) -> dict[str, str]:
    """What each line of the picture has in its config, by its name."""
    found = {}
    for way, parameters in kind.ways.items():
        more = "".join(
            f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n' for key, value in parameters.items()
        )
        suffix = f" {way}" if way else ""
        for delay_us in kind.delays_us:
            name = f"{delay_us / 1000:g} ms" if delay_us else "none"
            found[name + suffix] = f"dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}\n{more}"
        found["auto" + suffix] = f"dynamic_batching {{ }}\n{_AUTO}{more}"
    return found


def model_name(kind: Kind, setting: str) -> str:
    """Of the copy of the model that has this setting."""
    return f"{kind.name}_{setting.replace(' ', '_')}"


def write(root: Path, kind: Kind) -> Path:
    """A repository with a copy of the model for each setting, one instance each, on one thread: the load that drives
    them needs the other processor.
    """
    file = root / f"{kind.name}.onnx"
    root.mkdir(parents=True)
    onnx.save(_MAKERS[kind.name](), file)
    repository = root / "models"
    for setting, text in settings(kind).items():
        folder = repository / model_name(kind, setting) / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").hardlink_to(file)
        (folder.parent / "config.pbtxt").write_text(
            f"max_batch_size: {kind.max_batch_size}\n{text}"
            "instance_group { count: 1 kind: KIND_CPU }\n"
            'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n'
        )
    return repository


def requests(kind: Kind, input_name: str, model: str) -> list[bytes]:
    """HTTP requests in the binary form, one for each shape, to be sent as they are."""
    import json

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
