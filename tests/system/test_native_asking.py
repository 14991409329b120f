"""Native backends whose models ask other models, and the server: answers, errors, circles, cancellation, unloading."""

from __future__ import annotations

import json
import queue
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import native_libraries
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from server_process import ServerProcess, poll, running_server
from tritonclient.utils import InferenceServerException

pytestmark = native_libraries.needs_compiler

TENSORS = """
    input { name: "INPUT0" data_type: TYPE_INT32 dims: 1 }
    output { name: "OUTPUT0" data_type: TYPE_INT32 dims: 1 }
"""
DECOUPLED = "model_transaction_policy { decoupled: true }"


def write(root: Path, name: str, backend: str, more: str = "", batch: int = 4, **parameters: str) -> None:
    (root / name / "1").mkdir(parents=True)
    listed = "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()
    )
    (root / name / "config.pbtxt").write_text(f'backend: "{backend}" max_batch_size: {batch} {TENSORS} {more} {listed}')


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asking")
    native_libraries.backend(folder / "backends", "asker", "asker.c")
    native_libraries.backend(folder / "backends", "turns", "asker.c", "DEVICE_BLOCKING")
    native_libraries.backend(folder / "backends", "puppet", "puppet.c")
    models = folder / "models"
    write(models, "mirror", "identity", "dynamic_batching {}")
    write(models, "late_mirror", "identity", "dynamic_batching {}", execute_delay_ms="20")
    write(models, "error", "puppet", mode="error")
    write(models, "stream", "puppet", DECOUPLED, mode="stream")
    write(models, "cancel", "puppet", mode="cancel")
    write(models, "never", "puppet", mode="never")
    two = "instance_group { count: 2 kind: KIND_CPU }"
    write(models, "plain", "asker", "dynamic_batching {}", how="wait", whom="mirror")
    write(models, "leaves", "asker", how="leave", whom="mirror")
    write(models, "beside", "asker", how="beside", whom="mirror")
    write(models, "twice", "asker", how="twice", whom="late_mirror")
    write(models, "nested", "asker", how="wait", whom="plain")
    write(models, "fails", "asker", how="wait", whom="error")
    write(models, "unknown", "asker", how="wait", whom="nobody")
    write(models, "streams", "asker", how="wait", whom="stream")
    write(models, "slow_reader", "asker", how="slow_reader", whom="stream")
    write(models, "itself", "asker", how="wait", whom="itself")
    write(models, "itself_beside", "asker", how="beside", whom="itself_beside")
    write(models, "ring_a", "asker", how="wait", whom="ring_b")
    write(models, "ring_b", "asker", how="wait", whom="ring_a")
    write(models, "turns", "turns", two, how="wait", whom="turns")
    write(models, "turns_apart", "turns", two, how="wait", whom="mirror")
    write(models, "cancels", "asker", how="cancel", whom="cancel")
    write(models, "cancelled", "asker", how="wait", whom="cancel")
    write(models, "controls", "asker", how="controls", whom="mirror")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    options = [f"--backend-directory={folder / 'backends'}", "--model-control-mode=explicit", "--load-model=*"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASKER_JOURNAL", str(folder / "journal"))
        patch.setenv("PUPPET_JOURNAL", str(folder / "puppets"))
        with running_server([folder / "models"], folder, options) as server:
            yield server


def tensor(value: int) -> Any:
    made = grpc_client.InferInput("INPUT0", [1, 1], "INT32")
    made.set_data_from_numpy(np.full((1, 1), value, np.int32))
    return made


def ask(server: ServerProcess, model: str, value: int, **more: Any) -> int:
    with grpc_client.InferenceServerClient(server.grpc_url) as client:
        return int(client.infer(model, [tensor(value)], **more).as_numpy("OUTPUT0")[0, 0])


@pytest.mark.parametrize(("model", "more"), [
    ("plain", 100), ("leaves", 100), ("beside", 100), ("twice", 100), ("nested", 200), ("turns_apart", 100),
])  # fmt: skip
def test_models_answer_with_what_others_say(server: ServerProcess, folder: Path, model: str, more: int) -> None:
    for value in range(12):
        assert ask(server, model, value) == value + more
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda value: ask(server, model, value), range(64))) == [v + more for v in range(64)]
    if model == "twice":
        assert "again the request is on its way already" in (folder / "journal").read_text()


