"""The repository that the examples of Triton's clients ask: models of the same names, tensors and doings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

_TYPES = {"INT32": TensorProto.INT32, "INT8": TensorProto.INT8, "STRING": TensorProto.STRING, "FP32": TensorProto.FLOAT}

Io = tuple[str, ...]
_PAIR = ("INPUT0", "INPUT1"), ("OUTPUT0", "OUTPUT1")


def config(inputs: Sequence[Io], outputs: Sequence[Io], rest: str = "") -> str:
    """A config.pbtxt. Each tensor: its name, datatype and dims."""
    blocks = [
        f'{kind} [\n{{ name: "{name}"\n data_type: TYPE_{dtype}\n dims: [ {dims} ] {more} }}\n]'
        for kind, ios in (("input", inputs), ("output", outputs))
        for name, dtype, dims, *more_of in ios
        for more in [" ".join(more_of)]
    ]
    return "\n".join([*blocks, rest])


def _write(root: Path, name: str, text: str, model: onnx.ModelProto | str | None) -> None:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    (folder.parent / "config.pbtxt").write_text(f'name: "{name}"\n{text}')
    if isinstance(model, str):
        (folder / "model.py").write_text(model)
    elif model is not None:
        onnx.save(model, folder / "model.onnx")


def _graph(nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto],
           weights: Sequence[onnx.TensorProto] = ()) -> onnx.ModelProto:  # fmt: skip
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _simple(dtype: str) -> onnx.ModelProto:
    (ins, outs), kind = _PAIR, _TYPES[dtype]
    values = [helper.make_tensor_value_info(name, kind, ["batch", 16]) for name in (*ins, *outs)]
    if dtype == "STRING":
        casts = [helper.make_node("Cast", [name], [f"{name}_"], to=TensorProto.INT32) for name in ins]
        texts = [helper.make_node("Cast", [f"{name}_"], [name], to=TensorProto.STRING) for name in outs]
        ins, outs = tuple(f"{name}_" for name in ins), tuple(f"{name}_" for name in outs)
    else:
        casts, texts = [], []
    nodes = [helper.make_node(op, ins, [out]) for op, out in zip(("Add", "Sub"), outs, strict=True)]
    return _graph([*casts, *nodes, *texts], values[:2], values[2:])


def _sequence() -> onnx.ModelProto:
    names = ("INPUT", "START", "READY", "OUTPUT")
    values = [helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", 1]) for name in names]
    started = helper.make_node("Add", ["INPUT", "START"], ["started"])
    nodes = [started, helper.make_node("Mul", ["started", "READY"], ["OUTPUT"])]
    return _graph(nodes, values[:3], values[3:])


def _classifier() -> onnx.ModelProto:
    """Like DenseNet: the batch is fixed to 1, and the output is [1, 6, 1, 1]."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [6, 3, 1, 1], [float(n % 7) for n in range(18)])
    nodes = [
        helper.make_node("GlobalAveragePool", ["data_0"], ["mean"]), helper.make_node("Conv", ["mean", "w"], ["fc6_1"]),
    ]  # fmt: skip
    image = helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [1, 3, 24, 24])
    return _graph(nodes, [image], [helper.make_tensor_value_info("fc6_1", TensorProto.FLOAT, [1, 6, 1, 1])], [weights])


_IDENTITY = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", request.inputs()[0].as_numpy())])
                for request in requests]
"""
# Adds up, and its last answer has the sequence's id on top.
_DYNA = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        def value(name):
            return pb_utils.get_input_tensor_by_name(request, name).as_numpy().item()

        corrid = value("CORRID")
        self.sums[corrid] = (0 if value("START") else self.sums[corrid]) + value("INPUT")
        found = self.sums[corrid] + (int(corrid) if value("END") else 0)
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array([[found]], np.int32))])
"""
_REPEAT = """
import threading, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            values, delays, wait = (pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                                    for name in ("IN", "DELAY", "WAIT"))
            sender = request.get_response_sender()
            threading.Thread(target=self.send, args=(sender, values, delays), daemon=True).start()
            time.sleep(wait[0] / 1000)

    def send(self, sender, values, delays):
        for index, (value, delay) in enumerate(zip(values, delays)):
            time.sleep(delay / 1000)
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("IDX", np.array([index], np.uint32)),
                                                    pb_utils.Tensor("OUT", np.array([value], np.int32))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
_PREPROCESS = """
import io
import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            content = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()[0]
            picture = Image.open(io.BytesIO(content)).convert("RGB").resize((24, 24))
            found = np.asarray(picture, np.float32).transpose(2, 0, 1) / 127.5 - 1
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", found)]))
        return responses
