"""What a client must never get from a server that runs: memory that grows, names from inside, another's data."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils.shared_memory as shm
from google.protobuf import json_format
from server_process import ServerProcess, poll, running_server
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

MODULES = {"http": tritonclient.http, "grpc": tritonclient.grpc}
WIDTH = 256
# Takes as many seconds as the parameter says.
ECHO = """
import json, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            time.sleep(json.loads(request.parameters() or "{}").get("ms", 0) / 1000)
            array = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", array)]))
        return answers
"""
TENSORS = """
input { name: "INPUT0" data_type: TYPE_FP32 dims: -1 }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }
"""
ISOLATED = 'parameters { key: "ISOLATION" value { string_value: "process" } }'
# What no answer shows: paths of this machine, addresses of memory, the names of our modules.
INSIDE = re.compile(
    r"(?<![\w:/])/(?:root|home|tmp|usr|var|proc|work|dev|etc|opt)\b|0x[0-9a-f]{6,}|triton_async\.|site-packages"
)
REFUSED_EACH = 400
GROWTH_KIB = 4096


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("models")
    configs = {
        "echo": f'backend: "identity" max_batch_size: 8 {TENSORS} dynamic_batching {{ }}',
        "slow": f'backend: "python" max_batch_size: 0 {TENSORS}',
        "isolated": f'backend: "python" max_batch_size: 0 {TENSORS} {ISOLATED}',
    }
    for name, config in configs.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(config)
        if "python" in config:
            (root / name / "1" / "model.py").write_text(ECHO)
    options = ["--allow-client-shm=true", "--model-control-mode=explicit", "--load-model=*"]
    with running_server([root], tmp_path_factory.mktemp("server"), options) as process:
        yield process
        process.wait_until_idle()
        process.stop()


def maps(server: ServerProcess) -> str:
    """What the server and its children have mapped."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if server.pid in (int(entry.name), parent):
                found.append((entry / "maps").read_text())
        except OSError:
            continue
    return "".join(found)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("which", ["one", "all"])
def test_a_region_in_use_outlives_its_unregister(server: ServerProcess, protocol: str, which: str) -> None:
    module: Any = MODULES[protocol]
    key, nbytes = f"guard-{uuid.uuid4().hex}", WIDTH * 4
    handle = shm.create_shared_memory_region("region", f"/{key}", 2 * nbytes)
    sent = np.random.default_rng(7).random(WIDTH, np.float32)
    try:
        with module.InferenceServerClient(server.url(protocol)) as client, ThreadPoolExecutor(1) as pool:
            shm.set_shared_memory_region(handle, [sent])
            client.register_system_shared_memory("region", f"/{key}", 2 * nbytes)
            assert key in maps(server)
            tensor = module.InferInput("INPUT0", [WIDTH], "FP32")
            tensor.set_shared_memory("region", nbytes)
            output = module.InferRequestedOutput("OUTPUT0")
            output.set_shared_memory("region", nbytes, nbytes)
            with module.InferenceServerClient(server.url(protocol)) as other:
                answer = pool.submit(other.infer, "slow", [tensor], outputs=[output], parameters={"ms": 700})
                poll(lambda: server.live_objects()["request"] > 0, "the request to begin")
                client.unregister_system_shared_memory("region" if which == "one" else "")
                assert not answer.done()
                answer.result(30)
            assert np.array_equal(shm.get_contents_as_numpy(handle, np.float32, [WIDTH], nbytes), sent)
            poll(lambda: key not in maps(server), "the region to be unmapped")
            with pytest.raises(InferenceServerException, match="region"):
                client.infer("slow", [tensor], outputs=[output])
    finally:
        shm.destroy_shared_memory_region(handle)


def test_our_own_memory_has_no_name(server: ServerProcess) -> None:
    """Tensors of worker processes lie in memory that no other process can open by a name."""
    with tritonclient.http.InferenceServerClient(server.http_url) as client:
        tensor = tritonclient.http.InferInput("INPUT0", [1 << 18], "FP32")
        tensor.set_data_from_numpy(np.ones(1 << 18, np.float32))
        assert client.infer("isolated", [tensor]).as_numpy("OUTPUT0").sum() == 1 << 18
    mapped = maps(server)
    assert "memfd:" in mapped and "/dev/shm/" not in mapped


# -- refusals --------------------------------------------------------------------------------------


def infer_text(**changes: Any) -> bytes:
    tensor = {"name": "INPUT0", "shape": [1, 2], "datatype": "FP32", "data": [1, 2], **changes}
    return json.dumps({"inputs": [tensor]}).encode()


