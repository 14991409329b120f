"""OpenVINO models behind a real server: the example text detection on either engine, batches of many clients."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import build_models
import numpy as np
import pytest
from server_process import ServerProcess, running_server
from triton_clients import PROTOCOLS, client_module, infer

ov = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
op = ov.opset13

PRECISION = '\nparameters { key: "INFERENCE_PRECISION" value { string_value: "f32" } }\n'
CLIENTS = 32


def build(repository: Path) -> None:
    """`on_onnxruntime` and `on_openvino`, the example's detector; `product`, an IR without a config."""
    name = "text_detection"
    for engine in ("onnxruntime", "openvino"):
        folder = repository / f"on_{engine}"
        build_models.write_model(name, build_models.MODELS[name], folder)
        config = (folder / "config.pbtxt").read_text().replace('"onnxruntime"', f'"{engine}"')
        (folder / "config.pbtxt").write_text(config + (PRECISION if engine == "openvino" else ""))
    x = op.parameter([-1, 4], np.float32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    doubled = op.multiply(x, op.constant(np.float32(2)))
    doubled.output(0).get_tensor().set_names({"y"})
    (repository / "product" / "1").mkdir(parents=True)
    ov.save_model(ov.Model([doubled], [x], "product"), repository / "product" / "1" / "model.xml")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    repository = tmp_path_factory.mktemp("openvino-models")
    build(repository)
    with running_server([repository], tmp_path_factory.mktemp("openvino-server")) as process:
        yield process
        process.stop()
    shutil.rmtree(repository)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_example_detector_answers_alike_on_both_engines(server: ServerProcess, protocol: str) -> None:
    module = client_module(protocol)
    picture = np.random.default_rng(5).standard_normal((2, 3, 64, 96)).astype(np.float32)
    with module.InferenceServerClient(server.url(protocol)) as client:
        found = [infer(client, module, f"on_{engine}", {"x": picture}) for engine in ("onnxruntime", "openvino")]
    first, second = (result.as_numpy("sigmoid_0.tmp_0") for result in found)
    assert first.shape == (2, 1, 64, 96)
    assert np.abs(first - second).max() < 1e-4


def test_many_clients_share_executions(server: ServerProcess) -> None:
    module = client_module("grpc", ".aio")

    async def ask(client: Any, number: int) -> None:
        array = np.full((1 + number % 3, 4), number, np.float32)
        tensor = module.InferInput("x", list(array.shape), "FP32")
        tensor.set_data_from_numpy(array)
        assert np.array_equal((await client.infer("product", [tensor])).as_numpy("y"), array * 2)

    async def main() -> None:
        async with module.InferenceServerClient(server.url("grpc")) as client:
            await asyncio.gather(*(ask(client, number) for number in range(CLIENTS)))

    asyncio.run(main())
    with client_module("http").InferenceServerClient(server.http_url) as client:
        (entry,) = client.get_inference_statistics("product")["model_stats"]
    assert entry["inference_count"] == sum(1 + number % 3 for number in range(CLIENTS))
    assert entry["execution_count"] < CLIENTS
