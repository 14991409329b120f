"""Loads with a config or files of their own, reloads under load, and repositories that are followed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from server_process import poll
from started import Started, started
from tritonclient.utils import InferenceServerException

CONFIG = """
    backend: "python"
    max_batch_size: %d
    input { name: "X" data_type: TYPE_FP32 dims: -1 }
    output { name: "Y" data_type: TYPE_FP32 dims: -1 }
"""
MODEL = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("Y", request.inputs()[0].as_numpy() * %d)])
            for request in requests
        ]
"""


def write(root: Path, name: str, factor: int = 1, batch: int = 4) -> None:
    """A model that multiplies. Its files appear at once, as with a rename."""
    made = root.parent / f"made-{name}"
    (made / "1").mkdir(parents=True)
    (made / "config.pbtxt").write_text(CONFIG % batch)
    (made / "1" / "model.py").write_text(MODEL % factor)
    shutil.rmtree(root / name, ignore_errors=True)
    made.rename(root / name)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    write(root, "m")
    return root


@pytest.fixture(params=["http", "grpc"])
def module(request: pytest.FixtureRequest) -> Any:
    return httpclient if request.param == "http" else grpcclient


def client(server: Started, module: Any) -> Any:
    return module.InferenceServerClient(f"127.0.0.1:{server.http_port if module is httpclient else server.grpc_port}")


def infer(client: Any, module: Any, name: str = "m") -> float:
    tensor = module.InferInput("X", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 1), np.float32))
    return float(client.infer(name, [tensor]).as_numpy("Y")[0, 0])


def batch_size(client: Any, module: Any) -> int:
    if module is httpclient:
        return int(client.get_model_config("m")["max_batch_size"])
    return int(client.get_model_config("m").config.max_batch_size)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Where the server makes temporary directories; nothing is left there when it has ended."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    yield folder
    del os.environ["TMPDIR"]
    if before is not None:
        os.environ["TMPDIR"] = before
    tempfile.tempdir = None


def explicit(tmp_path: Path, models: Path, *options: str) -> Any:
    return started(tmp_path, f"--model-repository={models}", "--model-control-mode=explicit", *options)


def test_a_load_may_bring_a_config_and_the_next_one_is_of_the_repository(
    models: Path, tmp_path: Path, module: Any
) -> None:
    with explicit(tmp_path, models) as server:
        server.wait_until_it_answers()
        with client(server, module) as triton:
            triton.load_model("m", config=json.dumps({"max_batch_size": 2, "backend": "python"}))
            assert batch_size(triton, module) == 2
            with pytest.raises(InferenceServerException, match="Invalid config override"):
                triton.load_model("m", config="{")
            with pytest.raises(InferenceServerException, match="names a file"):
                triton.load_model("m", config='{"parameters":{"EXECUTION_ENV_PATH":{"string_value":"/x"}}}')
            assert batch_size(triton, module) == 2
            triton.load_model("m")
            assert batch_size(triton, module) == 4


