"""Python models in a real server, asked by Triton's own clients over both protocols."""

from __future__ import annotations

import queue
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from server_process import ServerProcess, running_server
from triton_clients import client_module

HEAD = (
    "import argparse\nimport multiprocessing\nimport numpy as np\nimport triton_python_backend_utils as pb_utils\n\n\n"
    "class TritonPythonModel:\n"
)
IO = """
backend: "python"
input { name: "IN" data_type: TYPE_FP32 dims: -1 }
output { name: "OUT" data_type: TYPE_FP32 dims: -1 }
"""
MODELS = {
    "same": ("""
    def initialize(self, args):
        print("ready is", args["model_instance_name"])

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
""", ""),
    "fails": ("""
    def execute(self, requests):
        raise ValueError("as it does")
""", ""),
    "unready": ("""
    def execute(self, requests):
        return [pb_utils.InferenceResponse() for _ in requests]

    async def is_ready(self):
        return False
""", ""),
    "forks": ("""
    def execute(self, requests):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = np.float32(pool.map(abs, [-1, -2, 3]))
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", found)]) for _ in requests]
""", ""),
    "options": ("""
    def execute(self, requests):
        parser = argparse.ArgumentParser()
        parser.add_argument("--size", type=float, default=7)
        found = np.float32([parser.parse_args().size])
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", found)]) for _ in requests]
""", ""),
    "count": ("""
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for i in range(int(request.inputs()[0].as_numpy()[0])):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32([i]))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
""", "model_transaction_policy { decoupled: true }"),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    repository = tmp_path_factory.mktemp("python-models")
    for name, (code, more) in MODELS.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1" / "model.py").write_text(HEAD + code)
        (repository / name / "config.pbtxt").write_text(IO + more)
    folder = tmp_path_factory.mktemp("server")
    # One of them says that it is not ready.
    with running_server([repository], folder, ["--strict-readiness=false"]) as process:
        yield process
        process.stop()


@pytest.fixture(autouse=True)
def idle_afterwards(models: ServerProcess) -> Iterator[None]:
    yield
    models.wait_until_idle()


def status(server: ServerProcess, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{server.http_url}{path}", timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("size", [3, 1 << 18])
def test_infer(models: ServerProcess, protocol: str, size: int) -> None:
    module: Any = client_module(protocol)
    with module.InferenceServerClient(models.url(protocol)) as client:
        tensor = module.InferInput("IN", [size], "FP32")
        given = np.random.default_rng(1).random(size, np.float32)
        tensor.set_data_from_numpy(given)
        assert np.array_equal(client.infer("same", [tensor]).as_numpy("OUT"), given)
        with pytest.raises(Exception, match=r"for model 'fails_0', message: ValueError: as it does\s+At:"):
            client.infer("fails", [tensor])
        assert client.is_model_ready("same")
        assert not client.is_model_ready("unready")


def answer(server: ServerProcess, model: str) -> list[float]:
    """Of a request without anything in its input."""
    module: Any = client_module("http")
    with module.InferenceServerClient(server.http_url) as client:
        tensor = module.InferInput("IN", [0], "FP32")
        tensor.set_data_from_numpy(np.empty(0, np.float32))
        found: list[float] = client.infer(model, [tensor]).as_numpy("OUT").tolist()
        return found


def test_the_end_of_processes_that_a_model_has_forked_is_not_the_servers(models: ServerProcess) -> None:
    """multiprocessing ends them by the signal that stops the server: they have its handlers."""
    assert answer(models, "forks") == [1, 2, 3]
    assert answer(models, "forks") == [1, 2, 3]
    assert "Signal (15) received" not in models.log.read_text()


def test_models_do_not_see_the_servers_options(models: ServerProcess) -> None:
    """Those that parse a command line get their defaults, as in Triton's processes, which have none."""
    assert answer(models, "options") == [7]


def test_readiness_over_http(models: ServerProcess) -> None:
    assert status(models, "/v2/models/same/ready") == 200
    assert status(models, "/v2/models/unready/ready") == 400


def test_a_stream_of_responses(models: ServerProcess) -> None:
    module: Any = client_module("grpc")
    found: queue.Queue[Any] = queue.Queue()
    with module.InferenceServerClient(models.grpc_url) as client:
        client.start_stream(lambda result, error: found.put(error or result))
        tensor = module.InferInput("IN", [1], "FP32")
        tensor.set_data_from_numpy(np.float32([300]))
        client.async_stream_infer("count", [tensor])
        values = [found.get(timeout=30).as_numpy("OUT")[0] for _ in range(300)]
        client.stop_stream()
    assert values == list(range(300))
    assert found.empty()
