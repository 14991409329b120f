"""A repository of small models of all kinds for servers in this process."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

_HEAD = "import time\nimport numpy as np\nimport triton_python_backend_utils as pb_utils\n\nclass TritonPythonModel:\n"
_IO = """
input { name: "IN" data_type: TYPE_FP32 dims: -1 }
output { name: "OUT" data_type: TYPE_FP32 dims: -1 }
"""
_PYTHON = {
    "count": ("""
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for i in range(int(request.inputs()[0].as_numpy()[0])):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32([i]))]))
                if i == 2:
                    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("two is reached")))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
""", 'backend: "python" model_transaction_policy { decoupled: true }' + _IO),
    "slow": ("""
    def execute(self, requests):
        for request in requests:
            until = time.monotonic() + float(request.inputs()[0].as_numpy()[0])
            while time.monotonic() < until and not request.is_cancelled():
                time.sleep(0.01)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32([1]))]) for _ in requests]
""", 'backend: "python"' + _IO),
    "tells": ("""
    def execute(self, requests):
        found = []
        for request in requests:
            text = f"{request.request_id()}|{request.correlation_id()}|{request.flags()}|{request.parameters()}"
            answer = [pb_utils.Tensor("OUT", np.array([text.encode()], dtype=object))]
            found.append(pb_utils.InferenceResponse(answer, parameters={"seen": 1}))
        return found
""", """backend: "python"
input { name: "IN" data_type: TYPE_STRING dims: -1 }
output { name: "OUT" data_type: TYPE_STRING dims: -1 }
"""),
    "sums": ("""
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        found = []
        for request in requests:
            values = {tensor.name(): tensor.as_numpy().reshape(-1)[0] for tensor in request.inputs()}
            key = request.correlation_id()
            self.sums[key] = values["IN"] + (0 if values["START"] else self.sums[key])
            found.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32([[self.sums[key]]]))]))
        return found
""", """backend: "python"
max_batch_size: 4
input { name: "IN" data_type: TYPE_FP32 dims: 1 }
output { name: "OUT" data_type: TYPE_FP32 dims: 1 }
sequence_batching { control_input { name: "START" control {
    kind: CONTROL_SEQUENCE_START int32_false_true: 0 int32_false_true: 1 } } }
"""),
}
_CONFIGS = {
    "same": 'backend: "identity"' + _IO,
    "strings": """backend: "identity"
input { name: "IN" data_type: TYPE_STRING dims: -1 }
output { name: "OUT" data_type: TYPE_STRING dims: -1 }
""",
    "halves": """backend: "identity"
input { name: "IN" data_type: TYPE_BF16 dims: -1 }
output { name: "OUT" data_type: TYPE_BF16 dims: -1 }
""",
    "chain": """platform: "ensemble"
input { name: "IN" data_type: TYPE_FP32 dims: -1 }
output { name: "OUT" data_type: TYPE_FP32 dims: -1 }
ensemble_scheduling {
    step { model_name: "same" model_version: -1
        input_map { key: "IN" value: "IN" } output_map { key: "OUT" value: "BETWEEN" } }
    step { model_name: "same" model_version: -1
        input_map { key: "IN" value: "BETWEEN" } output_map { key: "OUT" value: "OUT" } }
}
""",
}


def build(root: Path) -> None:
    """Writes the models into an empty directory."""
    for name, (code, config) in _PYTHON.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.py").write_text(_HEAD + code)
        (root / name / "config.pbtxt").write_text(config)
    for name, config in _CONFIGS.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(config)
    (root / "add" / "1").mkdir(parents=True)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("A", "B", "SUM")]
    graph = helper.make_graph([helper.make_node("Add", ["A", "B"], ["SUM"])], "add", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, root / "add" / "1" / "model.onnx")
