"""Backends that are shared libraries, compiled here, in real servers: what models answer, and what bad libraries do."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import native_libraries
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from server_process import ServerProcess, package_root, poll, running_server
from started import started
from triton_clients import client_module
from tritonclient.utils import InferenceServerException

from triton_async import native

pytestmark = native_libraries.needs_compiler

TENSORS = """
    input { name: "INPUT0" data_type: TYPE_INT32 dims: 1 }
    output { name: "OUTPUT0" data_type: TYPE_INT32 dims: 1 }
"""
CHATTY = """
#include <chrono>
#include <thread>
#include "triton/core/tritonbackend.h"

extern "C" TRITONSERVER_Error *TRITONBACKEND_Initialize(TRITONBACKEND_Backend *) {
    std::thread([]() noexcept {
        for (;;) {
            TRITONSERVER_LogMessage(TRITONSERVER_LOG_ERROR, __FILE__, __LINE__, "still there");
            std::this_thread::sleep_for(std::chrono::microseconds(20));
        }
    }).detach();
    return nullptr;
}

extern "C" TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance *, TRITONBACKEND_Request **, const uint32_t) {
    return nullptr;
}
"""
DECOUPLED = "model_transaction_policy { decoupled: true }"
MODES = [
    "identity", "error", "odd_error", "later", "later_kept", "silent", "twice", "misuse", "fail_execute", "describe",
    "unknown_output", "reschedule", "not_ready", "slow", "cancel", "fail_half",
]  # fmt: skip


def write(  # noqa: PLR0917
    root: Path, name: str, backend: str, mode: str = "", more: str = TENSORS, batch: int = 4
) -> Path:
    """A model of a native backend."""
    (root / name / "1").mkdir(parents=True)
    parameter = f'parameters {{ key: "mode" value {{ string_value: "{mode}" }} }}' if mode else ""
    (root / name / "config.pbtxt").write_text(f'backend: "{backend}" max_batch_size: {batch} {more} {parameter}')
    return root / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    native_libraries.backend(folder / "backends", "puppet", "puppet.c")
    native_libraries.backend(folder / "backends", "preferring", "puppet.c", "WITH_ATTRIBUTES", "DEVICE_BLOCKING")
    native_libraries.backend(folder / "backends", "mirror", "identity.c")
    models = folder / "models"
    for mode in MODES:
        write(models, mode, "puppet", mode, TENSORS + "dynamic_batching {}")
    write(models, "stream", "puppet", "stream", TENSORS + DECOUPLED)
    write(models, "mirror", "mirror", "", TENSORS + "dynamic_batching {}")
    write(models, "preferring", "preferring", "identity")
    write(models, "words", "mirror", "", 'input { name: "INPUT0" data_type: TYPE_STRING dims: -1 } '
          'output { name: "OUTPUT0" data_type: TYPE_STRING dims: -1 } dynamic_batching {}')  # fmt: skip
    write(models, "reshaped", "mirror", "", 'input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 2, 3 ] '
          'reshape { shape: [ 6 ] } } output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 3, 2 ] '
          'reshape { shape: [ 6 ] } }')  # fmt: skip
    write(models, "complete", "puppet", "complete", "", 0)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    # One of the models says that it is not ready.
    options = [f"--backend-directory={folder / 'backends'}", "--strict-readiness=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUPPET_JOURNAL", str(folder / "journal"))
        with running_server([folder / "models"], folder, options) as server:
            yield server


def ask(server: ServerProcess, model: str, value: int, protocol: str = "grpc", rows: int = 1, **more: Any) -> Any:
    module = client_module(protocol)
    tensor = module.InferInput("INPUT0", [rows, 1], "INT32")
    tensor.set_data_from_numpy(np.full((rows, 1), value, np.int32))
    with module.InferenceServerClient(server.url(protocol)) as client:
        return client.infer(model, [tensor], **more)


def value_of(result: Any) -> list[int]:
    found: list[int] = result.as_numpy("OUTPUT0").ravel().tolist()
    return found


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("model", [
    "identity", "mirror", "later", "later_kept", "twice", "misuse", "reschedule", "slow", "preferring", "complete",
])  # fmt: skip
def test_answers_arrive(server: ServerProcess, protocol: str, model: str) -> None:
    for value in range(12):  # the first are sent one by one, the others with their batch
        assert value_of(ask(server, model, value, protocol)) == [value]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize(("model", "text"), [
    ("error", "this value is not to its taste"),
    ("silent", "model 'silent' gave up a request without a final response"),
    ("fail_execute", "the execution went wrong"),
    ("unknown_output", "model 'unknown_output' produced output 'OTHER', which is not in its configuration"),
])  # fmt: skip
def test_errors_arrive(server: ServerProcess, protocol: str, model: str, text: str) -> None:
    for _ in range(12):
        with pytest.raises(InferenceServerException) as caught:
            ask(server, model, 1, protocol)
        assert caught.value.message() == text


def test_requests_of_a_batch_are_told_apart(server: ServerProcess) -> None:
    def outcome(model: str, value: int) -> object:
        try:
            return value_of(ask(server, model, value, rows=1 + value % 2))
        except InferenceServerException as error:
            return error.message()

    with ThreadPoolExecutor(16) as pool:
        for model in ("mirror", "slow"):
            found = list(pool.map(lambda value, model=model: outcome(model, value), range(96)))
            expected = [1 + value % 2 if model == "mirror" else 1 for value in range(96)]
            assert found == [[value] * count for value, count in zip(range(96), expected, strict=True)], model
        found = list(pool.map(lambda value: outcome("odd_error", value), range(96)))
        assert found[::2] == [[value] for value in range(0, 96, 2)]
        assert set(map(str, found[1::2])) == {"this value is not to its taste"}
        halves = list(pool.map(lambda value: outcome("fail_half", value), range(96)))
        assert all(half in ([value], "half of it went wrong") for value, half in enumerate(halves))
    with grpc_client.InferenceServerClient(server.grpc_url) as client:
        statistics = client.get_inference_statistics("mirror", as_json=True)["model_stats"][0]
    assert int(statistics["execution_count"]) < int(statistics["inference_count"])


def test_requests_tell_what_they_are(server: ServerProcess) -> None:
    result = ask(server, "describe", 3, request_id="abc", timeout=7_000_000, parameters={"a": "b", "n": 3, "t": True})
    told = {key: getattr(value, value.WhichOneof("parameter_choice"))
            for key, value in result.get_response().parameters.items()}  # fmt: skip
    assert told == {"id": "abc", "flags": 0, "correlation": 0, "timeout_us": 7_000_000, "yes": True, "half": 0.5,
                    "got_a": "b", "got_n": "3", "got_t": "1"}  # fmt: skip


def test_strings_and_shapes_pass(server: ServerProcess) -> None:
    with grpc_client.InferenceServerClient(server.grpc_url) as client:
        words = np.array([[b"a", b"", b"long " * 100]], dtype=object)
        tensor = grpc_client.InferInput("INPUT0", [1, 3], "BYTES")
        tensor.set_data_from_numpy(words)
        assert client.infer("words", [tensor]).as_numpy("OUTPUT0").tolist() == words.tolist()
        numbers = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
        tensor = grpc_client.InferInput("INPUT0", [2, 2, 3], "FP32")
        tensor.set_data_from_numpy(numbers)
        got = client.infer("reshaped", [tensor]).as_numpy("OUTPUT0")
        assert got.shape == (2, 3, 2)
        assert got.ravel().tolist() == numbers.ravel().tolist()


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_decoupled_models_answer_as_often_as_they_like(server: ServerProcess, count: int) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with grpc_client.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        tensor = grpc_client.InferInput("INPUT0", [1, 1], "INT32")
        tensor.set_data_from_numpy(np.full((1, 1), count, np.int32))
        client.async_stream_infer("stream", [tensor], enable_empty_final_response=True)
        got: list[int] = []
        final = False
        while not final:
            result, error = answers.get(timeout=30)
            assert error is None
            final = result.get_response().parameters["triton_final_response"].bool_param
            got += value_of(result) if result.get_response().outputs else []
    assert got == list(range(count, 2 * count))


def test_backends_see_that_a_request_is_cancelled(server: ServerProcess, folder: Path) -> None:
    with pytest.raises(InferenceServerException):
        ask(server, "cancel", 1, client_timeout=0.5)
    poll(lambda: "Cancelled yes" in (folder / "journal").read_text(), "the backend to see it", 20)


def test_readiness_is_the_backends(server: ServerProcess) -> None:
    with grpc_client.InferenceServerClient(server.grpc_url) as client:
        assert not client.is_model_ready("not_ready")
        assert client.is_model_ready("identity")


def test_instances_are_not_finalised_while_they_are_asked_for_readiness(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal"
    monkeypatch.setenv("PUPPET_JOURNAL", str(journal))
    write(tmp_path / "models", "slow_ready", "puppet", "slow_ready")
    options = [f"--backend-directory={folder / 'backends'}", "--model-control-mode=explicit"]
    with running_server([tmp_path / "models"], tmp_path, options) as server, ThreadPoolExecutor(1) as pool:
        assert load(server.http_url, "slow_ready") == (200, "")
        with grpc_client.InferenceServerClient(server.grpc_url) as client:
            journal.write_text("")
            asking = pool.submit(client.is_model_ready, "slow_ready")
            poll(lambda: "Ready begins" in journal.read_text(), "the backend to be asked", 20)
            assert load(server.http_url, "slow_ready", "unload") == (200, "")
            poll(lambda: "ModelFinalize" in journal.read_text(), "the model's end", 20)
            asking.result(20)
    lines = [line for line in journal.read_text().splitlines() if line.startswith(("Ready", "ModelInstanceFinalize"))]
    assert lines[-1] == "ModelInstanceFinalize slow_ready_0"
    assert lines.count("Ready begins") == lines.count("Ready ends")


def test_who_does_not_say_whether_he_is_ready_is_unloaded_all_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, gate = tmp_path / "journal", tmp_path / "gate"
    monkeypatch.setenv("PUPPET_JOURNAL", str(journal))
    monkeypatch.setenv("PUPPET_GATE", str(gate))
    write(tmp_path / "models", "stuck_ready", "puppet", "stuck_ready")
    options = [f"--backend-directory={folder / 'backends'}", "--model-control-mode=explicit"]
    with running_server([tmp_path / "models"], tmp_path, options) as server, ThreadPoolExecutor(1) as pool:
        assert load(server.http_url, "stuck_ready") == (200, "")
        with grpc_client.InferenceServerClient(server.grpc_url) as client:
            asking = pool.submit(client.is_model_ready, "stuck_ready")
            poll(lambda: "Ready begins" in journal.read_text(), "the backend to be asked", 20)
            assert load(server.http_url, "stuck_ready", "unload") == (200, "")
            poll(
                lambda: client.get_model_repository_index().models[0].reason == "unloaded", "the model to be gone", 20
            )
            assert not asking.result(20)
        lines = [line.split()[0] for line in journal.read_text().splitlines()]
        assert "ModelInstanceFinalize" not in lines
        assert "ModelFinalize" not in lines
        assert load(server.http_url, "stuck_ready") == (200, "")
        gate.touch()
        poll(lambda: "ModelFinalize" in journal.read_text(), "the model's end", 20)
        lines = journal.read_text().splitlines()
        assert lines.index("Ready ends") < lines.index("ModelInstanceFinalize stuck_ready_0")
        assert lines.index("ModelInstanceFinalize stuck_ready_0") < lines.index("ModelFinalize stuck_ready")
        server.stop()
    assert journal.read_text().count("ModelFinalize stuck_ready") == 2


def test_what_is_told_of_the_server_and_preferred_instances(server: ServerProcess, folder: Path) -> None:
    lines = (folder / "journal").read_text().splitlines()
    config = json.loads(next(line for line in lines if line.startswith("Config ")).removeprefix("Config "))
    assert config == {"cmdline": {
        "auto-complete-config": "true", "backend-directory": str(folder / "backends"), "default-max-batch-size": "4",
        "min-compute-capability": "6.000000",
    }}  # fmt: skip
    with grpc_client.InferenceServerClient(server.grpc_url) as client:
        groups = client.get_model_config("preferring", as_json=True)["config"]["instance_group"]
        assert [(group["count"], group["kind"]) for group in groups] == [(3, "KIND_CPU")]
        completed = client.get_model_config("complete", as_json=True)["config"]
    assert completed["max_batch_size"] == 4
    assert completed["name"] == "complete"
    assert [io["name"] for io in completed["input"] + completed["output"]] == ["INPUT0", "OUTPUT0"]


def load(port_url: str, model: str, action: str = "load") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{port_url}/v2/repository/models/{model}/{action}", b"{}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def test_functions_are_called_in_order_and_bad_libraries_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends, models = tmp_path / "backends", tmp_path / "models"
    native_libraries.backend(backends, "puppet", "puppet.c")
    native_libraries.backend(backends, "unwilling", "puppet.c", "FAIL_INITIALIZE")
    native_libraries.backend(backends, "newer", "puppet.c", "MAJOR=1", "MINOR=9999")
    native_libraries.backend(backends, "partial", "puppet.c", "WITHOUT_EXECUTE")
    native_libraries.backend(backends, "lacking", "puppet.c", "NEEDS_MORE")
    (backends / "text").mkdir()
    (backends / "text" / "libtriton_text.so").write_text("no library")
    for name in ("unwilling", "newer", "partial", "lacking", "text", "nowhere"):
        write(models, name, name)
    write(models, "good", "puppet", "identity", TENSORS + "instance_group { count: 2 kind: KIND_CPU }")
    write(models, "fail_model", "puppet", "fail_model")
    write(models, "fail_instance", "puppet", "fail_instance")
    write(models, "misplaced", "puppet", "identity", TENSORS + 'runtime: "libtriton_other.so"')
    own = write(models, "own", "private", "identity")
    native_libraries.build(own / "libtriton_private.so", "puppet.c")
    named = write(models, "named", "anything", "identity", TENSORS + 'runtime: "mine.so"')
    native_libraries.build(named / "1" / "mine.so", "puppet.c")
    expected = {
        "unwilling": "the backend does not want to",
        "newer": "triton backend API version does not support this backend",
        "partial": "unable to find required entrypoint 'TRITONBACKEND_ModelInstanceExecute' in backend library "
                   "'libtriton_partial.so'",
        "lacking": "unable to load shared library: libtriton_lacking.so: undefined symbol: a_function_that_nobody_has",
        "text": "unable to load shared library: libtriton_text.so: ",
        "nowhere": "unable to find backend library for backend 'nowhere', try specifying runtime on the model "
                   "configuration.",
        "misplaced": "unable to find 'libtriton_other.so' for backend 'puppet', searched: ",
        "fail_model": "the model does not want to",
        "fail_instance": "the instance does not want to",
    }  # fmt: skip
    journal = tmp_path / "journal"
    monkeypatch.setenv("PUPPET_JOURNAL", str(journal))
    options = [f"--backend-directory={backends}", "--model-control-mode=explicit"]
    with running_server([models], tmp_path, options) as server:
        for model, text in expected.items():
            code, error = load(server.http_url, model)
            assert code == 400, (model, error)
            assert text in error, (model, error)
            assert str(tmp_path) not in error
        journal.write_text("")
        for model in ("good", "own", "named"):
            assert load(server.http_url, model) == (200, "")
            assert value_of(ask(server, model, 3)) == [3]
        assert load(server.http_url, "good", "unload") == (200, "")
        poll(lambda: "ModelFinalize good" in journal.read_text(), "the model to be finalised", 20)
        server.stop()
    lines = [line for line in journal.read_text().splitlines() if not line.startswith(("Config", "Execute"))]
    good = [line for line in lines if "good" in line]
    assert good[0] == "ModelInitialize good"
    assert sorted(good[1:3]) == ["ModelInstanceInitialize good_0_0", "ModelInstanceInitialize good_0_1"]
    assert sorted(good[3:5]) == ["ModelInstanceFinalize good_0_0", "ModelInstanceFinalize good_0_1"]
    assert good[5:] == ["ModelFinalize good"]
    finals = [lines.index(f"Finalize {name}") for name in ("puppet", "private", "anything")]
    assert min(finals) > max(i for i, line in enumerate(lines) if line.startswith("Model"))


def test_a_library_may_log_until_the_end_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "chatty.cc").write_text(CHATTY)
    library = tmp_path / "backends" / "chatty" / "libtriton_chatty.so"
    library.parent.mkdir(parents=True)
    subprocess.run(
        ["g++", "-shared", "-fPIC", f"-I{native.INCLUDE}", str(tmp_path / "chatty.cc"), "-o", str(library), "-pthread"],
        check=True,
    )
    write(tmp_path / "models", "chatty", "chatty")
    program = f"""