@pytest.mark.parametrize(("model", "text"), [
    ("fails", "this value is not to its taste"),
    ("unknown", "Request for unknown model: 'nobody' is not found"),
])  # fmt: skip
def test_errors_are_values(server: ServerProcess, model: str, text: str) -> None:
    for _ in range(12):
        with pytest.raises(InferenceServerException) as caught:
            ask(server, model, 1)
        assert caught.value.message() == text


@pytest.mark.parametrize("model", ["streams", "slow_reader"])
def test_all_responses_of_decoupled_models_arrive(server: ServerProcess, model: str) -> None:
    for count in (1, 5, 60):
        assert ask(server, model, count) == sum(range(count, 2 * count)) + 100


@pytest.mark.parametrize("model", ["itself", "itself_beside", "ring_a", "turns"])
def test_circles_that_could_never_end_are_refused(server: ServerProcess, model: str) -> None:
    for _ in range(3):
        with pytest.raises(InferenceServerException, match="could never be answered"):
            ask(server, model, 1)
    assert ask(server, "plain", 1) == 101


def test_what_a_backend_cancels_is_answered(server: ServerProcess, folder: Path) -> None:
    with pytest.raises(InferenceServerException, match="the request was cancelled"):
        ask(server, "cancels", 1)
    poll(lambda: "Cancelled yes" in (folder / "puppets").read_text(), "the other model to see it", 20)


def test_who_goes_away_cancels_what_was_asked_for_him(server: ServerProcess, folder: Path) -> None:
    (folder / "puppets").write_text("")
    with pytest.raises(InferenceServerException):
        ask(server, "cancelled", 1, client_timeout=0.5)
    poll(lambda: "Cancelled yes" in (folder / "puppets").read_text(), "the other model to see it", 20)


def test_backends_ask_the_server_too(server: ServerProcess, folder: Path) -> None:
    with pytest.raises(InferenceServerException, match="a backend can not delete the server that it lives in"):
        ask(server, "controls", 1)
    lines = (folder / "journal").read_text().splitlines()
    for line in ("live yes", "ready yes", "batches yes", "stop a backend can not stop the server that it lives in",
                 "other Request for unknown model: 'nobody' is not found"):  # fmt: skip
        assert line in lines
    assert any(line.startswith("config ") and '"name":"mirror"' in line.replace(" ", "") for line in lines)
    assert any(line.startswith("poll ") for line in lines)


def control(server: ServerProcess, model: str, action: str) -> int:
    url = f"http://{server.http_url}/v2/repository/models/{model}/{action}"
    with urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=60) as answer:
        return int(answer.status)


def test_models_are_unloaded_while_they_ask(server: ServerProcess, folder: Path) -> None:
    write(folder / "models", "leaving", "asker", how="leave", whom="mirror")
    answers: queue.Queue[Any] = queue.Queue()
    for _ in range(4):
        assert control(server, "leaving", "load") == 200
        with grpc_client.InferenceServerClient(server.grpc_url) as client:
            for value in range(40):
                client.async_infer("leaving", [tensor(value)], lambda result, error: answers.put((result, error)))
            assert control(server, "leaving", "unload") == 200
            for _ in range(40):
                answers.get(timeout=30)
    lines = (folder / "journal").read_text()
    assert lines.count("ModelFinalize leave") >= 3
    assert "wrong" not in lines
    assert "delete " not in lines


def test_all_callbacks_are_over_at_the_end_of_a_model(server: ServerProcess, folder: Path) -> None:
    write(folder / "models", "forgets", "asker", how="forget", whom="mirror")
    assert control(server, "forgets", "load") == 200
    for value in range(3):
        assert ask(server, "forgets", value) == value
    assert control(server, "forgets", "unload") == 200
    poll(lambda: "ModelFinalize forget\n" in (folder / "journal").read_text(), "the model's end", 20)
    told = [line for line in (folder / "journal").read_text().splitlines() if "forg" in line]
    assert sorted(told[:-1]) == [f"forgotten {what}" for what in ("release", "response", "trace") for _ in range(3)]
    assert told[-1] == "ModelFinalize forget"


