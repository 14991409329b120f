"""What a long body, or a long answer, takes at the most: four times its bytes, in a server that has served no other."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from server_process import poll
from started import Started, started

from triton_async import protos

MIB = 1 << 20
# Beside what depends on the body: threads that start, arenas, buffers of sockets.
FIXED = 24 * MIB
COUNT = 8_000_000
CONFIG = """
backend: "identity"
input {{ name: "INPUT0" data_type: TYPE_{0} dims: -1 }}
output {{ name: "OUTPUT0" data_type: TYPE_{0} dims: -1 }}
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("FP32", "STRING"):
        (tmp_path / "models" / name.lower() / "1").mkdir(parents=True)
        (tmp_path / "models" / name.lower() / "config.pbtxt").write_text(CONFIG.format(name))
    return tmp_path / "models"


def memory(server: Started, name: str) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) << 10


def post(server: Started, path: str, body: bytes, **headers: str) -> bytes:
    connection = HTTPConnection("127.0.0.1", server.http_port, timeout=120)
    connection.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    answer = response.read()
    assert response.status == 200, answer[:500]
    connection.close()
    return answer


def request(datatype: str, count: int, values: str, binary: bool) -> bytes:
    entry = f'{{"name":"INPUT0","datatype":"{datatype}","shape":[{count}],"data":[{values}]}}'
    return f'{{"inputs":[{entry}],"parameters":{{"binary_data_output":{json.dumps(binary)}}}}}'.encode()


def numbers_in(server: Started, count: int) -> int:
    body = request("FP32", count, ",".join(["1.5"] * count), True)
    assert len(post(server, "/v2/models/fp32/infer", body)) > 4 * count
    return len(body)


def numbers_in_by_gzip(server: Started, count: int) -> int:
    body = request("FP32", count, ",".join(["1.5"] * count), True)
    post(server, "/v2/models/fp32/infer", gzip.compress(body, 1), Content_Encoding="gzip")
    return len(body)


def strings_in(server: Started, count: int) -> int:
    body = request("BYTES", count, ",".join(['"a"'] * count), True)
    post(server, "/v2/models/string/infer", body)
    return len(body)


def what_nobody_reads(server: Started, count: int) -> int:
    body = request("FP32", 1, "1", False)[:-1] + b',"x":[' + b"{}," * count + b"{}]}"
    post(server, "/v2/models/fp32/infer", body)
    return len(body)


def numbers_out(server: Started, count: int) -> int:
    entry = {"name": "INPUT0", "datatype": "FP32", "shape": [count], "parameters": {"binary_data_size": 4 * count}}
    text = json.dumps({"inputs": [entry]}).encode()
    tensor = np.full(count, 1.5, np.float32).tobytes()
    return len(post(server, "/v2/models/fp32/infer", text + tensor, Inference_Header_Content_Length=str(len(text))))


def generated(server: Started, count: int) -> int:
    body = json.dumps({"INPUT0": [1.5] * count}, separators=(",", ":")).encode()
    return max(len(body), len(post(server, "/v2/models/fp32/generate", body)))


def typed_contents(server: Started, count: int) -> int:
    message = protos.message("inference.ModelInferRequest")(model_name="fp32")
    message.inputs.add(name="INPUT0", datatype="FP32", shape=[count]).contents.fp32_contents.extend([1.5] * count)
    data = message.SerializeToString()
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        answer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(data, timeout=120)
    assert len(answer) > 4 * count
    return len(data)


@pytest.mark.parametrize("ask", [
    numbers_in, numbers_in_by_gzip, strings_in, what_nobody_reads, numbers_out, generated, typed_contents,
])  # fmt: skip
def test_four_times_the_bytes_at_the_most(models: Path, tmp_path: Path, ask: Callable[[Started, int], int]) -> None:
    with started(tmp_path, f"--model-repository={models}") as server:
        server.wait_until_it_answers()
        ask(server, 20_000)  # what is loaded with the first request of its kind is
        before = memory(server, "VmRSS")
        nbytes = ask(server, COUNT)
        growth = memory(server, "VmHWM") - before
        assert growth <= 4 * nbytes + FIXED, f"{growth / nbytes:.2f} times"


def test_what_a_burst_took_is_given_back_when_the_server_is_idle(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Exp", ["INPUT0"], ["t"]), onnx.helper.make_node("Sin", ["t"], ["OUTPUT0"])], "g",
        [onnx.helper.make_tensor_value_info("INPUT0", onnx.TensorProto.FLOAT, ["n"])],
        [onnx.helper.make_tensor_value_info("OUTPUT0", onnx.TensorProto.FLOAT, ["n"])],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    onnx.save(model, str(tmp_path / "models" / "m" / "1" / "model.onnx"))
    (tmp_path / "models" / "m" / "config.pbtxt").write_text('backend: "onnxruntime" max_batch_size: 0')
    count = 8 << 20
    entry = {"name": "INPUT0", "datatype": "FP32", "shape": [count], "parameters": {"binary_data_size": 4 * count}}
    header = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    body = header + bytes(4 * count)
    with started(tmp_path, f"--model-repository={tmp_path / 'models'}") as server:
        server.wait_until_it_answers()
        before = memory(server, "RssAnon")
        length = {"Inference_Header_Content_Length": str(len(header))}
        with ThreadPoolExecutor(4) as threads:
            answers = [threads.submit(post, server, "/v2/models/m/infer", body, **length) for _ in range(4)]
            assert all(len(answer.result()) > 4 * count for answer in answers)
        assert memory(server, "VmHWM") > before + 8 * count
        poll(lambda: memory(server, "RssAnon") < before + FIXED, "the memory of large requests to go", 20)
