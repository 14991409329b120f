"""A server without a GPU says why a TensorRT model is not loaded, and serves the others."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import ServerProcess, running_server

pytestmark = pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has the NVIDIA driver")

NO_GPU = "TensorRT backend supports only GPU device: no GPU can be used: the NVIDIA driver is not installed"


@pytest.fixture(scope="module")
def gpuless(example_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    repository = tmp_path_factory.mktemp("models")
    shutil.copytree(example_models / "simple", repository / "simple")
    for name, config in (("plan", None), ("on_gpu", "instance_group { kind: KIND_GPU }")):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1" / "model.plan").write_bytes(b"a plan")
        if config is not None:
            (repository / name / "config.pbtxt").write_text(f"platform: 'tensorrt_plan'\n{config}")
    folder = tmp_path_factory.mktemp("gpuless")
    options = ["--model-control-mode=explicit", "--load-model=simple"]
    with running_server([repository], folder, options) as server:
        yield server
        server.stop()


def post(server: ServerProcess, path: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://{server.http_url}/v2/{path}", b"{}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_load_fails_with_the_reason(gpuless: ServerProcess) -> None:
    code, text = post(gpuless, "repository/models/plan/load")
    assert code == 400
    assert NO_GPU in json.loads(text)["error"]
    _, text = post(gpuless, "repository/index")
    rows = {row["name"]: row for row in json.loads(text)}
    assert rows["plan"]["state"] == "UNAVAILABLE"
    assert NO_GPU in rows["plan"]["reason"]
    assert rows["simple"]["state"] == "READY"


def test_a_model_that_wants_a_gpu(gpuless: ServerProcess) -> None:
    code, text = post(gpuless, "repository/models/on_gpu/load")
    assert code == 400
    assert "has kind KIND_GPU but no GPUs are available" in json.loads(text)["error"]
