"""The real perf_analyzer's modes for sequences and ensembles, unchanged, against us."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest

from .servers import Server, ours_command, ours_env, running
from .setup_oracle import Oracle, prepare

pytestmark = pytest.mark.conformance

SUMS = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.live = {}

    def execute(self, requests):
        responses = []
        for request in requests:
            id, flags = request.correlation_id(), request.flags()
            # A step that comes before its START, or behind its END, is an error, which perf_analyzer reports.
            self.live[id] = 0 if flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START else self.live[id] + 1
            if flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END:
                del self.live[id]
            values = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", values)]))
        return responses
"""
COPIES = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("Y", pb_utils.get_input_tensor_by_name(one, "X").as_numpy())])
            for one in requests
        ]
"""
TENSORS = """
max_batch_size: 4
input { name: "X" data_type: TYPE_FP32 dims: [ 8 ] }
output { name: "Y" data_type: TYPE_FP32 dims: [ 8 ] }
"""
PYTHON = 'backend: "python"\ninstance_group { count: 1 kind: KIND_CPU }\n' + TENSORS
CONFIGS = {
    "direct": PYTHON + "sequence_batching { max_sequence_idle_microseconds: 5000000 direct { } }",
    "oldest": PYTHON + "sequence_batching { oldest { max_candidate_sequences: 16 } }",
    "step": PYTHON + "dynamic_batching { }",
    "chain": 'platform: "ensemble"\n' + TENSORS + """
        ensemble_scheduling {
          step { model_name: "step" model_version: -1
            input_map { key: "X" value: "X" } output_map { key: "Y" value: "between" } }
          step { model_name: "step" model_version: -1
            input_map { key: "X" value: "between" } output_map { key: "Y" value: "Y" } } }
    """,
}  # fmt: skip


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return prepare()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("models")
    for name, config in CONFIGS.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(config)
        if name != "chain":
            (root / name / "1" / "model.py").write_text(COPIES if name == "step" else SUMS)
    log = tmp_path_factory.mktemp("log") / "log"
    with running("ours", ours_command(root), ours_env(), log) as started:
        yield started


def analyze(oracle: Oracle, server: Server, model: str, *options: str, protocol: str = "grpc") -> str:
    """What it prints about some short windows."""
    command = [
        str(oracle.perf_analyzer), "-m", model, "-u", f"127.0.0.1:{server.port(protocol)}", "-i", protocol,
        "--measurement-interval", "500", "--stability-percentage", "999", "--max-trials", "3", *options,
    ]  # fmt: skip
    done = subprocess.run(command, env=oracle.perf_env(), capture_output=True, text=True, timeout=120, check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "Throughput: " in text, text
    assert "Failed" not in text, text
    return text


def statistics(server: Server, model: str) -> dict[str, int]:
    url = f"http://127.0.0.1:{server.http_port}/v2/models/{model}/stats"
    with urllib.request.urlopen(url, timeout=30) as answer:
        (stats,) = json.load(answer)["model_stats"]
    return {
        "success": stats["inference_stats"]["success"]["count"], "fail": stats["inference_stats"]["fail"]["count"],
        "inferences": stats["inference_count"],
    }  # fmt: skip


SEQUENCE_OPTIONS = [
    ("http", "--concurrency-range", "3", "--sequence-length", "5"),
    ("grpc", "--concurrency-range", "3", "--sequence-length", "5"),
    ("grpc", "--concurrency-range", "4", "--sequence-length", "7", "--streaming", "--async"),
    ("grpc", "--request-rate-range", "50", "--num-of-sequences", "3", "--sequence-id-range", "100:200"),
    ("http", "--request-rate-range", "50", "--sequence-length", "4", "--serial-sequences", "--num-of-sequences", "2"),
]


@pytest.mark.parametrize("model", ["direct", "oldest"])
@pytest.mark.parametrize("options", SEQUENCE_OPTIONS, ids=" ".join)
def test_sequences(oracle: Oracle, server: Server, model: str, options: tuple[str, ...]) -> None:
    before = statistics(server, model)
    analyze(oracle, server, model, *options[1:], protocol=options[0])
    after = statistics(server, model)
    assert after["success"] - before["success"] > 10
    assert after["fail"] == before["fail"]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("options", [("-b", "1"), ("-b", "2", "--async"), ("-b", "4", "--request-rate-range", "50")])
def test_ensembles(oracle: Oracle, server: Server, protocol: str, options: tuple[str, ...]) -> None:
    """It reads statistics of the steps, too, and prints them apart."""
    before = statistics(server, "chain"), statistics(server, "step")
    text = analyze(oracle, server, "chain", *options, protocol=protocol)
    after = statistics(server, "chain"), statistics(server, "step")
    assert "Composing models:" in text
    assert "step, version:" in text
    asked, steps = (now["inferences"] - then["inferences"] for now, then in zip(after, before, strict=True))
    assert steps == 2 * asked > 10
    assert after[0]["fail"] == 0
