"""Control calls that take long hold up nothing else: neither requests nor other control calls, over both protocols."""

from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils.shared_memory as shm
from server_process import ServerProcess, poll, running_server

MODULES = {"http": tritonclient.http, "grpc": tritonclient.grpc}
TENSORS = """
input { name: "INPUT0" data_type: TYPE_FP32 dims: -1 }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }
"""
# Comes when the file `go` is beside it, and leaves when `leave` is.
PATIENT = """
import os
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.folder = os.path.join(args["model_repository"])
        self.wait("go")

    def wait(self, name):
        open(os.path.join(self.folder, "at-" + name), "w").close()
        while not os.path.exists(os.path.join(self.folder, name)):
            time.sleep(0.01)

    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", request.inputs()[0].as_numpy())])
            for request in requests
        ]

    def finalize(self):
        self.wait("leave")
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    for name in ("m", "other", "patient"):
        (root / name / "1").mkdir(parents=True)
        backend = "python" if name == "patient" else "identity"
        (root / name / "config.pbtxt").write_text(f'backend: "{backend}" {TENSORS}')
    (root / "patient" / "1" / "model.py").write_text(PATIENT)
    return root


@pytest.fixture
def process(models: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    options = ["--allow-client-shm=true", "--model-control-mode=explicit", "--load-model=m",
               f"--trace-config=triton,file={tmp_path / 'trace.json'}"]  # fmt: skip
    with running_server([models], tmp_path, options) as started:
        yield started
        for name in ("go", "leave"):
            (models / "patient" / name).touch()
        started.stop()


@pytest.fixture(params=list(MODULES))
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def infer(client: Any, module: Any, name: str = "m") -> None:
    sent = np.ones(4, np.float32)
    tensor = module.InferInput("INPUT0", [4], "FP32")
    tensor.set_data_from_numpy(sent)
    assert np.array_equal(client.infer(name, [tensor]).as_numpy("OUTPUT0"), sent)


def states(client: Any) -> dict[str, str]:
    found = client.get_model_repository_index()
    if not isinstance(found, list):
        return {row.name: row.state for row in found.models}
    return {row["name"]: row.get("state", "") for row in found}


def stream(client: Any, module: Any) -> None:
    tensor = module.InferInput("INPUT0", [4], "FP32")
    tensor.set_data_from_numpy(np.ones(4, np.float32))
    answers: SimpleQueue[Any] = SimpleQueue()
    client.start_stream(lambda result, error: answers.put(error))
    client.async_stream_infer("m", [tensor])
    assert answers.get(timeout=30) is None
    client.stop_stream()


def generate(url: str, call: str) -> None:
    connection = http.client.HTTPConnection(url, timeout=30)
    connection.request("POST", f"/v2/models/m/{call}", json.dumps({"INPUT0": [1.0]}))
    answer = connection.getresponse()
    assert answer.status == 200 and b'"OUTPUT0":1.0' in answer.read()
    connection.close()


def calls(server: ServerProcess, client: Any, module: Any, key: str) -> list[Callable[[], Any]]:
    """Every call that another client may make meanwhile."""
    found: list[Callable[[], Any]] = [
        client.is_server_live, client.get_server_metadata, lambda: client.is_model_ready("m"),
        lambda: client.get_model_metadata("m"), lambda: client.get_model_config("m"),
        lambda: client.get_inference_statistics("m"), client.get_inference_statistics, lambda: states(client),
        lambda: infer(client, module), lambda: client.load_model("m", config=json.dumps({
            "backend": "identity", "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
            "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}]})),
        lambda: client.load_model("other"), lambda: infer(client, module, "other"),
        lambda: client.unload_model("other"),
        lambda: poll(lambda: states(client)["other"] == "UNAVAILABLE", "the end of 'other'"),
        lambda: client.register_system_shared_memory("region", f"/{key}", 16),
        client.get_system_shared_memory_status, lambda: client.unregister_system_shared_memory("region"),
        client.unregister_system_shared_memory, client.get_cuda_shared_memory_status,
        client.unregister_cuda_shared_memory, client.get_trace_settings,
        lambda: client.update_trace_settings("m", {"trace_rate": "7"}), client.get_log_settings,
        lambda: client.update_log_settings({"log_verbose_level": 0}), server.metrics_text,
    ]  # fmt: skip
    if module is tritonclient.grpc:
        return [*found, lambda: stream(client, module)]
    return [*found, lambda: generate(server.http_url, "generate"), lambda: generate(server.http_url, "generate_stream")]


def everything_is_answered(server: ServerProcess, client: Any, waiting: Future[Any] | None) -> None:
    """Over both protocols; over gRPC on the connection of the call that waits, too."""
    key = f"long-{uuid.uuid4().hex}"
    handle = shm.create_shared_memory_region("region", f"/{key}", 16)
    try:
        for name, module in MODULES.items():
            with module.InferenceServerClient(server.url(name)) as other:
                same = [client] if module is tritonclient.grpc and isinstance(client, type(other)) else []
                for one in (other, *same):
                    for call in calls(server, one, module, key):
                        call()
                        assert waiting is None or not waiting.done()
    finally:
        shm.destroy_shared_memory_region(handle)


def test_a_load_that_takes_long_holds_up_nothing_else(process: ServerProcess, models: Path, protocol: str) -> None:
    module: Any = MODULES[protocol]

    def another_load() -> None:
        # Clients over HTTP stay on the thread that has made them.
        with module.InferenceServerClient(process.url(protocol)) as other:
            other.load_model("patient")

    with module.InferenceServerClient(process.url(protocol)) as client, ThreadPoolExecutor(2) as pool:
        load = pool.submit(client.load_model, "patient") if protocol == "grpc" else pool.submit(another_load)
        poll((models / "patient" / "at-go").exists, "the load to begin")
        # One of the same model waits behind it.
        again = pool.submit(another_load)
        everything_is_answered(process, client if protocol == "grpc" else None, load)
        with tritonclient.http.InferenceServerClient(process.http_url) as other:
            assert states(other)["patient"] == "LOADING" and not other.is_model_ready("patient")
        assert not again.done()
        (models / "patient" / "go").touch()
        load.result(60)
        again.result(60)
        infer(client, module, "patient")
        (models / "patient" / "leave").touch()


def test_an_unload_that_takes_long_holds_up_nothing_else(process: ServerProcess, models: Path, protocol: str) -> None:
    module: Any = MODULES[protocol]
    (models / "patient" / "go").touch()
    with module.InferenceServerClient(process.url(protocol)) as client:
        client.load_model("patient")
        infer(client, module, "patient")
        client.unload_model("patient")
        poll((models / "patient" / "at-leave").exists, "its end to begin")
        assert states(client)["patient"] == "UNLOADING"
        everything_is_answered(process, client if protocol == "grpc" else None, None)
        # It comes back while its last load has yet to go.
        client.load_model("patient")
        infer(client, module, "patient")
        (models / "patient" / "leave").touch()
        infer(client, module, "patient")