def test_a_load_may_bring_files_which_go_with_the_model(
    models: Path, tmp_path: Path, module: Any, scratch: Path
) -> None:
    config = json.dumps({"backend": "python", "max_batch_size": 4,
                         "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [-1]}],
                         "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [-1]}]})  # fmt: skip
    with explicit(tmp_path, models) as server:
        server.wait_until_it_answers()
        with client(server, module) as triton:
            triton.load_model("m")
            assert infer(triton, module) == 1
            triton.load_model("m", config=config, files={"file:7/model.py": (MODEL % 7).encode()})
            assert infer(triton, module) == 7
            assert triton.is_model_ready("m", "7") and not triton.is_model_ready("m", "1")
            assert len(list(scratch.iterdir())) == 1
            assert all(folder.stat().st_mode & 0o077 == 0 for folder in scratch.iterdir())
            for path in ("../x", "7/../../x", "/x"):
                with pytest.raises(InferenceServerException, match="must stay within model directory"):
                    triton.load_model("m", config=config, files={f"file:{path}": b"x"})
            with pytest.raises(InferenceServerException, match="'config' must be specified"):
                triton.load_model("m", files={"file:8/model.py": b"x"})
            with pytest.raises(InferenceServerException, match="load failed for model 'm'"):
                triton.load_model("m", config=config, files={"file:8/model.py": b"syntax error"})
            assert infer(triton, module) == 7  # what served goes on
            triton.load_model("new", config=config, files={"file:1/model.py": (MODEL % 5).encode()})
            assert infer(triton, module, "new") == 5
            triton.load_model("m")
            poll(lambda: len(list(scratch.iterdir())) == 1, "the files of 'm' to go", 30)
            assert infer(triton, module) == 1
            triton.unload_model("new")
            poll(lambda: not list(scratch.iterdir()), "the files of 'new' to go", 30)
            with pytest.raises(InferenceServerException, match="failed to load 'new'"):
                triton.load_model("new")
            triton.load_model("m", config=config, files={"file:7/model.py": (MODEL % 7).encode()})
        server.process.terminate()
        assert server.end() == 0
    assert not list(scratch.iterdir())


def test_a_model_is_reloaded_under_load_without_a_gap(models: Path, tmp_path: Path) -> None:
    with explicit(tmp_path, models, "--load-model=*") as server:
        server.wait_until_it_answers()
        stop = threading.Event()
        answers: list[float] = []
        failures: list[BaseException] = []

        def ask(module: Any) -> None:
            try:
                with client(server, module) as triton:
                    while not stop.is_set():
                        answers.append(infer(triton, module))
            except BaseException as error:
                failures.append(error)

        modules = 2 * [httpclient, grpcclient]
        threads = [threading.Thread(target=ask, args=(module,)) for module in modules]
        for thread in threads:
            thread.start()
        with client(server, httpclient) as triton:
            for factor in range(2, 8):
                write(models, "m", factor)
                triton.load_model("m")
                assert infer(triton, httpclient) == factor
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert set(answers) <= set(range(1, 8)) and len(answers) > 50


def test_repositories_are_followed(models: Path, tmp_path: Path) -> None:
    options = ("--model-control-mode=poll", "--repository-poll-secs=1")
    with started(tmp_path, f"--model-repository={models}", *options) as server:
        server.wait_until_it_answers()
        with client(server, httpclient) as triton:
            assert infer(triton, httpclient) == 1
            for call in (triton.load_model, triton.unload_model):
                with pytest.raises(InferenceServerException, match="not allowed if polling is enabled"):
                    call("m")
            write(models, "m", 3)
            write(models, "more", 4)
            (models / "broken" / "1").mkdir(parents=True)
            (models / "broken" / "config.pbtxt").write_text("what")
            poll(lambda: infer(triton, httpclient) == 3 and triton.is_model_ready("more"), "changes", 30)
            assert infer(triton, httpclient, "more") == 4
            poll(lambda: "Poll failed for model directory 'broken': " in server.output(), "the broken one", 30)
            shutil.rmtree(models / "m")
            poll(lambda: not triton.is_model_ready("m"), "the model to go", 30)
            # A repository that is away for a moment takes nothing with it.
            models.rename(tmp_path / "away")
            poll(lambda: "failed to poll model repositories" in server.output(), "a failed look", 30)
            assert triton.is_model_ready("more")
            (tmp_path / "away").rename(models)
            write(models, "m", 9)
            shutil.rmtree(models / "broken")
            poll(lambda: triton.is_model_ready("m"), "the model to come back", 30)
            assert infer(triton, httpclient) == 9
            assert triton.is_server_ready()
        assert len([line for line in server.output().splitlines() if "directory 'broken'" in line]) == 1
        server.process.terminate()
        assert server.end() == 0


COUNTING = """
import triton_python_backend_utils as pb_utils


def note(what):
    with open("%s", "a") as file:
        file.write(what)


class TritonPythonModel:
    def initialize(self, args):
        note("+")

    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("Y", request.inputs()[0].as_numpy())]) for request in requests
        ]

    def finalize(self):
        note("-")
"""


def test_instances_are_added_and_removed_in_place_under_load(models: Path, tmp_path: Path, module: Any) -> None:
    life = tmp_path / "life"
    (models / "m" / "1" / "model.py").write_text(COUNTING % str(life))
    config = models / "m" / "config.pbtxt"

    def group(count: int) -> str:
        return CONFIG % 4 + f"instance_group {{ kind: KIND_CPU count: {count} }}"

    config.write_text(group(1))
    with explicit(tmp_path, models, "--load-model=m") as server:
        server.wait_until_it_answers()
        stop, problems, answers = threading.Event(), [], [0]

        def ask() -> None:
            with client(server, module) as asking:
                while not stop.is_set():
                    try:
                        assert infer(asking, module) == 1
                        answers[0] += 1
                    except Exception as error:
                        problems.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        with client(server, module) as triton:
            for count, expected in ((3, "+++"), (2, "+++-"), (4, "+++-++")):
                before = answers[0]
                config.write_text(group(count))
                triton.load_model("m")
                poll(lambda expected=expected: life.read_text() == expected, f"{expected} of instances", 20)
                poll(lambda before=before: answers[0] > before + 20, "answers", 20)
        stop.set()
        for thread in threads:
            thread.join()
        assert not problems and answers[0] > 60


def ask_by_key(server: Started, module: Any, key: str) -> float:
    """tritonclient leaves slashes of a name in a path as they are, so that it can ask over gRPC alone."""
    if module is grpcclient:
        with client(server, module) as triton:
            assert triton.is_model_ready(key)
            return infer(triton, module, key)
    body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}
    url = f"http://127.0.0.1:{server.http_port}/v2/models/{urllib.parse.quote(key, safe='')}/infer"
    with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=20) as answer:
        return float(json.loads(answer.read())["outputs"][0]["data"][0])


