"""Where the threads of running servers run (--cpu-affinity), as the kernel tells it."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from front_end_processes import front_ends
from onnx import TensorProto, helper
from server_process import poll
from started import CONFIG, Started, started

CORES = sorted(os.sched_getaffinity(0))
FIRST, OTHERS = {CORES[0]}, set(CORES[1:])

pytestmark = pytest.mark.skipif(len(CORES) < 2, reason="there is one core")

# Says where its thread runs, and the first thread of its process.
WHERE = """
import os
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        cores = [sorted(os.sched_getaffinity(pid)) for pid in (0, os.getpid())]
        answer = np.array([repr(found) for found in cores], dtype=object)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("CORES", answer)]) for _ in requests]
"""
WHERE_CONFIG = """
    backend: "python"
    output {{ name: "CORES" data_type: TYPE_STRING dims: 2 }}
    parameters {{ key: "ISOLATION" value {{ string_value: "{isolation}" }} }}
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    for name, isolation in (("here", "none"), ("apart", "process")):
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.py").write_text(WHERE)
        (root / name / "config.pbtxt").write_text(WHERE_CONFIG.format(isolation=isolation))
    (root / "plain" / "1").mkdir(parents=True)
    (root / "plain" / "config.pbtxt").write_text(CONFIG)
    return root


def write_onnx(root: Path, threads: int) -> None:
    """A product of matrices, with a pool of threads of its own."""
    (root / "product" / "1").mkdir(parents=True)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy"]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [64, 64], [0.5] * 64 * 64)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, root / "product" / "1" / "model.onnx")
    (root / "product" / "config.pbtxt").write_text(
        f'backend: "onnxruntime"\nparameters {{ key: "intra_op_thread_count" value {{ string_value: "{threads}" }} }}\n'
    )


@pytest.fixture
def bound(models: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Started]:
    options = (f"--model-repository={models}", "--model-control-mode=explicit", "--load-model=*")
    with started(tmp_path, *options, *request.param) as server:
        server.wait_until_it_answers(path="/v2/health/ready")
        yield server
        server.process.terminate()
        assert server.end() == 0


def threads(pid: int) -> dict[int, set[int]]:
    """Cores of each thread of a process."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/task"):
        try:
            status = Path(f"/proc/{pid}/task/{name}/status").read_text()
        except OSError:  # it has ended
            continue
        (text,) = [line.split()[1] for line in status.splitlines() if line.startswith("Cpus_allowed_list:")]
        pieces = [piece.partition("-") for piece in text.split(",")]
        found[int(name)] = {core for first, _, last in pieces for core in range(int(first), int(last or first) + 1)}
    return found


def ask(server: Started, path: str, body: object) -> dict[str, object]:
    url = f"http://127.0.0.1:{server.http_port}/v2/{path}"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=60) as answer:
        return json.loads(answer.read() or b"{}")  # type: ignore[no-any-return]


def where(server: Started, model: str) -> list[set[int]]:
    """Cores of the thread that runs a Python model, and of the first one of its process."""
    (output,) = ask(server, f"models/{model}/infer", {"inputs": []})["outputs"]  # type: ignore[misc]
    return [set(json.loads(text)) for text in output["data"]]  # type: ignore[index]


def ask_plain(server: Started) -> None:
    body = {"inputs": [{"name": "INPUT0", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}
    for _ in range(20):
        ask(server, "models/plain/infer", body)


@pytest.mark.parametrize("bound", [(f"--cpu-affinity=front-ends:{CORES[0]}",)], indirect=True)
def test_the_event_loop_and_the_models_of_one_process_have_cores_of_their_own(bound: Started, models: Path) -> None:
    ask_plain(bound)
    assert where(bound, "here") == [OTHERS, FIRST]
    assert where(bound, "apart") == [OTHERS, OTHERS]
    before = threads(bound.process.pid)
    assert before[bound.process.pid] == FIRST
    assert all(cores in (FIRST, OTHERS) for cores in before.values())
    write_onnx(models, 4)
    ask(bound, "repository/models/product/load", {})
    new = {thread: cores for thread, cores in threads(bound.process.pid).items() if thread not in before}
    assert sum(cores == OTHERS for cores in new.values()) >= 3
    assert f"the event loop on core {CORES[0]}, the models on core" in bound.output()


@pytest.mark.parametrize(
    "bound", [(f"--cpu-affinity=front-ends:{CORES[0]}", "--frontend-processes=2")], indirect=True
)
def test_front_end_processes_have_theirs_also_when_they_are_replaced(bound: Started) -> None:
    ask_plain(bound)
    assert where(bound, "here") == [OTHERS, OTHERS]
    assert where(bound, "apart") == [OTHERS, OTHERS]
    server = bound.process  # has the `pid` that front_ends asks for

    def check() -> bool:
        found = front_ends(server)  # type: ignore[arg-type]
        return len(found) == 2 and all(cores == FIRST for pid in found for cores in threads(pid).values())

    poll(check, "two front-ends on their core", 10)
    killed = front_ends(server)[0]  # type: ignore[arg-type]
    os.kill(killed, signal.SIGKILL)
    poll(lambda: killed not in front_ends(server) and check(), "another one there", 20)  # type: ignore[arg-type]
    assert all(cores == OTHERS for cores in threads(server.pid).values())
    assert f"2 front-end processes on core {CORES[0]}, the models on core" in bound.output()


@pytest.mark.parametrize(
    "bound", [(f"--cpu-affinity=front-ends:{CORES[0]}", "--model-processes=2")], indirect=True
)
def test_model_processes_have_the_cores_of_the_models(bound: Started) -> None:
    assert where(bound, "here") == where(bound, "apart") == [OTHERS, OTHERS]
    assert threads(bound.process.pid)[bound.process.pid] == FIRST
    assert "Python models in 2 processes" in bound.output()


@pytest.mark.parametrize("bound", [(f"--cpu-affinity={CORES[-1]}",)], indirect=True)
def test_a_whole_server_keeps_to_its_cores(bound: Started) -> None:
    ask_plain(bound)
    last = {CORES[-1]}
    assert where(bound, "here") == where(bound, "apart") == [last, last]
    assert all(cores == last for cores in threads(bound.process.pid).values())
    told = f"the event loop and the models on core {CORES[-1]}"
    assert told in bound.output() and "thread pools of engines count on 1 of them" in bound.output()


@pytest.mark.parametrize(
    "bound",
    [(f"--cpu-affinity=front-ends:{CORES[0]}", f"--host-policy=cpu,cpu-cores={CORES[0]}-{CORES[0]}")],
    indirect=True,
)
def test_host_policies_win_for_their_instances(bound: Started) -> None:
    assert where(bound, "here") == [FIRST, FIRST]
    assert where(bound, "apart")[0] == FIRST


@pytest.mark.parametrize("bound", [()], indirect=True)
def test_nothing_is_bound_without_it(bound: Started) -> None:
    ask_plain(bound)
    assert where(bound, "here") == where(bound, "apart") == [set(CORES), set(CORES)]
    assert all(cores == set(CORES) for cores in threads(bound.process.pid).values())
    assert "the event loop and the models on cores" in bound.output()


def test_cores_that_are_not_there_end_the_start(models: Path, tmp_path: Path) -> None:
    with started(tmp_path, f"--model-repository={models}", "--cpu-affinity=999999") as server:
        assert server.end() == 1
        assert "core 999999: not on this machine, which has" in server.output()
