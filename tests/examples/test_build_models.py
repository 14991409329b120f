"""Every example model is a valid graph, runs, and agrees with its config."""

from __future__ import annotations

from pathlib import Path

import build_models
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

Array = npt.NDArray[np.generic]

ROW = np.arange(32, dtype=np.int32).reshape(2, 16)
STRINGS = np.array([["one", "", "drei"]], dtype=object)

# Model -> a request's inputs as the network sees them.
INPUTS: dict[str, dict[str, Array]] = {
    "text_detection": {"x": np.zeros((2, 3, 64, 96), np.float32)},
    "text_recognition": {"x": np.zeros((3, 3, 48, 160), np.float32)},
    "file_type": {"bytes": np.full((2, 2048), 256, np.int32)},
    "resnet18": {"data": np.full((2, 3, 224, 224), 0.5, np.float32)},
    "segmentation": {"input": np.full((1, 3, 60, 100), 0.5, np.float32)},
    "yolo": {"images": np.full((2, 3, 320, 640), 0.5, np.float32)},
    "simple": {"INPUT0": ROW, "INPUT1": ROW[::-1]},
    "add_sub": {"INPUT0": ROW, "INPUT1": ROW[::-1]},
    "identity_fp32": {"INPUT0": np.ones((2, 7), np.float32)},
    "identity_bytes": {"INPUT0": STRINGS},
}

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "text_detection": [(2, 1, 64, 96)],
    "text_recognition": [(3, 20, 6625)],
    "file_type": [(2, 214)],
    "resnet18": [(2, 1000, 1, 1)],
    "segmentation": [(1, 21, 60, 100)],
    "yolo": [(2, 84, 40 * 80 + 20 * 40 + 10 * 20)],
    "simple": [(2, 16), (2, 16)],
    "add_sub": [(2, 16), (2, 16)],
    "identity_fp32": [(2, 7)],
    "identity_bytes": [(1, 3)],
}


def run(graph: Path, inputs: dict[str, Array]) -> list[Array]:
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def test_every_model_has_a_case() -> None:
    assert set(INPUTS) == set(SHAPES) == set(build_models.MODELS)


@pytest.mark.parametrize("name", sorted(build_models.MODELS))
def test_model_is_valid_and_runs(example_models: Path, name: str) -> None:
    graph = example_models / name / "1" / "model.onnx"
    onnx.checker.check_model(str(graph), full_check=True)
    outputs = run(graph, INPUTS[name])
    assert [output.shape for output in outputs] == SHAPES[name]
    for output in outputs:
        assert output.dtype == object or np.isfinite(output.astype(np.float64)).all()


@pytest.mark.parametrize("name", sorted(build_models.MODELS))
def test_config_names_the_tensors_of_the_graph(example_models: Path, name: str) -> None:
    path = example_models / name / "config.pbtxt"
    if not path.exists() or not path.read_bytes():
        assert name in {"add_sub", "yolo"}
        return
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    graph = onnx.load(str(path.parent / "1" / "model.onnx")).graph
    assert [tensor.name for tensor in config.input] == [tensor.name for tensor in graph.input]
    assert [tensor.name for tensor in config.output] == [tensor.name for tensor in graph.output]
    for output in config.output:
        if output.label_filename:
            labels = (path.parent / output.label_filename).read_text(encoding="utf-8").splitlines()
            assert len(labels) == output.dims[-1]


def test_dictionary_fits_the_recogniser(example_models: Path) -> None:
    dictionary = example_models / "text_recognition" / "dictionary.txt"
    characters = dictionary.read_text(encoding="utf-8").split("\n")
    # One line each and a final line end; the network adds a blank and a space.
    assert characters.pop() == ""
    assert len(characters) + 2 == SHAPES["text_recognition"][0][2]
    assert all(len(character) == 1 for character in characters)


def test_arithmetic(example_models: Path) -> None:
    total, difference = run(example_models / "simple" / "1" / "model.onnx", INPUTS["simple"])
    assert np.array_equal(total, ROW + ROW[::-1])
    assert np.array_equal(difference, ROW - ROW[::-1])


def test_resnet_tells_pictures_apart(example_models: Path) -> None:
    pictures = np.random.default_rng(1).standard_normal((4, 3, 224, 224), dtype=np.float32)
    (scores,) = run(example_models / "resnet18" / "1" / "model.onnx", {"data": pictures})
    assert float(np.abs(scores).max()) < 1000
    rows = scores.reshape(4, 1000)
    assert all(np.abs(rows[0] - row).max() > 1e-3 for row in rows[1:])


def test_second_build_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: build_models.MODELS[name] for name in ("simple", "add_sub", "yolo")}
    monkeypatch.setattr(build_models, "MODELS", few)
    assert build_models.build(tmp_path) == ["simple", "add_sub", "yolo"]
    assert build_models.build(tmp_path) == []
    (tmp_path / "yolo" / "1" / "model.onnx").unlink()
    assert build_models.build(tmp_path) == ["yolo"]
    assert not (tmp_path / "add_sub" / "config.pbtxt").exists()
    assert (tmp_path / "yolo" / "config.pbtxt").read_bytes() == b""
