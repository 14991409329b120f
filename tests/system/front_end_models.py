"""A repository for the tests of front-end processes: light models of every way in which a request can go."""

from __future__ import annotations

from pathlib import Path

IDENTITY = """
    backend: "identity"
    max_batch_size: {most}
    input {{ name: "INPUT0" data_type: {datatype} dims: -1 }}
    output {{ name: "OUTPUT0" data_type: {datatype} dims: -1 }}
    parameters {{ key: "execute_delay_ms" value {{ string_value: "{delay_ms}" }} }}
    {more}
"""
FULL = "dynamic_batching { default_queue_policy { max_queue_size: 1 } } instance_group { count: 1 }"

# Answers N times, every answer so many bytes long.
COUNTS = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            count, nbytes = pb_utils.get_input_tensor_by_name(request, "N").as_numpy()
            sender = request.get_response_sender()
            for number in range(count):
                text = (str(number) + " ").encode().ljust(nbytes, b".")
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("TEXT", np.array([text], dtype=object))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None
"""
COUNTS_CONFIG = """
    backend: "python"
    model_transaction_policy { decoupled: true }
    input { name: "N" data_type: TYPE_INT32 dims: 2 }
    output { name: "TEXT" data_type: TYPE_STRING dims: 1 }
"""

CHAIN = """
    platform: "ensemble"
    max_batch_size: 8
    input { name: "INPUT0" data_type: TYPE_FP32 dims: -1 }
    output { name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }
    ensemble_scheduling {
      step { model_name: "numbers" model_version: -1
             input_map { key: "INPUT0" value: "INPUT0" } output_map { key: "OUTPUT0" value: "between" } }
      step { model_name: "numbers" model_version: -1
             input_map { key: "INPUT0" value: "between" } output_map { key: "OUTPUT0" value: "OUTPUT0" } }
    }
"""


def build(root: Path) -> None:
    """Writes the models: numbers, strings, slow, full, counts, chain."""
    for name, datatype, most, delay_ms, more in (
        ("numbers", "TYPE_FP32", 8, 0, "dynamic_batching { }"),
        ("strings", "TYPE_STRING", 8, 0, ""),
        ("slow", "TYPE_FP32", 0, 400, ""),
        ("full", "TYPE_FP32", 1, 1500, FULL),
    ):
        _write(root, name, IDENTITY.format(datatype=datatype, most=most, delay_ms=delay_ms, more=more))
    _write(root, "counts", COUNTS_CONFIG)
    (root / "counts" / "1" / "model.py").write_text(COUNTS)
    _write(root, "chain", CHAIN)


def _write(root: Path, name: str, config: str) -> None:
    (root / name / "1").mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(config)