INFER = "/v2/models/echo/infer"
REFUSALS: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "no JSON": (INFER, b"{", {}),
    "no inputs": (INFER, b"{}", {}),
    "another name": (INFER, infer_text(name="other"), {}),
    "another datatype": (INFER, infer_text(datatype="INT32"), {}),
    "no datatype": (INFER, infer_text(datatype="FP33"), {}),
    "another shape": (INFER, infer_text(shape=[1, 2, 3]), {}),
    "too many rows": (INFER, infer_text(shape=[9, 2], data=[0] * 18), {}),
    "too few values": (INFER, infer_text(shape=[1, 3]), {}),
    "a text for a number": (INFER, infer_text(data=["a", "b"]), {}),
    "an unknown model": ("/v2/models/nobody/infer", infer_text(), {}),
    "an unknown version": ("/v2/models/echo/versions/9/infer", infer_text(), {}),
    "an unknown region": (INFER, infer_text(data=None, parameters={"shared_memory_region": "no",
                                                                  "shared_memory_byte_size": 8}), {}),
    "a header length beyond the body": (INFER, infer_text(), {"Inference-Header-Content-Length": "9999"}),
    "no gzip": (INFER, infer_text(), {"Content-Encoding": "gzip"}),
    "an unknown coding": (INFER, infer_text(), {"Content-Encoding": "br"}),
    "a load of nobody": ("/v2/repository/models/nobody/load", b"", {}),
    "a load with a broken config": ("/v2/repository/models/echo/load", b'{"parameters":{"config":"{"}}', {}),
    "an unload of nobody": ("/v2/repository/models/nobody/unload", b"[", {}),
    "a region that is not there": ("/v2/systemsharedmemory/region/r/register",
                                   b'{"key":"/guard-none","offset":0,"byte_size":8}', {}),
    "a trace to a file": ("/v2/trace/setting", b'{"trace_file":"/x"}', {}),
    "a log to a file": ("/v2/logging", b'{"log_file":"/x"}', {}),
    "generate without inputs": ("/v2/models/echo/generate", b"{}", {}),
    "a route that is none": ("/v2/nothing", b"{}", {}),
}  # fmt: skip


def infer_message(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "INPUT0", "shape": [1, 2], "datatype": "FP32", **changes.pop("tensor", {})}
    raw = [base64.b64encode(np.ones(2, np.float32).tobytes()).decode()]
    return {"model_name": "echo", "inputs": [tensor], "raw_input_contents": raw, **changes}


def region_of(size: int) -> dict[str, Any]:
    return {"parameters": {"shared_memory_region": {"string_param": "no"},
                           "shared_memory_byte_size": {"int64_param": size}}}  # fmt: skip


GRPC_REFUSALS: dict[str, tuple[str, dict[str, Any] | bytes]] = {
    "no message": ("ModelInfer", b"\xff\xff\xff"),
    "no inputs": ("ModelInfer", infer_message(inputs=[], raw_input_contents=[])),
    "another name": ("ModelInfer", infer_message(tensor={"name": "other"})),
    "another datatype": ("ModelInfer", infer_message(tensor={"datatype": "INT32"})),
    "no datatype": ("ModelInfer", infer_message(tensor={"datatype": "FP33"})),
    "another shape": ("ModelInfer", infer_message(tensor={"shape": [1, 2, 3]})),
    "too many rows": ("ModelInfer", infer_message(tensor={"shape": [9, 2]})),
    "too few values": ("ModelInfer", infer_message(tensor={"shape": [1, 3]})),
    "no contents": ("ModelInfer", infer_message(raw_input_contents=[])),
    "an unknown model": ("ModelInfer", infer_message(model_name="nobody")),
    "an unknown version": ("ModelInfer", infer_message(model_version="9")),
    "an unknown region": ("ModelInfer", infer_message(tensor=region_of(8), raw_input_contents=[])),
    "a reserved parameter": ("ModelInfer", infer_message(parameters={"triton_x": {"bool_param": True}})),
    "a load of nobody": ("RepositoryModelLoad", {"model_name": "nobody"}),
    "a load with a broken config": ("RepositoryModelLoad", {"model_name": "echo",
                                                            "parameters": {"config": {"string_param": "{"}}}),
    "an unload of a repository's": ("RepositoryModelUnload", {"repository_name": "r", "model_name": "echo"}),
    "metadata of nobody": ("ModelMetadata", {"name": "nobody"}),
    "a config of nobody": ("ModelConfig", {"name": "nobody"}),
    "statistics of nobody": ("ModelStatistics", {"name": "nobody"}),
    "a version that is none": ("ModelReady", {"name": "echo", "version": "one"}),
    "an index of a repository": ("RepositoryIndex", {"repository_name": "r"}),
    "a region that is not there": ("SystemSharedMemoryRegister", {"name": "r", "key": "/guard-none", "byte_size": 8}),
    "a region of a GPU": ("CudaSharedMemoryRegister", {"name": "r", "byte_size": 8}),
    "a trace to a file": ("TraceSetting", {"settings": {"trace_file": {"value": ["/x"]}}}),
    "a log to a file": ("LogSettings", {"settings": {"log_file": {"string_param": "/x"}}}),
    "a call that is none": ("ModelGuess", b""),
}  # fmt: skip


