"""The server as KServe runs it: the runtime's own command, user 1000, nothing to write to, its agent's calls."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import yaml
from server_process import START_SECONDS, STOP_SECONDS, free_ports, package_root, poll
from started import CONFIG

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
USER = 1000
PYTHON_MODEL = """
import os
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        output = lambda: pb_utils.Tensor("OUTPUT0", __import__("numpy").float32([os.getuid()]))
        return [pb_utils.InferenceResponse([output()]) for _ in requests]
"""


def as_user() -> list[str]:
    """What runs a command as that user; none where this is no root. It may read what root may, but not write it: the
    interpreter may lie in root's home."""
    if os.getuid():
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv here")
    powers = "-all,+dac_read_search"
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", f"--inh-caps={powers}",
            f"--ambient-caps={powers}"]  # fmt: skip


def write_models(root: Path, *names: str) -> None:
    for name in names:
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(CONFIG)


def close_to_all(root: Path) -> None:
    """Takes away every right to write."""
    for path in (root, *root.rglob("*")):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))


class Runtime:
    """The command of the runtime's container."""

    def __init__(self, folder: Path, models: Path, *more: str) -> None:
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        command = ["tritonserver", "--model-store=/mnt/models", "--grpc-port=9000", "--http-port=8080",
                   "--allow-grpc=true", "--allow-http=true"]  # fmt: skip
        if DEPLOY.is_dir():
            runtime = yaml.safe_load((DEPLOY / "kserve" / "serving-runtime.yaml").read_text())
            (container,) = runtime["spec"]["containers"]
            assert set(command) <= set(container["args"])
            command = container["args"]
        places = {"/mnt/models": str(models), "=9000": f"={self.grpc_port}", "=8080": f"={self.http_port}"}
        for given, ours in places.items():
            command = [argument.replace(given, ours) for argument in command]
        home = folder / "home"
        home.mkdir()
        close_to_all(home)
        self.log = folder / "log"
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(package_root()),
            "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        with self.log.open("wb") as output:
            # The image's entry point is the program itself; KServe's arguments name it once more.
            self.process = subprocess.Popen(
                [*as_user(), sys.executable, "-m", "triton_async.cli", *command,
                 f"--metrics-port={self.metrics_port}", *more],
                cwd="/", env=environment, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def call(self, path: str, body: bytes | None = None) -> int:
        sent = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", body)
        sent.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(sent, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return self.call("/v2/health/ready") == 200
            except OSError:
                return False

        poll(ready, "the server", START_SECONDS)

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(STOP_SECONDS) == 0, self.log.read_text()


@contextmanager
def running(folder: Path, models: Path, *more: str) -> Iterator[Runtime]:
    runtime = Runtime(folder, models, *more)
    try:
        runtime.wait_until_ready()
        yield runtime
    finally:
        runtime.process.kill()
        runtime.process.wait()


def test_it_serves_models_that_nobody_may_write_to(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_models(models, "simple")
    (models / "python" / "1").mkdir(parents=True)
    (models / "python" / "1" / "model.py").write_text(PYTHON_MODEL)
    (models / "python" / "config.pbtxt").write_text(CONFIG.replace("identity", "python"))
    close_to_all(models)
    with running(tmp_path, models) as runtime:
        owner = Path(f"/proc/{runtime.process.pid}").stat().st_uid
        assert owner == (os.getuid() or USER)
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{runtime.grpc_port}") as client:
            given = tritonclient.grpc.InferInput("INPUT0", [1], "FP32")
            given.set_data_from_numpy(np.float32([7]))
            assert client.infer("simple", [given]).as_numpy("OUTPUT0").tolist() == [7]
            assert client.infer("python", [given]).as_numpy("OUTPUT0").tolist() == [owner]
        runtime.stop()
    assert "Permission denied" not in runtime.log.read_text()


class Agent:
    """KServe's model agent beside the server: what it does to the folder and which calls it sends, in its order."""

    def __init__(self, runtime: Runtime, models: Path) -> None:
        self._runtime, self._models = runtime, models

    def add(self, name: str, version: int = 1, config: str = CONFIG) -> int:
        """A TrainedModel that came: fetched, marked, loaded. The status that the server answered."""
        folder = self._models / name
        (folder / str(version)).mkdir(parents=True)
        (folder / "config.pbtxt").write_text(config)
        # By the hash of its storage: it is not fetched again when the agent starts anew.
        (folder / "SUCCESS.6d9d5e41e4c4b1d6a5a8").touch()
        return self._call(name, "load")

    def remove(self, name: str) -> int:
        """A TrainedModel that went: its folder is deleted before the server hears of it."""
        shutil.rmtree(self._models / name)
        return self._call(name, "unload")

    def _call(self, name: str, what: str) -> int:
        return self._runtime.call(f"/v2/repository/models/{name}/{what}", b"{}")


@pytest.fixture(scope="module")
def attended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Runtime, Agent]]:
    """A server of many models without any yet, with its agent."""
    folder = tmp_path_factory.mktemp("agent")
    models = folder / "models"
    models.mkdir()
    arguments: list[str] = ["--model-control-mode=explicit"]
    if DEPLOY.is_dir():
        service, *_ = yaml.safe_load_all((DEPLOY / "kserve" / "multi-model.yaml").read_text())
        arguments = service["spec"]["predictor"]["model"]["args"]
    with running(folder, models, *arguments) as runtime:
        yield runtime, Agent(runtime, models)
        runtime.stop()


def test_the_agent_of_kserve_loads_and_unloads(attended: tuple[Runtime, Agent]) -> None:
    runtime, agent = attended
    assert runtime.call("/v2/health/ready") == 200, "it is ready before the agent has fetched anything"
    for name in ("first", "second"):
        assert runtime.call(f"/v2/models/{name}/ready") == 400
        assert agent.add(name) == 200
        assert runtime.call(f"/v2/models/{name}/ready") == 200
    assert agent.remove("first") == 200
    assert runtime.call("/v2/models/first/ready") == 400
    assert runtime.call("/v2/models/second/ready") == 200
    assert runtime.call("/v2/repository/models/nope/load", b"{}") != 200
    assert agent.remove("second") == 200


def test_the_agent_replaces_a_model(attended: tuple[Runtime, Agent]) -> None:
    runtime, agent = attended
    assert agent.add("changed") == 200
    # A TrainedModel with another storage: removed, then added.
    assert agent.remove("changed") == 200
    assert agent.add("changed", version=2) == 200
    assert runtime.call("/v2/models/changed/versions/2/ready") == 200
    assert runtime.call("/v2/models/changed/versions/1/ready") == 400
    assert agent.remove("changed") == 200


def test_the_agent_hears_of_a_model_that_cannot_be_loaded_and_goes_on(attended: tuple[Runtime, Agent]) -> None:
    runtime, agent = attended
    assert agent.add("wrong", config='backend: "no_such_backend"\n') == 400
    assert agent.add("right") == 200
    assert runtime.call("/v2/models/right/ready") == 200
    assert agent.remove("wrong") == 200
    assert agent.add("wrong") == 200
    for name in ("wrong", "right"):
        assert agent.remove(name) == 200


def test_the_agent_fetches_many_models_at_once_when_it_starts(attended: tuple[Runtime, Agent]) -> None:
    runtime, agent = attended
    names = [f"many_{number}" for number in range(16)]
    with ThreadPoolExecutor(len(names)) as pool:
        assert set(pool.map(agent.add, names)) == {200}
        assert {runtime.call(f"/v2/models/{name}/ready") for name in names} == {200}
        assert set(pool.map(agent.remove, names)) == {200}
        assert {runtime.call(f"/v2/models/{name}/ready") for name in names} == {400}


def test_it_goes_to_zero_and_back_without_a_request_lost(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_models(models, "simple")
    (models / "slow" / "1").mkdir(parents=True)
    (models / "slow" / "config.pbtxt").write_text(CONFIG.replace("identity", "python"))
    entered, go = tmp_path / "entered", tmp_path / "go"
    tmp_path.chmod(0o777)
    waits = f"""
        open({str(entered)!r}, "w").close()
        while not os.path.exists({str(go)!r}):
            time.sleep(0.01)"""
    body = PYTHON_MODEL.replace("import os", "import os, time").replace(
        "(self, requests):", f"(self, requests):{waits}"
    )
    (models / "slow" / "1" / "model.py").write_text(body)
    infer = b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"data":[1]}]}'
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    # What is running when Knative takes the last replica away is answered.
    with running(tmp_path / "before", models) as runtime, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(runtime.call, "/v2/models/slow/infer", infer)
        poll(entered.exists, "the execution", START_SECONDS)
        runtime.process.terminate()
        go.touch()
        assert answer.result() == 200
        assert runtime.process.wait(STOP_SECONDS) == 0
    # A request that waits for the next one: the port opens only once it can be answered, and no sooner.
    runtime = Runtime(tmp_path / "after", models)
    try:
        began, status = time.monotonic(), 0
        while status == 0 and time.monotonic() < began + START_SECONDS:
            assert runtime.process.poll() is None, runtime.log.read_text()
            try:
                status = runtime.call("/v2/models/simple/infer", infer)
            except OSError:
                time.sleep(0.01)
        assert status == 200, "the port was open before the model could answer"
        runtime.stop()
    finally:
        runtime.process.kill()
        runtime.process.wait()


def test_no_port_answers_before_the_models_are_ready(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_models(models, "simple")
    (models / "slow" / "1").mkdir(parents=True)
    (models / "slow" / "config.pbtxt").write_text(CONFIG.replace("identity", "python"))
    waits = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\n"
    (models / "slow" / "1" / "model.py").write_text(waits + PYTHON_MODEL)
    runtime = Runtime(tmp_path, models)
    try:
        poll(lambda: "successfully loaded 'simple'" in runtime.log.read_text(), "the other model", START_SECONDS)
        assert runtime.process.poll() is None
        for port in (runtime.http_port, runtime.grpc_port):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), 5)
        (tmp_path / "go").touch()
        runtime.wait_until_ready()
        runtime.stop()
    finally:
        runtime.process.kill()
        runtime.process.wait()
