"""TensorFlow graphs on OpenVINO, and on TensorFlow where it is installed; the detector of workflow W3."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inference import request, values
from openvino_models import Loaded, parameter
from tensorflow_graphs import (
    FLOAT,
    OUTPUTS,
    RECORDED,
    Builder,
    detector,
    picture,
    tensorflow_answers,
    unary,
)

from triton_async.backends.tensorflow import TensorFlowBackend
from triton_async.backends.tensorflow.session import TensorFlowModel
from triton_async.errors import InvalidArg, ServerError, Unsupported
from triton_async.memory.slab import SlabPool

INSTALLED = importlib.util.find_spec("tensorflow") is not None
NEEDS_TENSORFLOW = pytest.mark.skipif(not INSTALLED, reason="TensorFlow is not installed: pip install tensorflow")
ENGINES = ("openvino", pytest.param("tensorflow", marks=NEEDS_TENSORFLOW))

# As its users have it: nothing but what their guides say.
DETECTION = """
name: "detection"
platform: "tensorflow_graphdef"
max_batch_size: 1
input [
  { name: "image_tensor" data_type: TYPE_UINT8 format: FORMAT_NHWC dims: [ 600, 1024, 3 ] }
]
output [
  { name: "detection_boxes" data_type: TYPE_FP32 dims: [ 100, 4 ] },
  { name: "detection_classes" data_type: TYPE_FP32 dims: [ 100 ] reshape { shape: [ 1, 100 ] } },
  { name: "detection_scores" data_type: TYPE_FP32 dims: [ 100 ] },
  { name: "num_detections" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [] } }
]
"""


def write(root: Path, graph: bytes, text: str | None, name: str = "m") -> Path:
    directory = root / name
    (directory / "1").mkdir(parents=True)
    (directory / "1" / "model.graphdef").write_bytes(graph)
    if text is not None:
        (directory / "config.pbtxt").write_text(text)
    return directory


def load(directory: Path, pool: SlabPool, engine: str = "openvino") -> Loaded:
    return Loaded(directory, pool, {"engine": engine}, TensorFlowBackend())


def config(inputs: list[str], outputs: list[str], batch: int = 0, more: str = "") -> str:
    lines = ['platform: "tensorflow_graphdef"', f"max_batch_size: {batch}"]
    for what, ios in (("input", inputs), ("output", outputs)):
        for io in ios:
            name, kind, dims = io.split(" ", 2)
            lines.append(f'{what} {{ name: "{name}" data_type: TYPE_{kind} dims: {dims} }}')
    return "\n".join([*lines, more])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_detection_workflow_answers_as_tensorflow(tmp_path: Path, pool: SlabPool, engine: str) -> None:
    loaded = load(write(tmp_path, detector(), DETECTION, "detection"), pool, engine)
    assert (loaded.config.backend, loaded.config.default_model_filename) == ("tensorflow", "model.graphdef")
    found = values(loaded.run(request(image_tensor=picture()))[0])
    shapes = {name: array.shape for name, array in found.items()}
    assert shapes == dict(zip(OUTPUTS, [(1, 100, 4), (1, 100), (1, 100), (1, 1)], strict=True))
    recorded = np.load(RECORDED)
    assert recorded["num_detections"] > 20
    for name in OUTPUTS:
        assert np.allclose(found[name].ravel(), recorded[name].ravel(), atol=1e-5), name


@NEEDS_TENSORFLOW
def test_the_recorded_answers_are_those_of_tensorflow() -> None:
    recorded = np.load(RECORDED)
    for name, answer in zip(OUTPUTS, tensorflow_answers(detector(), {"image_tensor": picture()}, OUTPUTS), strict=True):
        assert np.allclose(recorded[name], answer, atol=1e-6), name


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_without_a_config_is_completed(tmp_path: Path, pool: SlabPool, engine: str) -> None:
    loaded = load(write(tmp_path, unary(), None), pool, engine)
    assert (loaded.config.platform, loaded.config.max_batch_size) == ("tensorflow_graphdef", 4)
    assert [(io.name, io.dims) for io in (*loaded.config.inputs, *loaded.config.outputs)] == [("x", (4,)), ("y", (4,))]
    assert loaded.run_one(x=np.ones((3, 4), np.float32))["y"].tolist() == [[-1] * 4] * 3


@pytest.mark.parametrize("engine", ENGINES)
def test_any_node_may_be_an_output(tmp_path: Path, pool: SlabPool, engine: str) -> None:
    builder = Builder()
    middle = builder.add("Neg", [builder.placeholder("x", "float32", [-1, 2])], "middle", T=FLOAT)
    builder.add("Abs", [middle], "y", T=FLOAT)
    text = config(["x FP32 [2]"], ["middle FP32 [2]", "y FP32 [2]"], 8)
    loaded = load(write(tmp_path, builder.graph(), text), pool, engine)
    found = [values(answer) for answer in loaded.run(*(request(x=np.full((1, 2), i, np.float32)) for i in (1, 2)))]
    assert [answer["middle"].tolist() for answer in found] == [[[-1, -1]], [[-2, -2]]]
    assert [answer["y"].tolist() for answer in found] == [[[1, 1]], [[2, 2]]]
    only = config(["x FP32 [2]"], ["middle FP32 [2]"], 8)
    loaded = load(write(tmp_path, builder.graph(), only, "n"), pool, engine)
    assert loaded.run_one(x=np.ones((1, 2), np.float32))["middle"].tolist() == [[-1, -1]]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_datatypes_unknown_ranks_and_scalars(tmp_path: Path, pool: SlabPool, engine: str, dtype: str) -> None:
    kind = {"float32": "FP32", "float64": "FP64", "int32": "INT32", "int64": "INT64"}[dtype]
    text = config([f"x {kind} [2, 2]"], [f"y {kind} [2, 2]"], 4)
    loaded = load(write(tmp_path, unary(dtype, None), text), pool, engine)
    array = np.arange(8).reshape(2, 2, 2).astype(dtype)
    assert np.array_equal(loaded.run_one(x=array)["y"], -array)
    loaded = load(write(tmp_path, unary(dtype, []), config([f"x {kind} [1]"], [f"y {kind} [1]"]), "s"), pool, engine)
    assert loaded.run_one(x=np.array([3], dtype))["y"].tolist() == [-3]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("text", "message"), [
    (config(["x FP32 [4]"], ["z FP32 [4]"], 4), "unexpected inference output 'z'"),
    (config(["z FP32 [4]"], ["y FP32 [4]"], 4), "unexpected inference input 'z', allowed inputs are: x"),
    (config(["x INT32 [4]"], ["y FP32 [4]"], 4), "TYPE_INT32 for input 'x', model provides TYPE_FP32"),
    (config(["x FP32 [4]"], ["y FP64 [4]"], 4), "TYPE_FP64 for output 'y', model provides TYPE_FP32"),
    (config(["x FP32 [5]"], ["y FP32 [5]"], 4), r"the graph has shape \[-1,4\], the configuration says with the batch"),
    (config(["x FP32 [4]"], ["y FP32 [4]"]), r"the graph has shape \[-1,4\], the configuration says \[4\]"),
    (config(["x FP32 [4]", "w FP32 [1]"], ["y FP32 [4]"], 4), "unexpected inference input 'w'"),
    (config(["x FP32 [4]"], ["y FP32 [4]"], 4, parameter("ENGINE", "caffe")), "'ENGINE' is 'caffe', expected auto"),
    (config(["x FP32 [4]"], ["y FP32 [4]"], 4, parameter("TF_NUM_INTRA_THREADS", "-2")), "expected a number up to"),
    (config(["x FP32 [4]"], ["y FP32 [4]"], 4, parameter("TF_INIT_OPS_FILE", "i.json")), "freeze the graph"),
])  # fmt: skip
def test_configs_that_are_not_of_the_graph(
    tmp_path: Path, pool: SlabPool, engine: str, text: str, message: str
) -> None:
    with pytest.raises(ServerError, match=message):
        load(write(tmp_path, unary(), text), pool, engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("spoil", "message"), [
    (lambda graph: graph[: len(graph) // 2], r"'model\.graphdef' is no frozen graph \(GraphDef\), or is cut short"),
    (lambda graph: b"<html>" * 40, r"'model\.graphdef' is no frozen graph \(GraphDef\), or is cut short"),
    (lambda graph: b"", r"'model\.graphdef' is empty"),
    (lambda graph: b"\x0a\x03abc", r"'model\.graphdef' can not be read: "),
])  # fmt: skip
def test_broken_graphs_are_named(
    tmp_path: Path, pool: SlabPool, engine: str, spoil: Callable[[bytes], bytes], message: str
) -> None:
    with pytest.raises(InvalidArg, match=message) as caught:
        load(write(tmp_path, spoil(unary()), config(["x FP32 [4]"], ["y FP32 [4]"], 4)), pool, engine)
    assert str(tmp_path) not in caught.value.message


def test_what_openvino_does_not_do_names_the_remedy(tmp_path: Path, pool: SlabPool) -> None:
    text = config(["x STRING [4]"], ["y STRING [4]"], 4)
    remedy = r"where TensorFlow is installed it runs the model: pip install 'triton-async\[tensorflow\]'"
    with pytest.raises(Unsupported, match=remedy):
        load(write(tmp_path, unary("string", op="Identity"), text), pool)
    builder = Builder()
    builder.add("Igamma", [builder.placeholder("x", "float32", [-1, 4])] * 2, "y", T=FLOAT)
    with pytest.raises(Unsupported, match=remedy):
        load(write(tmp_path, builder.graph(), config(["x FP32 [4]"], ["y FP32 [4]"], 4), "i"), pool)


def saved_model(root: Path, more: str = "") -> Path:
    import tensorflow as tf

    class Model(tf.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(np.arange(12, dtype=np.float32).reshape(4, 3))

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def run(self, x: Any) -> Any:
            return {"logits": x @ self.weights, "total": tf.reduce_sum(x, 1)}

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def twice(self, x: Any) -> Any:
            return {"double": x * 2}

    directory = root / "m"
    made = Model()
    signatures = {"serving_default": made.run, "twice": made.twice}
    tf.saved_model.save(made, str(directory / "1" / "model.savedmodel"), signatures=signatures)
    if more:
        (directory / "config.pbtxt").write_text(f'backend: "tensorflow"\n{more}')
    return directory


@NEEDS_TENSORFLOW
@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
def test_saved_models(tmp_path: Path, pool: SlabPool, engine: str) -> None:
    loaded = load(saved_model(tmp_path), pool, engine)
    assert (loaded.config.platform, loaded.config.max_batch_size) == ("tensorflow_savedmodel", 4)
    array = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    found = loaded.run_one(x=array)
    assert np.allclose(found["logits"], array @ np.arange(12, dtype=np.float32).reshape(4, 3), atol=1e-5)
    assert np.allclose(found["total"].ravel(), array.sum(1), atol=1e-5)


@NEEDS_TENSORFLOW
def test_other_signatures_are_tensorflows(tmp_path: Path, pool: SlabPool) -> None:
    directory = saved_model(tmp_path, parameter("TF_SIGNATURE_DEF", "twice"))
    loaded = load(directory, pool, "tensorflow")
    assert loaded.run_one(x=np.ones((1, 4), np.float32))["double"].tolist() == [[2] * 4]
    with pytest.raises(Unsupported, match="OpenVINO reads the graph 'serve' and its signature 'serving_default' only"):
        load(directory, pool, "openvino")
    (directory / "config.pbtxt").write_text('backend: "tensorflow"\n' + parameter("TF_SIGNATURE_DEF", "none"))
    with pytest.raises(InvalidArg, match="has no signature 'none', it has: serving_default, twice"):
        load(directory, pool, "tensorflow")


@NEEDS_TENSORFLOW
@pytest.mark.parametrize(("share", "expected"), [("0", 1), ("1", 4), ("2", 2), ("3", 2)])
def test_instances_share_sessions_as_told(
    tmp_path: Path, pool: SlabPool, monkeypatch: pytest.MonkeyPatch, share: str, expected: int
) -> None:
    made: list[Any] = []
    make = TensorFlowModel._make_session
    monkeypatch.setattr(TensorFlowModel, "_make_session", lambda self: made.append(make(self)) or made[-1])
    text = config(["x FP32 [4]"], ["y FP32 [4]"], 4, parameter("MAX_SESSION_SHARE_COUNT", share))
    loaded = load(write(tmp_path, unary(), text), pool, "tensorflow")
    instances = [loaded.instance, *(loaded.make_instance(f"m_{number}") for number in range(1, 4))]
    assert len(made) == expected
    for instance in instances:
        loaded.instance = instance
        assert loaded.run_one(x=np.ones((1, 4), np.float32))["y"].tolist() == [[-1] * 4]


@NEEDS_TENSORFLOW
def test_strings_run_in_tensorflow(tmp_path: Path, pool: SlabPool) -> None:
    builder = Builder()
    x = builder.placeholder("x", "string", [-1, 2])
    builder.add("StringJoin", [x, x], "y", N=2, separator="-")
    text = config(["x STRING [2]"], ["y STRING [2]"], 4)
    loaded = load(write(tmp_path, builder.graph(), text), pool, "tensorflow")
    found = loaded.run_one(x=np.array([[b"a", b"\xff\x00"]], object))
    assert found["y"].tolist() == [[b"a-a", b"\xff\x00-\xff\x00"]]


@NEEDS_TENSORFLOW
@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
def test_saved_models_without_their_variables(tmp_path: Path, pool: SlabPool, engine: str) -> None:
    directory = saved_model(tmp_path)
    folder = directory / "1" / "model.savedmodel"
    for file in (folder / "variables").glob("variables.data-*"):
        file.unlink()
    with pytest.raises(InvalidArg, match=r"'model\.savedmodel' has no variables/variables\.data"):
        load(directory, pool, engine)
    (folder / "saved_model.pb").unlink()
    with pytest.raises(InvalidArg, match=r"'model\.savedmodel' has no saved_model\.pb"):
        load(directory, pool, engine)


def test_a_file_for_a_folder_and_the_reverse(tmp_path: Path, pool: SlabPool) -> None:
    directory = write(tmp_path, unary(), 'platform: "tensorflow_savedmodel"')
    (directory / "1" / "model.graphdef").rename(directory / "1" / "model.savedmodel")
    with pytest.raises(InvalidArg, match="is a file: a SavedModel is the folder"):
        load(directory, pool)
    (directory / "1" / "model.graphdef").mkdir()
    (directory / "config.pbtxt").write_text('platform: "tensorflow_graphdef"')
    with pytest.raises(InvalidArg, match="is a folder, and platform tensorflow_graphdef is for the file"):
        load(directory, pool)


