"""Warm-up of Python models, in the server and in worker processes, beside models of other engines."""

from __future__ import annotations

from pathlib import Path

import backend_models
import numpy as np
import pytest
from python_stage import IDENTITY, IO, request, stage, write

# The requests of each execution, of all instances, as lines of a file.
JOURNAL = """
    import os
    class TritonPythonModel:
        def initialize(self, args):
            self.name = args["model_instance_name"]
        def execute(self, requests):
            found = []
            for request in requests:
                tensors = [pb_utils.get_input_tensor_by_name(request, name) for name in ("IN", "TEXT")]
                found.append(" ".join(
                    [repr(request.request_id()), *sorted(request.requested_output_names())]
                    + [str(t.as_numpy().tolist()).replace(" ", "") for t in tensors if t is not None]
                ))
            with open(os.path.join(os.path.dirname(__file__), "journal"), "a") as file:
                file.write(f"{self.name}: {'; '.join(found)}\\n")
            return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.zeros((1, 2), np.float32))])
                    for request in requests]
"""
CONFIG = """
    max_batch_size: 8
    input { name: "IN" data_type: TYPE_FP32 dims: [ 2 ] }
    input { name: "TEXT" data_type: TYPE_STRING dims: [ -1 ] }
    output { name: "OUT" data_type: TYPE_FP32 dims: [ 2 ] }
    instance_group { count: 2 kind: KIND_CPU }
    model_warmup [
      { name: "empty" batch_size: 3 count: 2
        inputs { key: "IN" value { data_type: TYPE_FP32 dims: 2 zero_data: true } }
        inputs { key: "TEXT" value { data_type: TYPE_STRING dims: 2 random_data: true } } },
      { name: "file" batch_size: 1
        inputs { key: "IN" value { data_type: TYPE_FP32 dims: 2 input_data_file: "in" } }
        inputs { key: "TEXT" value { data_type: TYPE_STRING dims: 2 input_data_file: "text" } } }
    ]
"""
SAMPLE = """model_warmup { name: "w" batch_size: 1
    inputs { key: "IN" value { data_type: TYPE_FP32 dims: 2 zero_data: true } } }"""
MODES = pytest.mark.parametrize("isolation", ["none", "process"])


def option(isolation: str) -> str:
    return f"--backend-config=python,isolation={isolation}"


@MODES
def test_each_instance_gets_all_samples(tmp_path: Path, isolation: str) -> None:
    directory = write(tmp_path, "m", JOURNAL, CONFIG)
    (directory / "warmup").mkdir()
    (directory / "warmup" / "in").write_bytes(np.float32([1, 2]).tobytes())
    (directory / "warmup" / "text").write_bytes(b"\x02\0\0\0ab\x01\0\0\0c")
    with stage(tmp_path, option(isolation)) as server:
        lines = (directory / "1" / "journal").read_text().splitlines()
        one = "'' OUT [[0.0,0.0]] [[b'',b'']]"
        expected = [f"{one}; {one}; {one}", f"{one}; {one}; {one}", "'' OUT [[1.0,2.0]] [[b'ab',b'c']]"]
        for name in ("m_0_0", "m_0_1"):
            assert [line.split(": ", 1)[1] for line in lines if line.startswith(name)] == expected
        assert len(lines) == 6
        statistics = server.statistics("m")
        assert (statistics["inference_count"], statistics["execution_count"]) == (0, 0)
        line = 'nv_inference_exec_count{model="m",version="1"} '
        assert server.metrics(line) == [f"{line}0"]


@MODES
def test_a_model_that_fails_is_not_served(tmp_path: Path, isolation: str) -> None:
    code = """
class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse(error=pb_utils.TritonError('not today'))]
"""
    write(tmp_path, "m", code, IO + SAMPLE)
    write(tmp_path, "other", IDENTITY, IO + SAMPLE)
    with stage(tmp_path, option(isolation)) as server:
        assert server.reason("m").startswith("Invalid argument: failed to run warmup sample 'w': ")
        assert "not today" in server.reason("m")
        assert server.ask("other", [1, 2]).tolist() == [1, 2]


@MODES
def test_streams_and_models_that_ask_others(tmp_path: Path, isolation: str) -> None:
    write(tmp_path, "stream", """
        class TritonPythonModel:
            def execute(self, requests):
                for request in requests:
                    sender = request.get_response_sender()
                    for i in range(3):
                        sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32([i]))]))
                    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    """, IO + "model_transaction_policy { decoupled: true }" + SAMPLE)  # fmt: skip
    write(tmp_path, "asks", """
        class TritonPythonModel:
            def execute(self, requests):
                tensor = pb_utils.Tensor("IN", np.float32([7]))
                made = pb_utils.InferenceRequest(model_name="later", inputs=[tensor], requested_output_names=["OUT"])
                answer = made.exec()
                if answer.has_error():
                    raise pb_utils.TritonModelException(answer.error().message())
                return [pb_utils.InferenceResponse(answer.output_tensors()) for request in requests]
    """, IO + SAMPLE)  # fmt: skip
    write(tmp_path, "later", IDENTITY, IO + SAMPLE)
    with stage(tmp_path, option(isolation), "--model-control-mode=explicit") as server:
        server.run(server.server.load_model("stream"))
        server.run(server.server.load_model("later"))
        # While it warms up it asks a model that is ready; that one's statistics count what was asked of it.
        server.run(server.server.load_model("asks"))
        assert server.statistics("later")["inference_count"] == 1
        assert server.statistics("stream")["response_stats"] == {}
        assert server.ask("asks", [1, 2]).tolist() == [7]
        assert len(server.send(request("stream", IN=np.float32([1]))).all()) == 4


ONNX = """
    platform: "onnxruntime_onnx" max_batch_size: 4
    instance_group { count: 2 kind: KIND_CPU }
    model_warmup { name: "w" batch_size: 4 count: 3
      inputs { key: "INPUT0" value { data_type: TYPE_FP32 dims: 16 random_data: true } }
      inputs { key: "INPUT1" value { data_type: TYPE_FP32 dims: %d zero_data: true } } }
"""


@pytest.mark.parametrize(("dims", "reason"), [
    (16, ""),
    (15, "Invalid argument: failed to run warmup sample 'w': [request id: <id_unknown>] unexpected shape for input "
         "'INPUT1' for model 'onnx'. Expected [-1,16], got [1,15]."),
])  # fmt: skip
def test_models_of_other_engines(tmp_path: Path, dims: int, reason: str) -> None:
    backend_models.write(tmp_path, backend_models.add_sub(), ONNX % dims, "onnx")
    with stage(tmp_path) as server:
        assert server.reason("onnx").startswith(reason)
        assert bool(server.reason("onnx")) == bool(reason)
        if not reason:
            assert server.statistics("onnx")["execution_count"] == 0
            x = np.ones((1, 16), np.float32)
            assert server.infer(request("onnx", INPUT0=x, INPUT1=x))["OUTPUT0"].tolist() == [[2.0] * 16]
            assert server.statistics("onnx")["execution_count"] == 1