"""


def _controls(corrid: str) -> str:
    blocks = "".join(
        f'{{ name: "{name}" control [ {{ kind: CONTROL_SEQUENCE_{name} int32_false_true: [ 0, 1 ] }} ] }},\n'
        for name in ("START", "END", "READY")
    )
    return f"""
sequence_batching {{
  max_sequence_idle_microseconds: 10000000
  oldest {{ max_candidate_sequences: 1024 max_queue_delay_microseconds: 10000 }}
  control_input [
    {blocks}
    {{ name: "CORRID" control [ {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_{corrid} }} ] }}
  ]
}}
instance_group [ {{ count: 2 kind: KIND_CPU }} ]
"""


def build(root: Path) -> None:
    """Writes them all."""
    onnx_of_8 = 'platform: "onnxruntime_onnx"\nmax_batch_size: 8\n'
    for name, dtype in (("simple", "INT32"), ("simple_int8", "INT8"), ("simple_string", "STRING")):
        ins, outs = ([(io, dtype, "16") for io in ios] for ios in _PAIR)
        _write(root, name, config(ins, outs, onnx_of_8), _simple(dtype))
    text = config([("INPUT0", "STRING", "-1")], [("OUTPUT0", "STRING", "-1")], 'backend: "python"\nmax_batch_size: 8\n')
    _write(root, "simple_identity", text, _IDENTITY)
    io = [("INPUT", "INT32", "1")], [("OUTPUT", "INT32", "1")]
    controls = "".join(
        f'{{ name: "{name}" control [ {{ kind: CONTROL_SEQUENCE_{name} int32_false_true: [ 0, 1 ] }} ] }},'
        for name in ("START", "READY")
    ).rstrip(",")
    rest = f"sequence_batching {{ control_input [ {controls} ] }}\ninstance_group [ {{ kind: KIND_CPU }} ]"
    _write(root, "simple_sequence", config(*io, onnx_of_8 + rest), _sequence())
    for name, corrid in (("simple_dyna_sequence", "UINT64"), ("simple_string_dyna_sequence", "STRING")):
        _write(root, name, config(*io, 'backend: "python"\nmax_batch_size: 8\n' + _controls(corrid)), _DYNA)
    ins = [("IN", "INT32", "-1"), ("DELAY", "UINT32", "-1"), ("WAIT", "UINT32", "1")]
    text = config(ins, [("OUT", "INT32", "1"), ("IDX", "UINT32", "1")],
                  'backend: "python"\nmax_batch_size: 0\nmodel_transaction_policy { decoupled: True }\n')  # fmt: skip
    _write(root, "repeat_int32", text, _REPEAT)
    rest = 'platform: "onnxruntime_onnx"\nmax_batch_size : 0\n'
    image = [("data_0", "FP32", "3, 24, 24", "format: FORMAT_NCHW reshape { shape: [ 1, 3, 24, 24 ] }")]
    labels = ("fc6_1", "FP32", "6", 'reshape { shape: [ 1, 6, 1, 1 ] } label_filename: "labels.txt"')
    _write(root, "densenet_onnx", config(image, [labels], rest), _classifier())
    (root / "densenet_onnx" / "labels.txt").write_text("\n".join(["CAT", "DOG", "COFFEE MUG", "BOAT", "BIRD", "CAR"]))
    text = config([("INPUT", "STRING", "1")], [("OUTPUT", "FP32", "3, 24, 24")], 'backend: "python"')
    _write(root, "image_preprocess", text, _PREPROCESS)
    steps = "".join(
        f'{{ model_name: "{name}"\n model_version: -1\n input_map {{ key: "{taken}" value: "{source}" }}\n'
        f'output_map {{ key: "{made}" value: "{target}" }} }},'
        for name, taken, source, made, target in (
            ("image_preprocess", "INPUT", "INPUT", "OUTPUT", "image"),
            ("densenet_onnx", "data_0", "image", "fc6_1", "OUTPUT"),
        )
    ).rstrip(",")
    text = config([("INPUT", "STRING", "1")], [("OUTPUT", "FP32", "6")],
                  f'platform: "ensemble"\nensemble_scheduling {{ step [ {steps} ] }}')  # fmt: skip
    _write(root, "preprocess_densenet_ensemble", text, None)