def resident_kib(pid: int) -> int:
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refused_request_leaves_nothing_and_tells_nothing(server: ServerProcess, kind: str) -> None:
    path, body, headers = REFUSALS[kind]
    connection = http.client.HTTPConnection(server.http_url, timeout=30)

    def refuse(count: int) -> None:
        for _ in range(count):
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            assert 400 <= answer.status < 504, (kind, answer.status, text)
            assert not INSIDE.search(text.replace('"/x"', "")), text

    refuse(REFUSED_EACH // 4)
    before, descriptors = resident_kib(server.pid), len(os.listdir(f"/proc/{server.pid}/fd"))
    refuse(REFUSED_EACH)
    assert resident_kib(server.pid) - before < GROWTH_KIB
    assert len(os.listdir(f"/proc/{server.pid}/fd")) <= descriptors + 1
    connection.close()
    server.wait_until_idle()


@pytest.mark.parametrize("kind", GRPC_REFUSALS)
def test_a_refused_call_leaves_nothing_and_tells_nothing(server: ServerProcess, kind: str) -> None:
    rpc, request = GRPC_REFUSALS[kind]
    if isinstance(request, dict):
        request = json_format.ParseDict(request, getattr(service_pb2, f"{rpc}Request")()).SerializeToString()
    with grpc.insecure_channel(server.grpc_url) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{rpc}")

        def refuse(count: int) -> None:
            for _ in range(count):
                with pytest.raises(grpc.RpcError) as refused:
                    call(request, timeout=30)
                assert refused.value.code() not in (grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED), kind
                assert not INSIDE.search((refused.value.details() or "").replace("'/x'", "")), refused.value.details()

        refuse(REFUSED_EACH // 4)
        before, descriptors = resident_kib(server.pid), len(os.listdir(f"/proc/{server.pid}/fd"))
        refuse(REFUSED_EACH // 2)
        assert resident_kib(server.pid) - before < GROWTH_KIB
        assert len(os.listdir(f"/proc/{server.pid}/fd")) <= descriptors + 1
        good = service_pb2.ModelInferRequest()
        json_format.ParseDict(infer_message(), good)
        answer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", service_pb2.ModelInferRequest.SerializeToString,
            service_pb2.ModelInferResponse.FromString,
        )(good, timeout=30)  # fmt: skip
        assert list(answer.raw_output_contents) == list(good.raw_input_contents)
    server.wait_until_idle()


# -- other clients' data ---------------------------------------------------------------------------


def test_nobody_sees_the_data_of_another(server: ServerProcess) -> None:
    """Every third request is given up at a moment of chance; all others get what they sent, and in full."""
    failed: list[str] = []

    def client(number: int) -> None:
        rng = np.random.default_rng(number)
        connection = http.client.HTTPConnection(server.http_url, timeout=60)
        for turn in range(40):
            sent = rng.random((1, int(rng.integers(1, 64))), np.float32)
            tensor = {"name": "INPUT0", "shape": list(sent.shape), "datatype": "FP32",
                      "parameters": {"binary_data_size": sent.nbytes}}  # fmt: skip
            head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
            connection.request("POST", INFER, head + sent.tobytes(),
                               {"Inference-Header-Content-Length": str(len(head))})  # fmt: skip
            if rng.random() < 0.3:
                connection.close()
                continue
            answer = connection.getresponse()
            body = answer.read()
            cut = int(answer.headers["Inference-Header-Content-Length"])
            if answer.status != 200 or body[cut:] != sent.tobytes():
                failed.append(f"client {number}, request {turn}: {answer.status} {body[:200]!r}")
        connection.close()

    all_of(client)
    assert failed == []
    server.wait_until_idle()


def test_nobody_sees_the_data_of_another_over_grpc(server: ServerProcess) -> None:
    """On one connection, and on streams of their own, of which every third is given up."""
    failed: list[str] = []

    def request(rng: np.random.Generator) -> tuple[bytes, service_pb2.ModelInferRequest]:
        sent = rng.random((1, int(rng.integers(1, 64))), np.float32)
        made = service_pb2.ModelInferRequest(model_name="echo", raw_input_contents=[sent.tobytes()])
        made.inputs.add(name="INPUT0", datatype="FP32", shape=sent.shape)
        return sent.tobytes(), made

    with grpc.insecure_channel(server.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def client(number: int) -> None:
            rng = np.random.default_rng(number)
            for turn in range(40):
                sent = [request(rng) for _ in range(3)]
                if turn % 2:
                    call = stub.ModelInfer.future(sent[0][1], timeout=60)
                    answers = [] if rng.random() < 0.3 else [call.result().raw_output_contents[0]]
                else:
                    call = stub.ModelStreamInfer(iter([one for _, one in sent]), timeout=60)
                    wanted = 1 if rng.random() < 0.3 else 3
                    answers = [next(call).infer_response.raw_output_contents[0] for _ in range(wanted)]
                call.cancel()
                if answers != [data for data, _ in sent][: len(answers)]:
                    failed.append(f"client {number}, turn {turn}")

        all_of(client)
    assert failed == []
    server.wait_until_idle()


def all_of(client: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(24) as threads:
        list(threads.map(client, range(24)))


def test_a_client_that_goes_never_ends_the_server(server: ServerProcess) -> None:
    """What is written to a connection that is closed gives an error, no signal, whatever it is written for."""
    for pid in (server.pid, *map(int, Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split())):
        ignored = re.findall(r"SigIgn:\s+([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())[0]
        assert int(ignored, 16) >> (signal.SIGPIPE - 1) & 1, pid
