"""The server as SageMaker and Vertex AI start it, asked as their users' clients ask."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
import tritonclient.http
from server_process import STOP_SECONDS, free_ports, package_root, poll, running_server
from started import CONFIG

VALUES = np.arange(5, dtype=np.float32)


def write_model(repository: Path) -> Path:
    (repository / "simple" / "1").mkdir(parents=True)
    (repository / "simple" / "config.pbtxt").write_text(CONFIG)
    return repository


def infer(url: str, vendor: str, **headers: str) -> list[float]:
    """The output, asked in binary form with the client's own functions, as the guides of both clouds do."""
    given = tritonclient.http.InferInput("INPUT0", VALUES.shape, "FP32")
    given.set_data_from_numpy(VALUES)
    asked = tritonclient.http.InferRequestedOutput("OUTPUT0", binary_data=True)
    client = tritonclient.http.InferenceServerClient
    body, length = client.generate_request_body([given], outputs=[asked])
    mime = f"application/vnd.{vendor}-triton.binary+json;json-header-size="
    answer = requests.post(url, body, headers={"Content-Type": f"{mime}{length}", **headers}, timeout=30)
    assert answer.status_code == 200, answer.text
    if vendor == "vertex-ai":
        length = int(answer.headers["Inference-Header-Content-Length"])
    else:
        length = int(answer.headers["Content-Type"].removeprefix(mime))
    found = client.parse_response_body(answer.content, header_length=length).as_numpy("OUTPUT0")
    return found.tolist()  # type: ignore[no-any-return]


def test_sagemaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGEMAKER_TRITON_DEFAULT_MODEL_NAME", "simple")
    (port,) = free_ports(1)
    options = ("--allow-sagemaker=true", f"--sagemaker-port={port}")
    with running_server([write_model(tmp_path / "models")], tmp_path, options) as server:
        url = f"http://127.0.0.1:{port}"
        assert requests.get(f"{url}/ping", timeout=30).status_code == 200
        assert infer(f"{url}/invocations", "sagemaker") == VALUES.tolist()
        assert f"Started Sagemaker HTTPService at 0.0.0.0:{port}" in server.output()
        server.stop()


def test_vertex_ai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    for name, value in {
        "AIP_MODE": "PREDICTION", "AIP_HTTP_PORT": str(port), "AIP_PREDICT_ROUTE": "/v1/predict",
        "AIP_HEALTH_ROUTE": "/v1/health", "AIP_STORAGE_URI": str(write_model(tmp_path / "models")),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with running_server([], tmp_path, plain_http=False) as server:
        url = f"http://127.0.0.1:{port}/v1"
        poll(lambda: requests.get(f"{url}/health", timeout=30).status_code == 200, "the health route")
        assert infer(f"{url}/predict", "vertex-ai") == VALUES.tolist()
        redirected = {"X-Vertex-Ai-Triton-Redirect": "v2/models/simple/versions/1/infer"}
        assert infer(f"{url}/predict", "vertex-ai", **redirected) == VALUES.tolist()
        # The usual ports are closed where the cloud's is open.
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://{server.http_url}/v2", timeout=30)
        server.stop()


@pytest.mark.parametrize("early", ["true", "false"])
def test_vertex_ai_has_its_default_model_whenever_other_ports_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: str
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/predict")
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/health")
    options = ("--allow-vertex-ai=true", f"--vertex-ai-port={port}", f"--listen-while-loading={early}")
    models = write_model(tmp_path / "models")
    with running_server([models], tmp_path, [*options, "--vertex-ai-default-model=simple"]) as server:
        poll(lambda: "Started Vertex AI HTTPService" in server.output(), "the port")
        assert requests.get(f"http://127.0.0.1:{port}/health", timeout=30).status_code == 200
        assert infer(f"http://127.0.0.1:{port}/predict", "vertex-ai") == VALUES.tolist()
        server.stop()
    with pytest.raises(AssertionError, match="Expect the default model 'other' is loaded"):
        with running_server([models], tmp_path, [*options, "--vertex-ai-default-model=other"]) as server:
            server.exit_status()


def test_what_keeps_a_container_from_starting_is_said(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(package_root()), "SAGEMAKER_TRITON_PING_MODE": "never"}
    for arguments, said in (
        (("serve",), "/opt/ml/model"),
        (("--allow-sagemaker=true", f"--model-repository={tmp_path}"), "SAGEMAKER_TRITON_PING_MODE is ready or live"),
        (("--allow-vertex-ai=true", f"--model-repository={tmp_path}"), "AIP_PREDICT_ROUTE is not defined"),
    ):
        if arguments == ("serve",) and Path("/opt/ml/model").exists():
            continue
        ended = subprocess.run(
            [sys.executable, "-m", "triton_async.cli", *arguments], check=False, env=environment, cwd=tmp_path,
            capture_output=True, text=True, timeout=STOP_SECONDS,
        )  # fmt: skip
        assert ended.returncode == 1
        assert said in ended.stderr
