"""Models that only the system tests need: one that waits to fill its batches, and one that is slow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_models
from onnx import TensorProto, helper, numpy_helper

# Long enough for a client to send all its requests while the first one waits.
QUEUE_DELAY_MICROSECONDS = 500_000
LARGEST_BATCH = 16

PATIENT_CONFIG = f"""
backend: "onnxruntime"
max_batch_size: {LARGEST_BATCH}
input [
  {{ name: "INPUT0", data_type: TYPE_INT32, dims: [ 16 ] }},
  {{ name: "INPUT1", data_type: TYPE_INT32, dims: [ 16 ] }}
]
output [
  {{ name: "OUTPUT0", data_type: TYPE_INT32, dims: [ 16 ] }},
  {{ name: "OUTPUT1", data_type: TYPE_INT32, dims: [ 16 ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_MICROSECONDS} }}
instance_group [ {{ count: 1, kind: KIND_CPU }} ]
"""

SLOW_CONFIG = """
backend: "onnxruntime"
max_batch_size: 0
input [ { name: "ROUNDS", data_type: TYPE_INT64, dims: [ 1 ] } ]
output [ { name: "DONE", data_type: TYPE_INT64, dims: [ 1 ] } ]
instance_group [ { count: 1, kind: KIND_CPU } ]
"""
# One round is a product of two matrices of this size: about a millisecond.
SLOW_SIZE = 512


def slow() -> onnx.ModelProto:
    """DONE = ROUNDS, counted by a loop that multiplies matrices on the way."""
    number = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("MatMul", ["state", "shift"], ["state_out"]),
            # A shifted identity: its largest element is one in every round, but the optimiser cannot know.
            helper.make_node("ReduceMax", ["state_out"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["step"], to=TensorProto.INT64),
            helper.make_node("Add", ["count", "step"], ["count_out"]),
        ],
        "round",
        [
            number("iteration", TensorProto.INT64, []),
            number("go_on", TensorProto.BOOL, []),
            number("state", TensorProto.FLOAT, [SLOW_SIZE, SLOW_SIZE]),
            number("count", TensorProto.INT64, [1]),
        ],
        [
            number("go_on_out", TensorProto.BOOL, []),
            number("state_out", TensorProto.FLOAT, [SLOW_SIZE, SLOW_SIZE]),
            number("count_out", TensorProto.INT64, [1]),
        ],
    )
    identity = np.eye(SLOW_SIZE, dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Squeeze", ["ROUNDS"], ["trips"]),
            helper.make_node("Loop", ["trips", "", "start", "zero"], ["end", "DONE"], body=body),
        ],
        "slow",
        [number("ROUNDS", TensorProto.INT64, [1])],
        [number("DONE", TensorProto.INT64, [1])],
        initializer=[
            numpy_helper.from_array(identity, "start"),
            numpy_helper.from_array(np.roll(identity, 1, axis=0), "shift"),
            numpy_helper.from_array(np.zeros(1, dtype=np.int64), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def build(repository: Path) -> None:
    """Write both models."""
    for name, model, config in [
        ("patient", onnx_models.add_sub(), PATIENT_CONFIG),
        ("slow", slow(), SLOW_CONFIG),
    ]:
        version = repository / name / "1"
        version.mkdir(parents=True)
        (version / "model.onnx").write_bytes(model.SerializeToString())
        (repository / name / "config.pbtxt").write_text(config)
