"""Guards over both protocols: what is refused, and beside it what only just is not and is taken.

The table in docs/security.md has a test for each guard; those that need more than a request stand in test_guards.
"""

from __future__ import annotations

import json
import random
import string
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from server_process import ServerProcess, poll, running_server
from tritonclient.utils import InferenceServerException

from triton_async.defines import OVERRIDE_CONFIG_MAX_NBYTES

MODULES = {"http": tritonclient.http, "grpc": tritonclient.grpc}
CONFIG = """
backend: "identity" max_batch_size: 8
input { name: "INPUT0" data_type: TYPE_FP32 dims: -1 }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }
dynamic_batching { priority_levels: 9 default_priority_level: 5 }
"""
# All that a name of a model may hold beside letters and digits: none of it reaches a shell or a path.
PUNCTUATION = "a" + "".join(sorted(set(string.punctuation) - set("/\\"))) + " z"
LONGEST = "n" * 255
STAYS = ("echo", PUNCTUATION, LONGEST)
SECONDS = 3.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("models")
    for name in (*STAYS, "comes"):
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(CONFIG)
    (root / "broken" / "1").mkdir(parents=True)
    (root / "broken" / "config.pbtxt").write_text(CONFIG + "max_batch_size: -3")
    options = ["--model-control-mode=explicit", "--load-model=echo", "--trace-config=triton,file=trace.json"]
    folder, scratch = tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("scratch")
    before = files_of(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scratch))
        with running_server([root], folder, options) as process:
            yield process
            process.wait_until_idle()
            # What clients named, and brought, is nowhere but where it belongs, and gone with it.
            assert files_of(root) == before
            assert {path.name for path in folder.iterdir()} <= {process.log.name, "trace.json"}
            poll(lambda: not any(scratch.iterdir()), "the files of loads to go")
            process.stop()


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in root.rglob("*")}


@pytest.fixture(params=list(MODULES))
def module(request: pytest.FixtureRequest) -> Any:
    return MODULES[request.param]


def connect(server: ServerProcess, module: Any) -> Any:
    return module.InferenceServerClient(server.http_url if module is tritonclient.http else server.grpc_url)


@pytest.fixture
def client(server: ServerProcess, module: Any) -> Iterator[Any]:
    with connect(server, module) as made:
        yield made


def infer(client: Any, module: Any, name: str = "echo", rows: int = 1, **more: Any) -> Any:
    values = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    tensor = module.InferInput("INPUT0", [rows, 2], "FP32")
    tensor.set_data_from_numpy(values)
    result = client.infer(name, [tensor], **more)
    if "outputs" not in more:
        assert np.array_equal(result.as_numpy("OUTPUT0"), values)
    return result


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [PUNCTUATION, LONGEST])
def test_every_name_that_a_folder_may_have_is_a_model(client: Any, module: Any, name: str) -> None:
    client.load_model(name)
    infer(client, module, name)
    client.unload_model(name)


@pytest.mark.parametrize("name", ["..", "../models/echo", "/etc", "echo/../echo", LONGEST + "n", "%2e%2e", "no\ne"])
def test_names_that_lead_elsewhere_or_nowhere_are_refused(client: Any, module: Any, name: str) -> None:
    for call in (client.load_model, client.get_model_metadata, lambda name: infer(client, module, name)):
        with pytest.raises(InferenceServerException):
            call(name)
    infer(client, module)


