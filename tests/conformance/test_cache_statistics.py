"""What both servers count of requests whose answers are kept, run side by side."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .servers import Server, ours_command, ours_env, running, triton_command
from .setup_oracle import prepare

pytestmark = pytest.mark.conformance

MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("Y", pb_utils.get_input_tensor_by_name(one, "X").as_numpy())])
            for one in requests
        ]
"""
TENSORS = """
input { name: "X" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] }
"""
PYTHON = 'backend: "python"\ninstance_group { count: 1 kind: KIND_CPU }\n' + TENSORS
KEPT = "response_cache { enable: true }\n"
ENSEMBLE = (
    'platform: "ensemble"\n' + TENSORS + """
ensemble_scheduling { step { model_name: "step" model_version: -1
  input_map { key: "X" value: "X" } output_map { key: "Y" value: "Y" } } }
"""
)
CONFIGS = {
    "kept": PYTHON + KEPT, "batched": PYTHON + KEPT + "max_batch_size: 4\n", "plain": PYTHON, "step": PYTHON,
    "ensemble": ENSEMBLE + KEPT, "over_kept": ENSEMBLE.replace('"step"', '"kept"'),
}  # fmt: skip
# Model, data and shape of each request, in order.
REQUESTS: list[tuple[str, list[float], list[int]]] = [
    ("kept", [1, 2], [2]), ("kept", [1, 2], [2]), ("kept", [3, 4], [2]), ("kept", [1, 2], [2]), ("kept", [3, 4], [2]),
    ("plain", [1, 2], [2]), ("plain", [1, 2], [2]),
    ("batched", [1, 2], [2, 1]), ("batched", [1, 2], [2, 1]), ("batched", [5], [1, 1]),
    ("ensemble", [1], [1]), ("ensemble", [1], [1]), ("ensemble", [2], [1]),
    ("over_kept", [7], [1]), ("over_kept", [7], [1]),
]  # fmt: skip
COUNTED = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cached")
    for name, config in CONFIGS.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(config)
        if "python" in config:
            (root / name / "1" / "model.py").write_text(MODEL)
    return root


def post(server: Server, path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}{path}", data, timeout=30) as answer:
        return json.load(answer)


def counts(server: Server) -> dict[str, dict[str, int]]:
    """Of each model, behind all requests."""
    for model, data, shape in REQUESTS:
        tensor = {"name": "X", "datatype": "FP32", "shape": shape, "data": data}
        answer = post(server, f"/v2/models/{model}/infer", {"inputs": [tensor]})
        assert answer["outputs"][0]["data"] == data
    found = {}
    for stats in post(server, "/v2/models/stats")["model_stats"]:
        durations = {name: stats["inference_stats"][name]["count"] for name in COUNTED}
        found[stats["name"]] = durations | {name: stats[name] for name in ("inference_count", "execution_count")}
    return found


@pytest.fixture(scope="module")
def real(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    oracle = prepare()
    directory = oracle.backends.parent / "caches"
    command = triton_command(oracle, repository, "--cache-config=local,size=1048576", f"--cache-directory={directory}")
    with running("triton", command, oracle.server_env(), tmp_path_factory.mktemp("real") / "log") as server:
        yield server


@pytest.fixture
def ours(repository: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(*options: str) -> dict[str, dict[str, int]]:
        with running("ours", ours_command(repository, *options), ours_env(), tmp_path / "log") as server:
            return counts(server)

    return run


def test_both_servers_count_alike(real: Server, ours: Callable[..., Any]) -> None:
    expected = counts(real)
    assert expected["kept"]["cache_hit"] >= 3
    assert ours("--cache-config=local,size=1048576") == expected
