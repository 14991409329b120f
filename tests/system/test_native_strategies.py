"""Batching strategies that are shared libraries: which requests share a batch, where they are found, what is none."""

from __future__ import annotations

import json
import queue
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import native_libraries
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from server_process import ServerProcess, running_server

pytestmark = native_libraries.needs_compiler

TENSORS = """
    input { name: "INPUT0" data_type: TYPE_INT32 dims: 1 }
    output { name: "OUTPUT0" data_type: TYPE_INT32 dims: 1 }
"""


def write(  # noqa: PLR0917
    root: Path, name: str, backend: str = "identity", batching: str = "", batch: int = 8, path: object = "",
    budget: int = 10,
) -> Path:  # fmt: skip
    (root / name / "1").mkdir(parents=True)
    parameters = {"budget": str(budget)} if budget else {}
    if path:
        parameters["TRITON_BATCH_STRATEGY_PATH"] = str(path)
    listed = "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()
    )
    (root / name / "config.pbtxt").write_text(
        f'backend: "{backend}" max_batch_size: {batch} {TENSORS} dynamic_batching {{ {batching} }} {listed}'
    )
    return root / name


def ask_all(server: ServerProcess, model: str, values: Sequence[int]) -> None:
    """Has all values answered, which one connection sends in their order."""
    answers: queue.Queue[Any] = queue.Queue()
    with grpc_client.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for value in values:
            tensor = grpc_client.InferInput("INPUT0", [1, 1], "INT32")
            tensor.set_data_from_numpy(np.full((1, 1), value, np.int32))
            client.async_stream_infer(model, [tensor])
        found = []
        for _ in values:
            result, error = answers.get(timeout=60)
            assert error is None, error
            found.append(int(result.as_numpy("OUTPUT0")[0, 0]))
        assert sorted(found) == sorted(values)


def batches(server: ServerProcess, model: str) -> dict[int, int]:
    with grpc_client.InferenceServerClient(server.grpc_url) as client:
        stats = client.get_inference_statistics(model, as_json=True)["model_stats"][0]
    return {int(entry["batch_size"]): int(entry["compute_infer"]["count"]) for entry in stats["batch_stats"]}


def test_batches_hold_what_the_strategy_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, backends, journal = tmp_path / "models", tmp_path / "backends", tmp_path / "journal"
    named = native_libraries.build(tmp_path / "anywhere" / "mine.so", "strategy.c")
    native_libraries.backend(backends, "own", "strategy.c", "BACKEND")
    native_libraries.backend(backends, "mirror", "identity.c")
    native_libraries.build(backends / "mirror" / "batchstrategy.so", "strategy.c")
    write(models, "named", path=named)
    write(models, "preferred", batching="preferred_batch_size: 2", path=named)
    write(models, "small", batch=2, path=named)
    write(models, "uneven", path=named)
    write(models, "own", "own")
    write(models, "of_backend", "mirror")
    native_libraries.build(write(models, "of_model") / "batchstrategy.so", "strategy.c")
    native_libraries.build(write(models, "of_version") / "1" / "batchstrategy.so", "strategy.c")
    monkeypatch.setenv("STRATEGY_JOURNAL", str(journal))
    monkeypatch.setenv("TRITONSERVER_DELAY_SCHEDULER", "9")
    with running_server([models], tmp_path, [f"--backend-directory={backends}"]) as server:
        for model in ("named", "own", "of_backend", "of_model", "of_version"):
            journal.write_text("")
            ask_all(server, model, [3] * 9)
            assert batches(server, model) == {3: 3}, model
            lines = journal.read_text().splitlines()
            one = ["BatchInitialize 10", "include 3", "include 3", "include 3", "exclude 3", "BatchFinalize 1"]
            assert lines == [*one, *one, *(line for line in one if line != "exclude 3")], model
        ask_all(server, "preferred", [3] * 9)
        assert batches(server, "preferred") == {2: 4, 1: 1}
        ask_all(server, "small", [1] * 9)
        assert batches(server, "small") == {2: 4, 1: 1}
        # What is too much begins another batch, and so does what it can not tell.
        ask_all(server, "uneven", [3, 50, 4, 4, 77, 1, 1, 1, 77])
        assert batches(server, "uneven") == {1: 2, 3: 1, 4: 1}
        server.stop()
    lines = journal.read_text().splitlines()
    assert lines.count("BatcherFinalize 10") == 8
    assert not any(line.startswith("released") for line in lines)
    assert "it can not tell" in server.log.read_text()


def test_strategies_that_are_none_fail_their_models(tmp_path: Path) -> None:
    models, backends = tmp_path / "models", tmp_path / "backends"
    good = native_libraries.build(tmp_path / "good.so", "strategy.c")
    partial = native_libraries.build(tmp_path / "partial.so", "strategy.c", "PARTIAL")
    other = native_libraries.build(tmp_path / "other.so", "identity.c")
    (tmp_path / "text.so").write_text("no library")
    native_libraries.backend(backends, "partial", "strategy.c", "BACKEND", "PARTIAL")
    write(models, "absent", path="/there/is/nothing.so")
    write(models, "partial", path=partial)
    write(models, "other", path=other)
    write(models, "text", path=tmp_path / "text.so")
    write(models, "unwilling", path=good, budget=0)
    write(models, "own", "partial")
    expected = {
        "absent": "Batching library path not found: /there/is/nothing.so",
        "partial": "unable to find entrypoint 'TRITONBACKEND_ModelBatchIncludeRequest' in library 'partial.so', which "
                   "has other functions of a batching strategy",
        "other": "library 'other.so' of model 'other' has no batching strategy",
        "text": "unable to load shared library: text.so: ",
        "unwilling": "the strategy needs a budget",
        "own": "unable to find entrypoint 'TRITONBACKEND_ModelBatchIncludeRequest' in library 'libtriton_partial.so'",
    }  # fmt: skip
    options = [f"--backend-directory={backends}", "--model-control-mode=explicit"]
    with running_server([models], tmp_path, options) as server:
        for model, text in expected.items():
            url = f"http://{server.http_url}/v2/repository/models/{model}/load"
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=60)
            error = json.loads(caught.value.read())["error"]
            assert text in error, (model, error)