def test_models_of_one_name_in_two_repositories(models: Path, tmp_path: Path, module: Any) -> None:
    others = tmp_path / "others"
    others.mkdir()
    write(others, "m", 5)
    write(others, "alone", 3)
    options = (f"--model-repository={others}", "--model-namespacing=true")
    with started(tmp_path, f"--model-repository={models}", *options) as server:
        server.wait_until_it_answers()
        with client(server, module) as triton:
            assert infer(triton, module, "alone") == 3
            with pytest.raises(InferenceServerException, match="There are 2 identifiers of model 'm' in global map"):
                infer(triton, module)
            for root, factor in ((models, 1), (others, 5)):
                assert ask_by_key(server, module, f"{root}::m") == factor
            with pytest.raises(InferenceServerException, match="unknown model: 'nobody' is not found"):
                infer(triton, module, "nobody")
            index = triton.get_model_repository_index()
            rows = index if module is httpclient else index.models
            found = [row["name"] if module is httpclient else row.name for row in rows]
            assert found == ["m", "alone", "m"]


PLACED = """
import os

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        cores = np.array([sorted(os.sched_getaffinity(0))], np.float32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", cores)]) for _ in requests]
"""


def test_instances_run_where_their_host_policy_says(models: Path, tmp_path: Path) -> None:
    last = sorted(os.sched_getaffinity(0))[-1]
    (models / "m" / "1" / "model.py").write_text(PLACED)
    shutil.copytree(models / "m", models / "worker")
    isolated = 'parameters { key: "ISOLATION" value { string_value: "process" } }'
    (models / "worker" / "config.pbtxt").write_text(CONFIG % 4 + isolated)
    shutil.copytree(models / "worker", models / "bound_memory")
    (models / "bound_memory" / "config.pbtxt").write_text(
        CONFIG % 4 + isolated + 'instance_group { kind: KIND_CPU host_policy: "node" }'
    )
    options = (f"--host-policy=cpu,cpu-cores={last}-{last}", "--host-policy=node,numa-node=0")
    with started(tmp_path, f"--model-repository={models}", "--exit-on-error=false", *options) as server:
        server.wait_until_it_answers()
        with client(server, grpcclient) as triton:
            for name in ("m", "worker"):
                tensor = grpcclient.InferInput("X", [1, 1], "FP32")
                tensor.set_data_from_numpy(np.ones((1, 1), np.float32))
                poll(lambda name=name: triton.is_model_ready(name), name, 20)
                assert triton.infer(name, [tensor]).as_numpy("Y").tolist() == [[last]]
            rows = {row.name: row.reason for row in triton.get_model_repository_index().models}
            assert "host policy 'node'" in rows["bound_memory"] and "worker processes" in rows["bound_memory"]
