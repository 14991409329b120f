"""NVIDIA's `tritonserver` package, and its front-ends in `tritonfrontend`, over our libtritonserver.so."""

from __future__ import annotations

import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from . import wheel_models
from .servers import free_ports
from .setup_wheels import Missing, WheelPython, prepare

pytestmark = pytest.mark.conformance

PROGRAMS = Path(__file__).with_name("wheel_checks.py")
# As many as `wheel_checks` has, but for the front-ends.
CHECKS = (
    "questions", "inference", "what_requests_say", "asynchronous_inference", "decoupled_answers", "cancellation",
    "errors", "explicit_control", "repositories_that_come_and_go", "polling", "metrics", "log_lines", "traces",
    "all_options", "several_servers", "left_running",
)  # fmt: skip


@pytest.fixture(scope="session")
def wheels() -> WheelPython:
    try:
        return prepare()
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    wheel_models.build(folder)
    return folder


@pytest.mark.parametrize("name", CHECKS)
def test_a_program_of_the_package_runs(name: str, wheels: WheelPython, repository: Path) -> None:
    done = subprocess.run(
        [*wheels.command, str(PROGRAMS), name, str(repository)],
        env=wheels.environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stdout + done.stderr
    assert done.stderr == ""


class FrontEnds(NamedTuple):
    http: str
    grpc: str
    metrics: str


@contextmanager
def front_ends(wheels: WheelPython, repository: Path) -> Iterator[FrontEnds]:
    """A program with them, which ends by itself behind it."""
    ports = free_ports(3)
    process = subprocess.Popen(
        [*wheels.command, str(PROGRAMS), "front_ends", str(repository), *map(str, ports)],
        env=wheels.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        # The front-ends have lines of their own.
        while (line := process.stdout.readline()) != "serving\n":
            assert "Started" in line, line
        yield FrontEnds(*(f"127.0.0.1:{port}" for port in ports))
        process.stdin.close()
        assert process.stdout.read().endswith("done\n")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def served(wheels: WheelPython, repository: Path) -> Iterator[FrontEnds]:
    with front_ends(wheels, repository) as served:
        yield served


KINDS = {"http": http_client, "grpc": grpc_client}


@pytest.fixture(params=KINDS)
def module(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]


@pytest.fixture
def client(module: Any, served: FrontEnds) -> Iterator[Any]:
    with module.InferenceServerClient(served.http if module is http_client else served.grpc) as client:
        yield client


def tensor(module: Any, values: Any, datatype: str, **how: Any) -> Any:
    given = module.InferInput("IN", list(values.shape), datatype)
    given.set_data_from_numpy(values, **how)
    return given


def as_json(module: Any, answer: Any) -> Any:
    """Answers of both clients in the form of HTTP's."""
    if module is http_client:
        return answer
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(answer, preserving_proto_field_name=True)


def test_its_front_ends_answer_questions(module: Any, client: Any) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("same")
    metadata = as_json(module, client.get_server_metadata())
    assert metadata["name"] == "triton"
    metadata = as_json(module, client.get_model_metadata("batched"))
    assert metadata["inputs"][0]["name"] == "IN" and [int(dim) for dim in metadata["inputs"][0]["shape"]] == [-1, 2]
    config = as_json(module, client.get_model_config("batched"))
    assert config.get("config", config)["max_batch_size"] == 4
    statistics = as_json(module, client.get_inference_statistics("same"))
    assert statistics["model_stats"][0]["name"] == "same"
    with pytest.raises(InferenceServerException, match="unknown model"):
        client.get_model_metadata("none")


@pytest.mark.parametrize("binary", [True, False])
def test_its_front_ends_infer(module: Any, client: Any, binary: bool) -> None:
    how = {"binary_data": binary} if module is http_client else {}
    wanted = module.InferRequestedOutput("OUT", **how)
    for i in range(50):
        values = np.float32([i, 2, 3])
        answer = client.infer("same", [tensor(module, values, "FP32", **how)], outputs=[wanted], request_id=str(i))
        assert np.array_equal(answer.as_numpy("OUT"), values)
        said = answer.get_response()
        assert (said["id"] if module is http_client else said.id) == str(i)
    words = np.array([b"one", b"", "drei ß".encode()], dtype=object)
    answer = client.infer("strings", [tensor(module, words, "BYTES", **how)], outputs=[wanted])
    found = answer.as_numpy("OUT").tolist()
    assert [word.encode() if isinstance(word, str) else word for word in found] == words.tolist()
    large = np.random.default_rng(1).random(1 << 18, np.float32)
    answer = client.infer("same", [tensor(module, large, "FP32")])
    assert np.array_equal(answer.as_numpy("OUT"), large)
    classes = module.InferRequestedOutput("OUT", class_count=2)
    answer = client.infer("same", [tensor(module, np.float32([1, 3, 2]), "FP32")], outputs=[classes])
    assert [word.decode() for word in answer.as_numpy("OUT")] == ["3.000000:1", "2.000000:2"]


def test_its_front_ends_tell_errors(module: Any, client: Any) -> None:
    with pytest.raises(InferenceServerException, match="unknown model: 'none'"):
        client.infer("none", [tensor(module, np.float32([1]), "FP32")])
    with pytest.raises(InferenceServerException, match="unexpected shape"):
        client.infer("same", [tensor(module, np.float32([[1]]), "FP32")])
    with pytest.raises(InferenceServerException, match="it fails as it was told"):
        client.infer("tells", [tensor(module, np.array([b"fail"], dtype=object), "BYTES")])
    with pytest.raises(InferenceServerException, match=r"(?i)decoupled"):
        client.infer("count", [tensor(module, np.float32([1]), "FP32")])


def test_its_front_ends_pass_on_what_requests_say(module: Any, client: Any) -> None:
    given = [tensor(module, np.array([b"x"], dtype=object), "BYTES")]
    answer = client.infer(
        "tells", given, request_id="r", sequence_id=9, sequence_start=True, timeout=10_000_000, parameters={"a": 1}
    )
    told = answer.as_numpy("OUT")[0].decode()
    assert told.startswith("r|9|1|") and '"a": 1' in told
    found = answer.get_response()
    parameters = found["parameters"] if module is http_client else found.parameters
    assert set(parameters) >= {"seen", "word", "yes"}


def test_its_front_ends_control_models(module: Any, client: Any) -> None:
    index = as_json(module, client.get_model_repository_index())
    rows = index if module is http_client else index["models"]
    assert {"name": "same", "version": "1", "state": "READY"}.items() <= next(
        row for row in rows if row["name"] == "same"
    ).items()
    client.unload_model("batched")
    assert not client.is_model_ready("batched")
    client.load_model("batched")
    assert client.is_model_ready("batched")
    with pytest.raises(InferenceServerException, match="failed to load 'none'"):
        client.load_model("none")


def test_its_front_ends_change_the_log(module: Any, client: Any) -> None:
    settings = as_json(module, client.update_log_settings({"log_verbose_level": 1, "log_info": True}))
    settings = settings if module is http_client else settings["settings"]
    level = settings["log_verbose_level"]
    assert level == 1 or level["uint32_param"] == 1
    client.update_log_settings({"log_verbose_level": 0, "log_info": False})


def test_its_grpc_front_end_streams(served: FrontEnds) -> None:
    answers: Queue[tuple[Any, Any]] = Queue()
    with grpc_client.InferenceServerClient(served.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(
            "count", [tensor(grpc_client, np.float32([3]), "FP32")], enable_empty_final_response=True
        )
        found = [answers.get(timeout=30) for _ in range(4)]
        assert [result.as_numpy("OUT").tolist() for result, error in found[:3]] == [[0], [1], [2]]
        assert found[3][0].get_response().parameters["triton_final_response"].bool_param
        client.async_stream_infer("same", [tensor(grpc_client, np.float32([7]), "FP32")])
        assert answers.get(timeout=30)[0].as_numpy("OUT").tolist() == [7]
        client.async_stream_infer("none", [tensor(grpc_client, np.float32([7]), "FP32")])
        assert "unknown model" in str(answers.get(timeout=30)[1])
        client.stop_stream()


def test_a_request_of_its_grpc_front_end_is_cancelled(served: FrontEnds) -> None:
    answers: Queue[tuple[Any, Any]] = Queue()
    with grpc_client.InferenceServerClient(served.grpc) as client:
        call = client.async_infer(
            "slow", [tensor(grpc_client, np.float32([60]), "FP32")], lambda result, error: answers.put((result, error))
        )
        call.cancel()
        assert "cancelled" in str(answers.get(timeout=30)[1]).lower()
        answer = client.infer("slow", [tensor(grpc_client, np.float32([0]), "FP32")])
        assert answer.as_numpy("OUT").tolist() == [1]


def test_its_http_front_end_generates(served: FrontEnds) -> None:
    body = b'{"IN": [1.5]}'
    request = urllib.request.Request(f"http://{served.http}/v2/models/same/generate", body)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert b'"OUT":1.5' in answer.read()
    request = urllib.request.Request(f"http://{served.http}/v2/models/count/generate_stream", b'{"IN": [2]}')
    with urllib.request.urlopen(request, timeout=30) as answer:
        text = answer.read()
    assert b'"OUT":0.0' in text and b'"OUT":1.0' in text


def test_its_front_end_of_metrics_has_our_page(served: FrontEnds) -> None:
    with urllib.request.urlopen(f"http://{served.metrics}/metrics", timeout=30) as answer:
        page = answer.read().decode()
    assert 'nv_inference_count{model="same",version="1"}' in page


def test_its_front_ends_stop_while_clients_ask(module: Any, wheels: WheelPython, repository: Path) -> None:
    outcomes: Queue[Exception] = Queue()

    def ask(url: str) -> None:
        try:
            with module.InferenceServerClient(url) as client:
                while True:
                    client.infer("same", [tensor(module, np.float32([1]), "FP32")])
                    asked.set()
        except Exception as error:
            outcomes.put(error)

    asked = threading.Event()
    with front_ends(wheels, repository) as served:
        url = served.http if module is http_client else served.grpc
        threads = [threading.Thread(target=ask, args=[url]) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert asked.wait(30)
    for thread in threads:
        thread.join(30)
    assert outcomes.qsize() == 4


def test_every_program_of_the_checks_runs(wheels: WheelPython) -> None:
    code = (
        "import sys, runpy\n"
        f"print(*runpy.run_path({str(PROGRAMS)!r}, run_name='checks')['CHECKS'])"
    )
    done = subprocess.run(
        [*wheels.command, "-c", code], env=wheels.environment, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == {*CHECKS, "front_ends"}


