"""OpenVINO models behind a real server: the example text detection on either engine, batches of many clients; the
example detector, a TensorFlow graph, with its client."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import build_models
import numpy as np
import pytest
from PIL import Image
from server_process import ServerProcess, running_server
from triton_clients import PROTOCOLS, client_module, infer

ov = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
op = ov.opset13

PRECISION = '\nparameters { key: "INFERENCE_PRECISION" value { string_value: "f32" } }\n'
CLIENTS = 32


def script(name: str) -> Any:
    """A script of examples/detection, whose names are other scripts' too."""
    path = Path(build_models.__file__).parent / "detection" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"detection_{name}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOTAL = """
backend: "openvino"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
sequence_batching {
  control_input { name: "START" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }
  state { input_name: "before" output_name: "after" data_type: TYPE_FP32 dims: 1 }
}
"""


def inlet(name: str, width: int) -> Any:
    made = op.parameter([-1, width], np.float32, name=name)
    made.output(0).get_tensor().set_names({name})
    return made


def total() -> Any:
    """The sum of a sequence's values so far; one value is an output and a state."""
    x, start, before = (inlet(name, 1) for name in ("x", "START", "before"))
    summed = op.add(op.multiply(before, op.subtract(op.constant(np.float32(1)), start)), x)
    summed.output(0).get_tensor().set_names({"y", "after"})
    return ov.Model([op.result(summed), op.result(summed)], [x, start, before], "total")


def build(repository: Path) -> None:
    """`on_onnxruntime` and `on_openvino`, the example's detector; `product`, an IR without a config."""
    name = "text_detection"
    for engine in ("onnxruntime", "openvino"):
        folder = repository / f"on_{engine}"
        build_models.write_model(name, build_models.MODELS[name], folder)
        config = (folder / "config.pbtxt").read_text().replace('"onnxruntime"', f'"{engine}"')
        (folder / "config.pbtxt").write_text(config + (PRECISION if engine == "openvino" else ""))
    script("frozen_graph").main([str(repository / "detection")])
    x = inlet("x", 4)
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
    picture = np.random.default_rng(5).standard_normal((2, 3, 64, 96)).astype(np.float32)
    first, second = (
        infer(server, protocol, f"on_{engine}", {"x": picture}, ["sigmoid_0.tmp_0"])[0]
        for engine in ("onnxruntime", "openvino")
    )
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


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_detection_client_draws_boxes(
    server: ServerProcess, protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (600, 1024, 3), np.uint8)).save(picture)
    arguments = [str(picture), "-u", server.url(protocol), "-o", str(tmp_path / "drawn.png"), "-t", "0.31"]
    assert script("client").main(arguments + (["--grpc"] if protocol == "grpc" else [])) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("class ")
    assert lines[-1] == f"{tmp_path / 'drawn.png'}: {len(lines) - 1} boxes"
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert (np.asarray(drawn) == (220, 30, 30)).all(axis=2).any()


def test_states_of_sequences(tmp_path: Path) -> None:
    # A server of its own: what states begin with lives as long as their model.
    repository = tmp_path / "models"
    (repository / "total" / "1").mkdir(parents=True)
    (repository / "total" / "config.pbtxt").write_text(TOTAL + PRECISION)
    ov.save_model(total(), repository / "total" / "1" / "model.xml")
    sums = dict.fromkeys((7, 8), 0.0)
    with running_server([repository], tmp_path) as process:
        for step in range(3):
            for number in sums:
                sums[number] += number + step
                (found,) = infer(
                    process, "http", "total", {"x": np.array([[number + step]], np.float32)}, ["y"],
                    sequence_id=number, sequence_start=step == 0, sequence_end=step == 2,
                )  # fmt: skip
                assert found.tolist() == [[sums[number]]]
        process.stop()
