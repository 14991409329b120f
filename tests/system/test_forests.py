"""Forests behind a real server, asked with tritonclient over both protocols: files of tests/unit/backends/forests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_process import ServerProcess, running_server
from triton_clients import PROTOCOLS, client_module
from tritonclient.utils import InferenceServerException

FOLDER = Path(__file__).resolve().parents[1] / "unit/backends/forests"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
PROBABILITIES = 'parameters { key: "predict_proba" value { string_value: "true" } }'
# Model -> its file there, its file's name here, the rest of its config.
MODELS = {
    "found": ("xgboost-2.1.4-binary.json", "xgboost.json", None),
    "binary": ("xgboost-3.2.0-binary.ubj", "xgboost.ubj", PROBABILITIES),
    "classes": ("lightgbm-4.7.0-classes.txt", "model.txt", PROBABILITIES),
    "explained": (
        "xgboost-3.0.5-binary.json", "xgboost.json",
        'output { name: "output__0" } output { name: "treeshap_output" } ' + PROBABILITIES,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def forest_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    repository = tmp_path_factory.mktemp("forests")
    for name, (file, here, config) in MODELS.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1" / here).write_bytes((FOLDER / file).read_bytes())
        if config is not None:
            (repository / name / "config.pbtxt").write_text('backend: "fil"\n' + config)
    with running_server([repository], tmp_path_factory.mktemp("forest-server")) as process:
        yield process
        process.stop()


def rows_and_answers(model: str) -> tuple[Any, Any]:
    file = MODELS[model][0]
    rows = EXPECTED["rows"]["lightgbm" if file.startswith("lightgbm") else "xgboost"]
    return np.array(rows, np.float32), np.array(EXPECTED["answers"][file], np.float32)


def inputs(module: Any, rows: Any) -> list[Any]:
    tensor = module.InferInput("input__0", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    return [tensor]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", MODELS)
def test_answers_are_those_of_the_library(forest_server: ServerProcess, protocol: str, model: str) -> None:
    module = client_module(protocol)
    rows, expected = rows_and_answers(model)
    with module.InferenceServerClient(forest_server.url(protocol)) as client:
        answer = client.infer(model, inputs(module, rows))
    found = answer.as_numpy("output__0")
    if model == "found":  # without a config: FIL's default is the class
        assert np.array_equal(found, expected[:, 0] > 0.5)
        return
    assert found.shape == ((12,) if expected.shape[1] == 1 else (12, 3))
    assert np.allclose(found, expected.squeeze(), rtol=1e-6, atol=1e-7)
    if model == "explained":
        added = answer.as_numpy("treeshap_output")
        assert added.shape == (12, 5)
        assert np.allclose(1 / (1 + np.exp(-added.sum(axis=1))), found, atol=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_clients_that_share_batches_get_their_own_rows(forest_server: ServerProcess, protocol: str) -> None:
    module = client_module(protocol, ".aio")
    rows, expected = rows_and_answers("classes")

    async def ask(client: Any, number: int) -> None:
        first, count = number % 12, 1 + number % 3
        part = np.take(rows, range(first, first + count), axis=0, mode="wrap")
        answer = await client.infer("classes", inputs(module, part))
        wanted = np.take(expected, range(first, first + count), axis=0, mode="wrap")
        assert np.allclose(answer.as_numpy("output__0"), wanted, rtol=1e-6, atol=1e-7)

    async def main() -> None:
        async with module.InferenceServerClient(forest_server.url(protocol)) as client:
            await asyncio.gather(*(ask(client, number) for number in range(100)))

    asyncio.run(main())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_wrong_rows_are_refused_by_name(forest_server: ServerProcess, protocol: str) -> None:
    module = client_module(protocol)
    with module.InferenceServerClient(forest_server.url(protocol)) as client:
        with pytest.raises(InferenceServerException, match=r"unexpected shape for input 'input__0'.*Expected \[-1,4\]"):
            client.infer("binary", inputs(module, np.zeros((2, 3), np.float32)))
        tensor = module.InferInput("input__0", [1, 4], "INT64")
        tensor.set_data_from_numpy(np.zeros((1, 4), np.int64))
        with pytest.raises(InferenceServerException, match=r"data-type is .INT64.*expects .FP32"):
            client.infer("binary", [tensor])