@pytest.mark.parametrize("how", ["loads", "loads_beside", "instance_loads"])
def test_models_load_others_while_they_are_loaded(folder: Path, tmp_path: Path, how: str) -> None:
    models = tmp_path / "models"
    write(models, "mirror", "identity")
    for number in range(4):
        write(models, f"m{number}", "asker", how=how, whom=f"m{number + 1}" if number < 3 else "mirror")
    write(models, "itself", "asker", how=how, whom="itself")
    write(models, "ring_a", "asker", how=how, whom="ring_b")
    write(models, "ring_b", "asker", how=how, whom="ring_a")
    options = [f"--backend-directory={folder / 'backends'}", "--model-control-mode=explicit", "--load-model=m3",
               "--model-load-thread-count=1"]  # fmt: skip
    with running_server([models], tmp_path, options) as server, ThreadPoolExecutor(8) as pool:
        assert ask(server, "mirror", 3) == 3
        assert control(server, "mirror", "unload") == 200
        loads = [pool.submit(control, server, name, "load") for name in ("m0", "m1", "m2", "m0", "mirror")]
        assert [one.result(60) for one in loads] == [200] * 5
        for name, ring in (("itself", "itself -> itself"), ("ring_a", "ring_a -> ring_b -> ring_a")):
            with pytest.raises(urllib.error.HTTPError) as caught:
                control(server, name, "load")
            assert f"by what its own load waits for: {ring}" in json.loads(caught.value.read())["error"]


def test_a_server_ends_while_models_wait_for_others(folder: Path, tmp_path: Path) -> None:
    options = [f"--backend-directory={folder / 'backends'}", "--exit-timeout-secs=20"]
    write(tmp_path / "models", "cancelled", "asker", how="wait", whom="cancel")
    write(tmp_path / "models", "cancel", "puppet", mode="cancel")
    with running_server([tmp_path / "models"], tmp_path, options) as server, ThreadPoolExecutor(1) as pool:
        def hopeless() -> None:
            with pytest.raises(InferenceServerException):
                ask(server, "cancelled", 1, client_timeout=1.0)

        waiting = pool.submit(hopeless)
        time.sleep(0.2)
        server.stop()
        waiting.result(30)


def test_backends_add_to_traces_and_their_requests_are_children(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "models", "traced", "asker", how="traced", whom="mirror")
    write(tmp_path / "models", "mirror", "identity")
    file, journal = tmp_path / "trace.json", tmp_path / "journal"
    options = [f"--backend-directory={folder / 'backends'}", f"--trace-config=triton,file={file}",
               "--trace-config=rate=1", "--trace-config=level=TIMESTAMPS", "--trace-config=level=TENSORS"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASKER_JOURNAL", str(journal))
        with running_server([tmp_path / "models"], tmp_path, options) as server:
            assert ask(server, "traced", 5, request_id="mine") == 105
            server.stop()
    lines = journal.read_text().splitlines()
    assert lines[:-1] == ["traced traced", "request mine", "parent is it",
                     "delete the trace of a backend's request is the request's"]  # fmt: skip
    rows = json.loads(file.read_text())
    heads = {row["model_name"]: row for row in rows if "model_name" in row}
    assert heads["mirror"]["parent_id"] == heads["traced"]["id"]
    names = [event["name"] for row in rows if row["id"] == heads["traced"]["id"] for event in row.get("timestamps", ())]
    assert names.index("COMPUTE_START") < names.index("MY_ACTIVITY") < names.index("COMPUTE_END")
    tensors = [row["tensor"] for row in rows if row["id"] == heads["mirror"]["id"] and "tensor" in row]
    assert [tensor["data"] for tensor in tensors] == ["5"] * 3


def test_backends_get_no_trace_of_requests_that_are_not_traced(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "models", "traced", "asker", how="traced", whom="mirror")
    write(tmp_path / "models", "mirror", "identity")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASKER_JOURNAL", str(tmp_path / "journal"))
        options = [f"--backend-directory={folder / 'backends'}"]
        with running_server([tmp_path / "models"], tmp_path, options) as server:
            assert ask(server, "traced", 5) == 105
    assert (tmp_path / "journal").read_text().splitlines()[0] == "traced not"