@pytest.mark.parametrize(("path", "taken"), [
    ("1/data", True), ("1/a/b", True), ("x" * 255, True),
    ("x" * 256, False), ("../data", False), ("1/../../data", False), ("/data", False), ("", False),
])  # fmt: skip
def test_files_of_a_load_stay_in_its_folder(client: Any, module: Any, path: str, taken: bool) -> None:
    config = json.dumps({"backend": "identity", "max_batch_size": 8,
                         "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
                         "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}]})  # fmt: skip
    files = {f"file:{path}": b"x", "file:1/model": b"y"}
    if not taken:
        with pytest.raises(InferenceServerException):
            client.load_model("comes", config=config, files=files)
        infer(client, module)
        return
    client.load_model("comes", config=config, files=files)
    infer(client, module, "comes")
    client.unload_model("comes")


def test_the_config_of_a_load_is_read_as_carefully_as_any_json(client: Any, module: Any) -> None:
    """Its levels are counted before it is parsed, and its bytes before that."""
    for depth, text in ((100, "no field named"), (101, r"nesting depth exceeds maximum allowed limit \(100\)")):
        config = '{"x":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"
        with pytest.raises(InferenceServerException, match=text):
            client.load_model("comes", config=config)
    least = json.dumps({"backend": "identity", "max_batch_size": 8,
                        "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
                        "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}]})  # fmt: skip
    most = OVERRIDE_CONFIG_MAX_NBYTES
    client.load_model("comes", config=least.ljust(most))
    infer(client, module, "comes")
    with pytest.raises(InferenceServerException, match=f"larger than {most} bytes"):
        client.load_model("comes", config=least.ljust(most + 1))
    infer(client, module, "comes")
    client.unload_model("comes")


@pytest.mark.parametrize("step", ["../echo", "/etc", "echo/1", "..", LONGEST + "n", ""])
def test_steps_of_ensembles_name_models_and_nothing_else(client: Any, module: Any, step: str) -> None:
    def config(model: str) -> str:
        return json.dumps({
            "platform": "ensemble", "max_batch_size": 8,
            "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
            "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
            "ensemble_scheduling": {"step": [{
                "model_name": model, "model_version": -1, "input_map": {"INPUT0": "INPUT0"},
                "output_map": {"OUTPUT0": "OUTPUT0"}}]},
        })  # fmt: skip

    with pytest.raises(InferenceServerException, match=r"model_name|models that are not available"):
        client.load_model("comes", config=config(step))
    client.load_model("comes", config=config("echo"))
    infer(client, module, "comes")
    client.unload_model("comes")


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["", "echo"])
def test_no_client_says_where_traces_are_written(client: Any, module: Any, model: str) -> None:
    before = client.get_trace_settings(model)
    with pytest.raises(InferenceServerException, match="trace file location can not be updated"):
        client.update_trace_settings(model, {"trace_file": "elsewhere"})
    assert client.get_trace_settings(model) == before
    client.update_trace_settings(model, {"trace_rate": "7"})
    client.update_trace_settings(model, {"trace_rate": None})


def test_no_client_says_where_logs_are_written(client: Any, module: Any) -> None:
    before = client.get_log_settings()
    with pytest.raises(InferenceServerException, match="log file location can not be updated"):
        client.update_log_settings({"log_file": "elsewhere"})
    assert client.get_log_settings() == before
    client.update_log_settings({"log_verbose_level": 0})


def test_memory_is_registered_only_where_that_is_allowed(client: Any, module: Any) -> None:
    for call in (
        lambda: client.register_system_shared_memory("r", "/key", 8),
        lambda: client.unregister_system_shared_memory("r"),
        lambda: client.register_cuda_shared_memory("r", b"x" * 64, 0, 8),
    ):
        with pytest.raises(InferenceServerException):
            call()
    status = client.get_system_shared_memory_status()
    assert not (status if module is tritonclient.http else status.regions)


# -- numbers ---------------------------------------------------------------------------------------

NUMBERS: list[tuple[str, Callable[[Any, Any], Any], bool]] = [
    ("the last priority", lambda c, m: infer(c, m, priority=9), True),
    ("one beyond, which is the default", lambda c, m: infer(c, m, priority=10), True),
    ("rows up to the batch", lambda c, m: infer(c, m, rows=8), True),
    ("one row more", lambda c, m: infer(c, m, rows=9), False),
    ("the longest timeout", lambda c, m: infer(c, m, timeout=2**63 - 1), True),
    ("one more", lambda c, m: infer(c, m, timeout=2**64), False),
    ("the last sequence id", lambda c, m: infer(c, m, sequence_id=2**63 - 1, sequence_start=True), True),
    ("one beyond it", lambda c, m: infer(c, m, sequence_id=2**64, sequence_start=True), False),
    ("as many classes as values", lambda c, m: _classes(c, m, 2), True),
    ("fewer than no classes", lambda c, m: _classes(c, m, -1), False),
    ("a text for classes", lambda c, m: _classes(c, m, "x"), False),
    ("version 1", lambda c, m: infer(c, m, model_version="1"), True),
    ("version 2", lambda c, m: infer(c, m, model_version="2"), False),
    ("a version of 64 bits", lambda c, m: infer(c, m, model_version=str(2**64)), False),
    ("a version that is no number", lambda c, m: infer(c, m, model_version="one"), False),
]  # fmt: skip


def _classes(client: Any, module: Any, count: Any) -> Any:
    output = module.InferRequestedOutput("OUTPUT0")
    if module is tritonclient.http:
        output._parameters["classification"] = count
    elif isinstance(count, int):
        output._output.parameters["classification"].int64_param = count
    else:
        output._output.parameters["classification"].string_param = count
    return infer(client, module, outputs=[output])


@pytest.mark.parametrize(("number", "ask", "taken"), NUMBERS, ids=[name for name, _, _ in NUMBERS])
def test_numbers_at_and_beyond_their_ends(
    client: Any, module: Any, number: str, ask: Callable[[Any, Any], Any], taken: bool
) -> None:
    if taken:
        ask(client, module)
        return
    # What a client's own message has no room for does not leave it.
    with pytest.raises((InferenceServerException, ValueError, OverflowError)):
        ask(client, module)
    infer(client, module)


# -- models that can not be loaded, and many calls at once -----------------------------------------


def test_a_model_that_can_not_be_loaded_harms_nobody(client: Any, module: Any) -> None:
    with pytest.raises(InferenceServerException, match="broken"):
        client.load_model("broken")
    with pytest.raises(InferenceServerException):
        infer(client, module, "broken")
    assert client.is_server_live() and client.is_model_ready("echo") and not client.is_model_ready("broken")
    infer(client, module)


def test_control_calls_of_one_model_at_once_have_answers_that_they_may_have(server: ServerProcess) -> None:
    """Loads, unloads, questions and requests of eight clients; nothing is left over, and the model loads at the end."""
    stop = threading.Event()
    unexpected: list[str] = []
    fine = ("not found", "no available versions", "not at ready state", "not available", "being unloaded")

    def ask(number: int) -> int:
        rng, module = random.Random(number), MODULES["http" if number % 2 else "grpc"]
        asked = 0
        with connect(server, module) as client:
            calls: list[Callable[[], Any]] = [
                lambda: client.load_model("comes"), lambda: client.unload_model("comes"),
                lambda: infer(client, module, "comes"), lambda: client.get_model_metadata("comes"),
                lambda: client.get_model_config("comes"), lambda: client.get_inference_statistics("comes"),
                client.get_model_repository_index, lambda: client.is_model_ready("comes"),
            ]  # fmt: skip
            while not stop.is_set():
                try:
                    rng.choice(calls)()
                except InferenceServerException as error:
                    if not any(text in str(error) for text in fine):
                        unexpected.append(str(error))
                asked += 1
        return asked

    with ThreadPoolExecutor(8) as threads:
        results = [threads.submit(ask, number) for number in range(8)]
        stop.wait(SECONDS)
        stop.set()
        counts = [result.result(60) for result in results]
    assert not unexpected and min(counts) > 3
    with connect(server, tritonclient.http) as client:
        client.load_model("comes")
        infer(client, tritonclient.http, "comes")
        client.unload_model("comes")
    server.wait_until_idle()
