"""Models of sequences for the system tests: each adds up what its sequence sends, and has its state from the server."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import onnx
from onnx import TensorProto, helper

STATE = 'state { input_name: "SUM_IN" output_name: "SUM_OUT" data_type: TYPE_FP32 dims: 1 }'
START = 'control_input { name: "START" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }'
IO = """
    input { name: "X" data_type: TYPE_FP32 dims: 1 }
    output { name: "Y" data_type: TYPE_FP32 dims: 1 }
"""

SUMS = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            total = sum(pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("X", "SUM_IN"))
            responses.append(pb_utils.InferenceResponse(
                [pb_utils.Tensor("Y", total), pb_utils.Tensor("SUM_OUT", total)]
            ))
        return responses
"""
# Counts down from X, one pass of the scheduler for each step.
COUNTS = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, arguments):
        self.passes = {}

    def execute(self, requests):
        responses = []
        for request in requests:
            id = request.correlation_id()
            if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
                self.passes[id] = 0
            self.passes[id] += 1
            if self.passes[id] < pb_utils.get_input_tensor_by_name(request, "X").as_numpy()[0, 0]:
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
                responses.append(None)
                continue
            passes = np.array([[self.passes.pop(id)]], np.float32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", passes)]))
        return responses
"""
STREAMS = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, arguments):
        self.passes = {}

    def execute(self, requests):
        for request in requests:
            id, sender = request.correlation_id(), request.get_response_sender()
            self.passes[id] = self.passes.get(id, 0) + 1
            passes = self.passes[id]
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([[passes]], np.float32))]))
            if passes < pb_utils.get_input_tensor_by_name(request, "X").as_numpy()[0, 0]:
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
            else:
                del self.passes[id]
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
# Asks `sums` with a sequence of its own.
ASKS = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        values = pb_utils.get_input_tensor_by_name(request, "VALUES").as_numpy().reshape(-1)
        for place, value in enumerate(values):
            response = pb_utils.InferenceRequest(
                model_name="sums", inputs=[pb_utils.Tensor("X", value.reshape(1, 1))], requested_output_names=["Y"],
                correlation_id=int(pb_utils.get_input_tensor_by_name(request, "ID").as_numpy()[0]),
                flags=(place == 0) + 2 * (place == len(values) - 1),
            ).exec()
            if response.has_error():
                return pb_utils.InferenceResponse(error=response.error())
        return pb_utils.InferenceResponse([response.output_tensors()[0]])
"""


def write(root: Path, name: str, config: str, model: str | onnx.ModelProto) -> None:
    """A model in `root`: a model.py or a graph."""
    directory = root / name
    (directory / "1").mkdir(parents=True)
    (directory / "config.pbtxt").write_text(config)
    if isinstance(model, str):
        (directory / "1" / "model.py").write_text(model)
    else:
        onnx.save(model, directory / "1" / "model.onnx")


def sums() -> onnx.ModelProto:
    """Y = SUM_OUT = X + SUM_IN + 0 * START."""
    tensors = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 1])
        for name in ("X", "START", "SUM_IN", "Y", "SUM_OUT")
    }
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["START", "nothing"], ["none"]),
            helper.make_node("Sum", ["X", "SUM_IN", "none"], ["SUM_OUT"]),
            helper.make_node("Identity", ["SUM_OUT"], ["Y"]),
        ],
        "sums",
        [tensors[name] for name in ("X", "START", "SUM_IN")],
        [tensors[name] for name in ("Y", "SUM_OUT")],
        [helper.make_tensor("nothing", TensorProto.FLOAT, [1], [0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def write_torch(root: Path, batching: str) -> None:
    """The same sums as TorchScript, which begin at 0 by a file."""
    import torch

    class Sums(torch.nn.Module):
        def forward(self, X: torch.Tensor, START: torch.Tensor, SUM_IN: torch.Tensor):  # type: ignore[no-untyped-def]
            total = X + SUM_IN + 0 * START
            return total, total

    directory = root / "torch"
    (directory / "1").mkdir(parents=True)
    (directory / "initial_state").mkdir()
    (directory / "initial_state" / "zero").write_bytes(bytes(4))
    first = 'initial_state { name: "zero" data_type: TYPE_FP32 dims: 1 data_file: "zero" }'
    state = STATE.replace("dims: 1", f"dims: 1 {first}")
    (directory / "config.pbtxt").write_text(
        f'platform: "pytorch_libtorch" max_batch_size: 8 {IO} sequence_batching {{ {batching} {START} {state} }}'
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Sums()).save(str(directory / "1" / "model.pt"))


def write_ensemble(root: Path, name: str, model: str) -> None:
    """The model as the one step of an ensemble."""
    (root / name / "1").mkdir(parents=True)
    maps = 'input_map { key: "X" value: "X" } output_map { key: "Y" value: "Y" }'
    (root / name / "config.pbtxt").write_text(
        f'platform: "ensemble" max_batch_size: 8 {IO} '
        f'ensemble_scheduling {{ step {{ model_name: "{model}" model_version: -1 {maps} }} }}'
    )


def build(root: Path) -> None:
    """The repository."""
    idle = "max_sequence_idle_microseconds: 60000000"
    isolated = 'parameters { key: "ISOLATION" value { string_value: "process" } }'
    oldest = f"oldest {{ max_candidate_sequences: 64 }} {idle}"
    write(root, "sums", f"max_batch_size: 8 sequence_batching {{ {oldest} {START} {STATE} }}", sums())
    if has_torch():
        write_torch(root, f"direct {{ }} {idle}")
    write(root, "rows", f"max_batch_size: 8 sequence_batching {{ direct {{ }} {idle} {START} {STATE} }}", sums())
    alone = "max_batch_size: 1 instance_group { kind: KIND_CPU count: 1 }"
    write(root, "one", f"{alone} sequence_batching {{ {idle} {START} {STATE} }}", sums())
    write_ensemble(root, "ensemble", "rows")
    shown = 'output { name: "SUM_OUT" data_type: TYPE_FP32 dims: 1 }'
    write(root, "shown", f"max_batch_size: 8 {IO} {shown} sequence_batching {{ {oldest} {START} {STATE} }}", sums())
    head = f'backend: "python" max_batch_size: 8 {IO} {shown}'
    write(root, "shown_python", f"{head} sequence_batching {{ {oldest} {STATE} }}", SUMS)
    for name, parameters in (("python", ""), ("isolated", isolated)):
        head = f'backend: "python" max_batch_size: 8 {parameters} {IO}'
        write(root, name, f"{head} sequence_batching {{ {oldest} {STATE} }}", SUMS)
        write(root, f"counts_{name}", f"{head} sequence_batching {{ oldest {{ max_candidate_sequences: 8 }} "
              "iterative_sequence: true }", COUNTS)  # fmt: skip
        write(root, f"streams_{name}", f"{head} model_transaction_policy {{ decoupled: true }} "
              "sequence_batching { iterative_sequence: true }", STREAMS)  # fmt: skip
    write(root, "asks", """
        backend: "python"
        input [ { name: "VALUES" data_type: TYPE_FP32 dims: -1 }, { name: "ID" data_type: TYPE_INT64 dims: 1 } ]
        output { name: "Y" data_type: TYPE_FP32 dims: [ -1, -1 ] }
    """, ASKS)  # fmt: skip
