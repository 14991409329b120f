"""The real server's own libraries in this one: its Python backend, with its stub processes, and its local cache."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as http_client

from triton_async import native

from .servers import Server, ours_command, ours_env, running
from .setup_oracle import prepare

pytestmark = pytest.mark.conformance

MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "IN", "data_type": "TYPE_INT32", "dims": [2]})
        config.add_output({"name": "OUT", "data_type": "TYPE_INT32", "dims": [2]})
        config.set_max_batch_size(4)
        config.set_dynamic_batching()
        return config

    def initialize(self, args):
        self.version = int(args["model_version"])

    def execute(self, requests):
        answers = []
        for request in requests:
            values = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            if values[0, 0] < 0:
                answers.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("it is negative")))
            else:
                answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", values + self.version)]))
        return answers
"""
ASKING = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            asked = pb_utils.InferenceRequest(
                model_name="adds", requested_output_names=["OUT"],
                inputs=[pb_utils.get_input_tensor_by_name(request, "IN")],
            )
            answer = asked.exec()
            if answer.has_error():
                answers.append(pb_utils.InferenceResponse(error=answer.error()))
            else:
                values = pb_utils.get_output_tensor_by_name(answer, "OUT").as_numpy()
                answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", values * 2)]))
        return answers
"""
ASKING_CONFIG = """
    backend: "python" max_batch_size: 4
    input { name: "IN" data_type: TYPE_INT32 dims: 2 }
    output { name: "OUT" data_type: TYPE_INT32 dims: 2 }
"""
CACHED = """
    backend: "identity" max_batch_size: 4 response_cache { enable: true }
    input { name: "IN" data_type: TYPE_INT32 dims: 2 }
    output { name: "OUT" data_type: TYPE_INT32 dims: 2 }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Ours, with the real libraries where they find what they are linked to: by paths beside them, in which this
    server's libtritonserver.so has the place of the real one."""
    oracle = prepare()
    root = tmp_path_factory.mktemp("real")
    real = oracle.backends.parent
    home = root / "pytriton" / "tritonserver"
    shutil.copytree(real / "backends" / "python", home / "backends" / "python")
    shutil.copytree(real / "caches" / "local", home / "caches" / "local")
    libraries = root / "nvidia_pytriton.libs"
    libraries.mkdir()
    for library in [path for path in oracle.libraries.iterdir() if path.is_file()]:
        ours = library.name.startswith("libtritonserver")
        (libraries / library.name).symlink_to(native.LIBRARY if ours else library)
    models = root / "models"
    (models / "cached" / "1").mkdir(parents=True)
    (models / "cached" / "config.pbtxt").write_text(CACHED)
    (models / "asks" / "1").mkdir(parents=True)
    (models / "asks" / "config.pbtxt").write_text(ASKING_CONFIG)
    (models / "asks" / "1" / "model.py").write_text(ASKING)
    (models / "adds" / "7").mkdir(parents=True)
    (models / "adds" / "7" / "model.py").write_text(MODEL)
    env = ours_env()
    # What the stub needs.
    env["PATH"] = os.pathsep.join([str(oracle.python / "bin"), env.get("PATH", "")])
    env["LD_LIBRARY_PATH"] = oracle.server_env()["LD_LIBRARY_PATH"]
    command = ours_command(
        models, f"--backend-directory={home / 'backends'}", "--backend-config=python,native=true",
        f"--cache-directory={home / 'caches'}", "--cache-config=local,native=true", "--cache-config=local,size=1048576",
    )  # fmt: skip
    with running("ours", [sys.executable, *command[1:]], env, root / "log") as server:
        yield server


def ask(server: Server, model: str, value: int) -> list[list[int]]:
    tensor = http_client.InferInput("IN", [1, 2], "INT32")
    tensor.set_data_from_numpy(np.array([[value, 2]], np.int32))
    with http_client.InferenceServerClient(f"127.0.0.1:{server.http_port}") as client:
        found: list[list[int]] = client.infer(model, [tensor]).as_numpy("OUT").tolist()
        return found


def test_the_real_python_backend_runs_its_models(server: Server) -> None:
    for value in range(20):
        assert ask(server, "adds", value) == [[value + 7, 9]]
    with pytest.raises(http_client.InferenceServerException, match="it is negative"):
        ask(server, "adds", -1)
    with http_client.InferenceServerClient(f"127.0.0.1:{server.http_port}") as client:
        assert client.get_model_config("adds")["max_batch_size"] == 4


def test_its_models_ask_other_models(server: Server) -> None:
    for value in range(20):
        assert ask(server, "asks", value) == [[2 * (value + 7), 18]]
    with pytest.raises(http_client.InferenceServerException, match="it is negative"):
        ask(server, "asks", -1)


def test_the_real_local_cache_keeps_answers(server: Server) -> None:
    for _ in range(5):
        assert ask(server, "cached", 5) == [[5, 2]]
    with http_client.InferenceServerClient(f"127.0.0.1:{server.http_port}") as client:
        statistics = client.get_inference_statistics("cached")["model_stats"][0]["inference_stats"]
    assert statistics["cache_hit"]["count"] >= 1
    assert statistics["cache_miss"]["count"] >= 1
