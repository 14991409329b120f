"""The models that the programs of `wheel_checks` ask."""

from __future__ import annotations

from pathlib import Path

_HEAD = """
import json
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
"""
_FLOATS = """
input { name: "IN" data_type: TYPE_FP32 dims: -1 }
output { name: "OUT" data_type: TYPE_FP32 dims: -1 }
"""
_STRINGS = """
input { name: "IN" data_type: TYPE_STRING dims: -1 }
output { name: "OUT" data_type: TYPE_STRING dims: -1 }
"""
_CONFIGS = {
    "same": 'backend: "identity"' + _FLOATS,
    "strings": 'backend: "identity"' + _STRINGS,
    "batched": """backend: "identity" max_batch_size: 4
        input { name: "IN" data_type: TYPE_INT32 dims: 2 }
        output { name: "OUT" data_type: TYPE_INT32 dims: 2 }
    """,
}
_PYTHON = {
    # That many responses, and an error behind the third.
    "count": ("""
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for i in range(int(request.inputs()[0].as_numpy()[0])):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32([i]))]))
                if i == 2 and request.inputs()[0].as_numpy()[0] > 3:
                    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("three are out")))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
""", 'backend: "python" model_transaction_policy { decoupled: true }' + _FLOATS),
    # Takes that many seconds, unless nobody waits.
    "slow": ("""
    def execute(self, requests):
        for request in requests:
            until = time.monotonic() + float(request.inputs()[0].as_numpy()[0])
            while time.monotonic() < until and not request.is_cancelled():
                time.sleep(0.01)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32([1]))]) for _ in requests]
""", 'backend: "python"' + _FLOATS),
    "tells": ("""
    def execute(self, requests):
        found = []
        for request in requests:
            if request.inputs()[0].as_numpy()[0] == b"fail":
                found.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("it fails as it was told")))
                continue
            said = json.dumps(json.loads(request.parameters()))
            text = f"{request.request_id()}|{request.correlation_id()}|{request.flags()}|{said}"
            answer = [pb_utils.Tensor("OUT", np.array([text.encode()], dtype=object))]
            parameters = {"seen": 1, "word": "w", "yes": True}
            found.append(pb_utils.InferenceResponse(answer, parameters=parameters))
        return found
""", 'backend: "python"' + _STRINGS),
}  # fmt: skip


def build(root: Path) -> None:
    """Writes the models into an empty directory."""
    for name, config in _CONFIGS.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(config)
    for name, (code, config) in _PYTHON.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.py").write_text(_HEAD + code)
        (root / name / "config.pbtxt").write_text(config)
