"""The rate limiter in a real server with real clients: what shares a resource never runs at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_process import running_server
from triton_clients import client_module

# Notes when it begins and ends, in ns of one clock, and asks another model in between if it is told of one.
MODEL = """
import os, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.name = args["model_name"]
        self.file = os.path.join(os.path.dirname(__file__), "..", "..", "spans")

    def execute(self, requests):
        begun = time.monotonic_ns()
        time.sleep(0.02)
        if self.name == "asks":
            tensor = pb_utils.get_input_tensor_by_name(requests[0], "IN")
            made = pb_utils.InferenceRequest(model_name="first", inputs=[tensor], requested_output_names=["OUT"])
            assert not made.exec().has_error()
        else:
            with open(self.file, "a") as file:
                file.write(f"{self.name} {begun} {time.monotonic_ns()}\\n")
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(
            request, "IN").as_numpy())]) for request in requests]
"""


def write(root: Path, name: str, needs: int) -> None:
    (root / name / "1").mkdir(parents=True)
    (root / name / "1" / "model.py").write_text(MODEL)
    (root / name / "config.pbtxt").write_text(f"""
        backend: "python"
        input {{ name: "IN" data_type: TYPE_FP32 dims: 1 }}
        output {{ name: "OUT" data_type: TYPE_FP32 dims: 1 }}
        instance_group {{ kind: KIND_CPU count: 2 rate_limiter {{ resources {{ name: "R" count: {needs} }} }} }}
    """)


def most_at_once(spans: list[tuple[int, int, int]]) -> int:
    """Copies in use at the worst moment of (begin, end, copies)."""
    changes = sorted([(begin, count) for begin, _, count in spans] + [(end, -count) for _, end, count in spans])
    in_use = [0]
    for _, change in changes:
        in_use.append(in_use[-1] + change)
    return max(in_use)


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_copies_of_a_resource_are_never_exceeded(tmp_path: Path, isolation: str) -> None:
    repository = tmp_path / "models"
    needs = {"first": 1, "second": 2}
    for name, count in {**needs, "asks": 2}.items():
        write(repository, name, count)
    options = ("--rate-limit=execution_count", "--rate-limit-resource=R:2",
               f"--backend-config=python,isolation={isolation}")
    module = client_module("http")

    def ask(model: str, url: str) -> float:
        tensor = module.InferInput("IN", [1], "FP32")
        tensor.set_data_from_numpy(np.float32([7]))
        with module.InferenceServerClient(url, network_timeout=60) as client:
            return float(client.infer(model, [tensor]).as_numpy("OUT")[0])

    with running_server([repository], tmp_path, options) as server, ThreadPoolExecutor(12) as threads:
        jobs = [threads.submit(ask, model, server.http_url) for model in ["first", "second"] * 12]
        assert [job.result(60) for job in jobs] == [7.0] * 24
        lines = [line.split() for line in (repository / "spans").read_text().splitlines()]
        assert len(lines) == 24
        assert most_at_once([(int(begin), int(end), needs[name]) for name, begin, end in lines]) == 2
        # Each of them holds all copies when it asks for a model that needs one.
        jobs = [threads.submit(ask, "asks", server.http_url) for _ in range(6)]
        assert [job.result(60) for job in jobs] == [7.0] * 6


COUNTS = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            start = pb_utils.get_input_tensor_by_name(request, "START").as_numpy().reshape(-1)[0]
            self.count = 1 if start else self.count + 1
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32([self.count]))]))
        return responses
"""


def test_sequences_wait_for_resources_like_others(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    for name in ("counts", "plain"):
        write(repository, name, 2)
    (repository / "counts" / "1" / "model.py").write_text(COUNTS)
    with (repository / "counts" / "config.pbtxt").open("a") as config:
        config.write("""sequence_batching { control_input { name: "START" control {
            kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } } }""")
    module = client_module("http")

    def ask(model: str, url: str, **more: Any) -> float:
        tensor = module.InferInput("IN", [1], "FP32")
        tensor.set_data_from_numpy(np.float32([7]))
        with module.InferenceServerClient(url, network_timeout=60) as client:
            return float(client.infer(model, [tensor], **more).as_numpy("OUT")[0])

    def sequence(number: int, url: str) -> list[float]:
        return [
            ask("counts", url, sequence_id=number, sequence_start=step == 0, sequence_end=step == 3)
            for step in range(4)
        ]

    options = ("--rate-limit=execution_count",)
    with running_server([repository], tmp_path, options) as server, ThreadPoolExecutor(8) as threads:
        sequences = [threads.submit(sequence, number, server.http_url) for number in range(1, 5)]
        others = [threads.submit(ask, "plain", server.http_url) for _ in range(8)]
        assert [job.result(60) for job in sequences] == [[1, 2, 3, 4]] * 4
        assert [job.result(60) for job in others] == [7.0] * 8
