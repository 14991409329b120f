"""The Python models that the benchmarks of Python models serve, the same files for both servers."""

from __future__ import annotations

from pathlib import Path

IDENTITY, ISOLATED = "identity", "identity_isolated"
CHAIN, CHAIN_ISOLATED = "chain", "chain_isolated"
REPEAT, REPEAT_ISOLATED = "repeat", "repeat_isolated"
HEAVY, HEAVY_ISOLATED = "heavy", "heavy_isolated"
HEAVY_PAIR = ("heavy_one", "heavy_two")
LIGHT = "light"
# Responses of one request of the decoupled model.
RESPONSES = 1000

_IDENTITY = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            array = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", array)]))
        return responses
"""
_CALLS = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            array = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            call = pb_utils.InferenceRequest(
                model_name="{next}", requested_output_names=["OUTPUT0"], inputs=[pb_utils.Tensor("INPUT0", array)]
            )
            response = call.exec()
            if response.has_error():
                raise pb_utils.TritonModelException(response.error().message())
            array = pb_utils.get_output_tensor_by_name(response, "OUTPUT0").as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", array)]))
        return responses
"""
_REPEAT = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for index in range({responses}):
                tensor = pb_utils.Tensor("OUTPUT0", np.array([index], dtype=np.int32))
                sender.send(pb_utils.InferenceResponse([tensor]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
# Some 50 ms of Python that never lets the interpreter go by itself.
_HEAVY = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            total = 0
            for number in range(700_000):
                total += number % 7
            tensor = pb_utils.Tensor("OUTPUT0", np.full([1, 16], total, dtype=np.float32))
            responses.append(pb_utils.InferenceResponse([tensor]))
        return responses
"""
_CONFIG = """backend: "python"
max_batch_size: {batch}
input {{ name: "INPUT0" data_type: TYPE_{dtype} dims: [ {dims} ] }}
output {{ name: "OUTPUT0" data_type: TYPE_{dtype} dims: [ {dims} ] }}
instance_group {{ count: 1 kind: KIND_CPU }}
"""
_DECOUPLED = "model_transaction_policy { decoupled: true }\n"
_PROCESS = 'parameters { key: "ISOLATION" value { string_value: "process" } }\n'


def _write(root: Path, name: str, source: str, config: str) -> None:
    (root / name / "1").mkdir(parents=True)
    (root / name / "1" / "model.py").write_text(source.lstrip())
    (root / name / "config.pbtxt").write_text(config)


def _chain(root: Path, name: str, more: str) -> None:
    """Three models, each of which calls the next."""
    config = _CONFIG.format(batch=8, dtype="FP32", dims=-1) + more
    _write(root, name, _CALLS.replace("{next}", f"{name}_second"), config)
    _write(root, f"{name}_second", _CALLS.replace("{next}", f"{name}_third"), config)
    _write(root, f"{name}_third", _IDENTITY, config)


def write(root: Path, *, isolated: bool) -> Path:
    """The models in the server's process and, where the server knows of that, isolated; returns `root`."""
    rows = _CONFIG.format(batch=8, dtype="FP32", dims=-1)
    counts = _CONFIG.format(batch=0, dtype="INT32", dims=1) + _DECOUPLED
    repeat = _REPEAT.replace("{responses}", str(RESPONSES))
    for ending, more in (("", ""), ("_isolated", _PROCESS)) if isolated else (("", ""),):
        _write(root, f"identity{ending}", _IDENTITY, rows + more)
        _write(root, f"repeat{ending}", repeat, counts + more)
        _write(root, f"heavy{ending}", _HEAVY, _CONFIG.format(batch=8, dtype="FP32", dims=16) + more)
        _chain(root, f"chain{ending}", more)
    return root


def write_many(root: Path, count: int, *, isolated: bool = False) -> Path:
    """`count` identity models; returns `root`."""
    config = _CONFIG.format(batch=8, dtype="FP32", dims=-1) + (_PROCESS if isolated else "")
    for number in range(count):
        _write(root, f"model_{number:04d}", _IDENTITY, config)
    return root


def write_heavy_pair(root: Path) -> Path:
    """Two models that compute in pure Python; returns `root`."""
    for name in HEAVY_PAIR:
        _write(root, name, _HEAVY, _CONFIG.format(batch=8, dtype="FP32", dims=16))
    return root
