"""What an ONNX file says that no session does: names of dimensions, operators, ranks; and models served by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from triton_async.backends.onnxruntime.backend import OnnxRuntimeBackend
from triton_async.backends.onnxruntime.graph import Graph, read_graph
from triton_async.config.load import load
from triton_async.config.model_config import ModelConfig

Dims = list[int | str] | None
FLOAT = TensorProto.FLOAT


def value(name: str, dims: Dims, datatype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, datatype, dims)


def write(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Dims],
    outputs: dict[str, Dims],
    weights: list[onnx.TensorProto] | None = None,
) -> Path:
    graph = helper.make_graph(
        nodes, "g", [value(*item) for item in inputs.items()], [value(*item) for item in outputs.items()], weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def completed(model_dir: Path, config: str | None = None) -> ModelConfig:
    if config is not None:
        (model_dir / "config.pbtxt").write_text(config)
    backend = OnnxRuntimeBackend()
    return load(model_dir, model_dir.name, inspect=lambda _, path, proto: backend.inspect(path, proto))


def relu(name: str = "x", to: str = "y") -> onnx.NodeProto:
    return helper.make_node("Relu", [name], [to])


def test_shapes_and_operators_are_read_and_weights_are_not(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", FLOAT, [600, 600], np.ones(360_000, np.float32).tobytes(), raw=True)
    inner = helper.make_graph([relu("x", "a")], "then", [], [value("a", None)])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Constant", [], ["z"], value=weight),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"x": ["b", 3, "t"], "c": []}, {"y": None, "z": [600, -1]}, [weight])
    graph = read_graph(path)
    assert graph is not None
    # The constant is a node of more than a mebibyte.
    assert graph.operators == {"If", "Relu"}
    assert graph.shapes == {"x": ("b", "", "t"), "c": (), "y": None, "z": ("", "")}
    assert graph.unranked() == {"y"}


def test_a_large_file_says_what_a_small_one_says(tmp_path: Path) -> None:
    inner = helper.make_graph([relu("x", "a")], "then", [value("i", ["n"])], [value("a", None)])
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner), relu("x", "z")]
    inputs: dict[str, Dims] = {"x": ["b", 3], "c": []}
    outputs: dict[str, Dims] = {"y": None, "z": ["b", 3]}
    weight = helper.make_tensor("w", FLOAT, [1 << 19], bytes(1 << 21), raw=True)
    small = write(tmp_path / "s.onnx", nodes, inputs, outputs)
    large = write(tmp_path / "l.onnx", nodes, inputs, outputs, [weight])
    for path in (small, large):
        model = onnx.load(path)
        body = [helper.make_node("Gelu", ["a"], ["b"])]
        model.functions.append(helper.make_function("own", "f", ["a"], ["b"], body, [helper.make_opsetid("", 20)]))
        onnx.save(model, path)
    found = read_graph(small)
    assert found == read_graph(large)
    assert found == Graph({"If", "Relu", "Gelu"}, {"x": ("b", ""), "c": (), "y": None, "z": ("b", "")})


@pytest.mark.parametrize("content", [b"", b"no model", b"\xff" * 40, b"\x3a\xff\xff\x7f", b"\x3a\x02\x0a\x7f"])
def test_what_is_no_model_says_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    found = read_graph(path)
    assert found is None or found == Graph()
    assert read_graph(tmp_path / "nowhere") is None


def test_every_cut_of_a_model_is_survived(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [relu()], {"x": ["b", 4]}, {"y": ["b", 4]})
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        read_graph(path)


@pytest.mark.parametrize(("shapes", "reason"), [
    ({"x": ("batch", "", "time"), "y": ("time", "batch", "")}, "dimension 'batch' is the first one of 'x' and another "
     "one of 'y', so that not all inputs and outputs begin with the batch"),
    ({"x": ("batch", "time"), "y": ("time", "")}, "dimension 'time' is the first one of 'y' and another one of 'x'"),
    ({"x": ("batch", "time"), "y": ("batch", "time")}, ""),
    ({"x": ("seq", "batch"), "y": ("seq", "batch")}, ""),
    ({"x": ("batch", "time"), "y": ("rows", "")}, ""),
    ({"x": ("", ""), "y": ("", "")}, ""),
    ({"x": ("batch",), "y": None, "z": ()}, ""),
])  # fmt: skip
def test_names_of_dimensions_tell_what_is_no_batch(shapes: dict[str, tuple[str, ...] | None], reason: str) -> None:
    found = Graph(shapes=shapes).unbatched()
    assert found.startswith(reason) if reason else found == ""
    assert Graph(shapes={**shapes, "w": ("time", "batch")}).unbatched(frozenset("w")) == found


def test_a_model_whose_outputs_begin_with_time_is_served_whole(tmp_path: Path) -> None:
    node = helper.make_node("Transpose", ["x"], ["y"], perm=[2, 0, 1])
    write(tmp_path / "m" / "1" / "model.onnx", [node], {"x": ["batch", 100, "time"]}, {"y": ["time", "batch", 100]})
    got = completed(tmp_path / "m")
    assert (got.max_batch_size, got.inputs[0].dims, got.outputs[0].dims) == (0, (-1, 100, -1), (-1, -1, 100))
    assert "is served without batching: dimension 'batch'" in got.warnings[0]
    assert completed(tmp_path / "m", "max_batch_size: 4").max_batch_size == 4


def test_weights_that_are_graph_inputs_are_no_inputs(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", FLOAT, [4, 4], np.eye(4, dtype=np.float32).ravel())
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    write(tmp_path / "m" / "1" / "model.onnx", [node], {"x": ["b", 4], "w": [4, 4]}, {"y": ["b", 4]}, [weight])
    got = completed(tmp_path / "m")
    assert ([t.name for t in got.inputs], got.max_batch_size, got.dynamic_batching is not None) == (["x"], 4, True)
    assert completed(tmp_path / "m", "max_batch_size: 8").max_batch_size == 8


def test_models_that_quantise_a_batch_as_a_whole_are_not_batched_unasked(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "p"]),
        helper.make_node("DequantizeLinear", ["q", "s", "p"], ["y"]),
    ]
    write(tmp_path / "m" / "1" / "model.onnx", nodes, {"x": ["b", 4]}, {"y": ["b", 4]})
    got = completed(tmp_path / "m")
    assert (got.max_batch_size, got.dynamic_batching) == (4, None)
    assert "its operator DynamicQuantizeLinear takes one scale for all rows of a batch" in got.warnings[-1]
    got = completed(tmp_path / "m", "dynamic_batching { }")
    assert got.dynamic_batching is not None
    assert "is configured for dynamic batching" in got.warnings[0]


def test_a_tensor_of_unknown_rank_takes_the_dims_of_the_config(tmp_path: Path) -> None:
    write(tmp_path / "m" / "1" / "model.onnx", [relu()], {"x": None}, {"y": None})
    dims = "data_type: TYPE_FP32 dims: [-1, 3]"
    config = f'max_batch_size: 8 input {{ name: "x" {dims} }} output {{ name: "y" {dims} }}'
    assert completed(tmp_path / "m", config).inputs[0].dims == (-1, 3)
    assert completed(tmp_path / "m", "").inputs[0].dims == (-1,)
    write(tmp_path / "s" / "1" / "model.onnx", [relu()], {"x": []}, {"y": []})
    assert completed(tmp_path / "s").inputs[0].dims == (1,)


def test_only_operators_whose_shapes_bound_their_time_count_as_bounded() -> None:
    assert Graph(operators={"Conv", "Relu", "MatMul", "Softmax"}).is_bounded()
    for operator in ("Loop", "If", "Scan", "NonZero", "NonMaxSuppression", "TopK", "Expand", "Range", "Tile", "Unique",
                     "StringNormalizer", "RegexFullMatch", "SomebodysOwn"):  # fmt: skip
        assert not Graph(operators={"Relu", operator}).is_bounded(), operator
    assert not Graph(operators={"Relu"}, skipped=True).is_bounded()


def test_a_node_that_is_too_large_to_be_looked_at_may_be_anything(tmp_path: Path) -> None:
    big = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("v", FLOAT, [1 << 18], [0.0] * (1 << 18)))
    for nodes, bounded in (([helper.make_node("Relu", ["x"], ["y"])], True),
                           ([big, helper.make_node("Relu", ["x"], ["y"])], False)):  # fmt: skip
        path = tmp_path / str(bounded) / "model.onnx"
        write(path, nodes, {"x": ["b", 4]}, {"y": ["b", 4]})
        graph = read_graph(path)
        assert graph is not None
        assert graph.is_bounded() is bounded