from triton_async import SyncServer
with SyncServer(model_repository={str(tmp_path / "models")!r}, backend_directory={str(tmp_path / "backends")!r}):
    pass
"""
    environment = {**os.environ, "PYTHONPATH": str(package_root())}
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr[-300:]


def test_metrics_of_libraries_are_on_the_page(tmp_path: Path) -> None:
    native_libraries.backend(tmp_path / "backends", "counting", "puppet.c", "WITH_METRICS")
    write(tmp_path / "models", "counting", "counting", "identity")
    options = [f"--backend-directory={tmp_path / 'backends'}"]
    with running_server([tmp_path / "models"], tmp_path, options) as server:
        for value in range(3):
            ask(server, "counting", value)
        with urllib.request.urlopen(f"http://{server.metrics_url}/metrics", timeout=30) as answer:
            page = answer.read().decode()
    expected = "# HELP puppet_executions How often\n# TYPE puppet_executions counter\n"
    assert expected + 'puppet_executions{kind="of a \\"puppet\\""} 3\n' in page


def test_who_never_answers_holds_up_nobody_else_and_is_given_up_at_the_end(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "models", "never", "puppet", "never")
    write(tmp_path / "models", "abandon", "puppet", "abandon")
    write(tmp_path / "models", "identity", "puppet", "identity")
    options = [f"--model-repository={tmp_path / 'models'}", f"--backend-directory={folder / 'backends'}",
               "--exit-timeout-secs=2"]  # fmt: skip
    with started(tmp_path, *options) as command, ThreadPoolExecutor(3) as pool:
        command.wait_until_it_answers()
        body = {"inputs": [{"name": "INPUT0", "datatype": "INT32", "shape": [1, 1], "data": [1]}]}

        def post(model: str) -> int:
            request = urllib.request.Request(
                f"http://127.0.0.1:{command.http_port}/v2/models/{model}/infer", json.dumps(body).encode()
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return int(answer.status)
            except (urllib.error.HTTPError, OSError) as error:
                return getattr(error, "code", 0)

        waiting = [pool.submit(post, model) for model in ("never", "abandon", "abandon")]
        assert post("identity") == 200
        command.process.terminate()
        status = command.process.wait(30)
        assert status in (0, 1), command.output()
        assert all(future.result(30) in (0, 200, 500, 503) for future in waiting)
