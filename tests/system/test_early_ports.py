"""Ports while models load, and while a server that was told to end drains."""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as grpcclient
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server_process import poll
from started import CONFIG, Started, started
from tritonclient.utils import InferenceServerException

SLOW = """
import pathlib, time


class TritonPythonModel:
    def initialize(self, args):
        while not pathlib.Path(%r).exists():
            time.sleep(0.01)
        %s

    def execute(self, requests):
        return []
"""
BODY = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1]}]})


def repository(folder: Path, then: str = "") -> tuple[Path, Path]:
    """A model that answers, beside one that loads until a file is there; that file."""
    gate = folder / "gate"
    for name, config in (("m", CONFIG), ("slow", CONFIG.replace("identity", "python"))):
        (folder / "models" / name / "1").mkdir(parents=True)
        (folder / "models" / name / "config.pbtxt").write_text(config)
    (folder / "models" / "slow" / "1" / "model.py").write_text(SLOW % (str(gate), then or "pass"))
    return folder / "models", gate


def infer(server: Started) -> tuple[int, str, str]:
    """Status, body and Connection of an inference."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30)
    try:
        connection.request("POST", "/v2/models/m/infer", BODY)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers.get("connection", "")
    finally:
        connection.close()


def opens(server: Started) -> bool:
    try:
        return server.get("/v2/health/live")[0] == 200
    except OSError:
        return False


def test_a_server_that_loads_is_live_and_not_ready(tmp_path: Path) -> None:
    models, gate = repository(tmp_path)
    options = ("--listen-while-loading=true", "--model-control-mode=explicit", "--load-model=*")
    with started(tmp_path, f"--model-repository={models}", *options) as server:
        poll(lambda: opens(server), "the port", 60)
        assert server.get("/v2/health/ready")[0] == 400 and server.get("/v2")[0] == 200
        status, body, _ = infer(server)
        assert (status, json.loads(body)) == (503, {"error": "Server not ready"})
        with grpcclient.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as triton:
            assert triton.is_server_live() and not triton.is_server_ready()
            with pytest.raises(InferenceServerException, match="Server not ready"):
                triton.load_model("m")
            with pytest.raises(InferenceServerException, match="Server not ready"):
                triton.unload_model("m")
            with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
                health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
                assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
                gate.touch()
                assert next(health).status == health_pb2.HealthCheckResponse.SERVING
                health.cancel()
            assert triton.is_server_ready()
        assert infer(server)[0] == 200 and server.get("/v2/health/ready")[0] == 200
        server.process.terminate()
        assert server.end() == 0


@pytest.mark.parametrize("early", [True, False])
def test_a_load_that_fails_closes_the_ports_again(tmp_path: Path, early: bool) -> None:
    models, gate = repository(tmp_path, "raise ValueError('no')")
    with started(
        tmp_path, f"--model-repository={models}", f"--listen-while-loading={str(early).lower()}"
    ) as server:
        if early:
            poll(lambda: opens(server), "the port", 60)
        gate.touch()
        assert server.end() == 1
        assert "error: creating server: Internal - failed to load all models" in server.output()


def test_a_server_that_loads_ends_with_a_signal(tmp_path: Path) -> None:
    models, _ = repository(tmp_path)
    with started(tmp_path, f"--model-repository={models}", "--listen-while-loading=true") as server:
        poll(lambda: opens(server), "the port", 60)
        server.process.terminate()
        assert server.end() == 0


def test_as_tritonserver_ports_open_when_models_are_loaded(tmp_path: Path) -> None:
    models, gate = repository(tmp_path)
    # The helper says nothing of it, when the option is there under another name.
    options = ("tritonserver", f"--model-repository={models}", "--id=--listen-while-loading")
    with started(tmp_path, *options) as server:
        poll(lambda: "loading: slow:1" in server.output(), "the load", 60)
        assert not opens(server)
        gate.touch()
        poll(lambda: opens(server), "the port", 60)
        assert server.get("/v2/health/ready")[0] == 200
        server.process.terminate()
        assert server.end() == 0


def test_a_server_that_drains_serves_and_is_not_ready(tmp_path: Path) -> None:
    models, gate = repository(tmp_path)
    gate.touch()
    with started(tmp_path, f"--model-repository={models}", "--drain-secs=2", "--exit-timeout-secs=1") as server:
        server.wait_until_it_answers()
        assert infer(server) == (200, infer(server)[1], "")
        began = time.monotonic()
        server.process.terminate()
        poll(lambda: server.get("/v2/health/ready")[0] == 503, "the end of readiness", 10)
        while time.monotonic() < began + 1.5:
            status, body, connection = infer(server)
            assert status == 200 and "OUTPUT0" in body and connection == "close"
            assert server.get("/v2/health/live")[0] == 200
            with grpcclient.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as triton:
                assert triton.is_server_live()
                with pytest.raises(InferenceServerException, match="Server exiting"):
                    triton.is_server_ready()
        assert server.end() == 0
        assert time.monotonic() >= began + 2


def test_a_second_signal_ends_a_drain(tmp_path: Path) -> None:
    models, gate = repository(tmp_path)
    gate.touch()
    with started(tmp_path, f"--model-repository={models}", "--drain-secs=600") as server:
        server.wait_until_it_answers()
        server.process.terminate()
        poll(lambda: server.get("/v2/health/ready")[0] == 503, "the end of readiness", 10)
        time.sleep(1)  # at once it could be the first one, passed on by a shell
        server.process.terminate()
        assert server.end() == 1
