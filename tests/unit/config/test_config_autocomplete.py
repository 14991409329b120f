"""Completion: backend from files, tensors and batching from the model, as Triton does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from config_models import BATCHED, BYTES, FIXED, FP32, FULL, INT64, load_text, make_model

from triton_async.config.autocomplete import ModelIO, TensorInfo, deduce
from triton_async.config.load import load
from triton_async.config.model_config import InstanceKind, ModelConfig
from triton_async.config.pbtxt import parse
from triton_async.config.placement import Gpus
from triton_async.errors import InvalidArg


def io(*dims: tuple[int, ...]) -> ModelIO:
    """A model with one input per dims but the last, which is its output."""
    inputs = tuple(TensorInfo(f"in{i}", FP32, d) for i, d in enumerate(dims[:-1]))
    return ModelIO(inputs, (TensorInfo("out", FP32, dims[-1]),))


@pytest.mark.parametrize("config", [None, "", 'name: "m"', 'backend: "onnxruntime"', "# only a comment\n"])
def test_a_model_without_config_is_completed(tmp_path: Path, config: str | None) -> None:
    got = load_text(tmp_path, config)
    assert (got.name, got.backend, got.platform) == ("m", "onnxruntime", "onnxruntime_onnx")
    assert got.default_model_filename == "model.onnx"
    assert got.max_batch_size == 4
    assert [(t.name, t.datatype, t.dims, t.reshape) for t in got.inputs] == [
        ("image", FP32, (3, 4, 4), None),
        ("scale", FP32, (2,), None),
    ]
    assert [(t.name, t.datatype, t.dims, t.reshape) for t in got.outputs] == [
        ("scores", FP32, (10,), None),
        ("best", INT64, (1,), ()),
    ]
    assert got.dynamic_batching is not None
    assert got.dynamic_batching.preferred_batch_sizes == (4,)
    assert "autofilled max_batch_size to 4 for model 'm'" in got.warnings[0]


def test_a_model_with_a_fixed_dimension_is_not_batched(tmp_path: Path) -> None:
    got = load_text(tmp_path, None, FIXED)
    assert got.max_batch_size == 0
    assert got.dynamic_batching is None
    assert got.inputs[0].dims == (1, 3, -1, -1)
    assert got.outputs[1].dims == (1,)
    assert got.outputs[1].reshape is None
    assert not got.warnings


def test_every_tensor_must_have_a_batch_dimension(tmp_path: Path) -> None:
    assert load_text(tmp_path / "a", None, io((-1, 3), (3,))).max_batch_size == 0
    assert load_text(tmp_path / "b", None, io((-1, 3), ())).max_batch_size == 0
    assert load_text(tmp_path / "c", None, io((-1, 3), (-1,))).max_batch_size == 4


@pytest.mark.parametrize(("size", "batching"), [(16, True), (1, False), (0, False)])
def test_the_default_max_batch_size_is_a_setting(tmp_path: Path, size: int, batching: bool) -> None:
    got = load_text(tmp_path, None, default_max_batch_size=size)
    assert got.max_batch_size == size
    assert (got.dynamic_batching is not None) is batching
    assert got.inputs[1].dims == ((2,) if size else (-1, 2))


def test_what_the_config_says_is_kept(tmp_path: Path) -> None:
    got = load_text(tmp_path, "max_batch_size: 32 dynamic_batching { max_queue_delay_microseconds: 50 }")
    assert got.max_batch_size == 32
    assert got.dynamic_batching is not None
    assert got.dynamic_batching.max_queue_delay_us == 50
    assert got.dynamic_batching.preferred_batch_sizes == (32,)
    assert not got.warnings


def test_a_complete_config_gets_no_batching_of_its_own(tmp_path: Path) -> None:
    assert load_text(tmp_path, FULL).dynamic_batching is None


def test_gaps_within_tensors_are_filled(tmp_path: Path) -> None:
    got = load_text(
        tmp_path, 'max_batch_size: 2 input [ { name: "scale" }, { name: "image" dims: [3, -1, 4] } ]'
    )
    assert [(t.name, t.datatype, t.dims) for t in got.inputs] == [
        ("scale", FP32, (2,)),
        ("image", FP32, (3, -1, 4)),
    ]
    assert [t.name for t in got.outputs] == ["scores", "best"]


def test_a_tensor_with_all_dimensions_says_that_there_is_no_batching(tmp_path: Path) -> None:
    got = load_text(tmp_path, 'output { name: "scores" data_type: TYPE_FP32 dims: [ -1, 10 ] }')
    assert got.max_batch_size == 0
    assert got.inputs[0].dims == (-1, 3, 4, 4)


def test_batching_that_the_model_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArg) as caught:
        load_text(tmp_path, "max_batch_size: 8", FIXED)
    assert (
        "autofill failed for model 'm': model does not support batching while non-zero"
        in caught.value.message
    )


def test_a_described_model_without_batch_dimension_is_refused_as_well(tmp_path: Path) -> None:
    config = """max_batch_size: 2 input { name: "in0" data_type: TYPE_FP32 dims: 3 }
                output { name: "out" data_type: TYPE_FP32 dims: 3 }"""
    with pytest.raises(
        InvalidArg, match="the first dimension must be -1; but shape expected by the model is"
    ):
        load_text(tmp_path, config, io((1, 3), (1, 3)))


def test_shapes_may_be_narrowed_and_reshaped(tmp_path: Path) -> None:
    shape = "data_type: TYPE_FP32 dims: [ 3, -1, -1 ] reshape { shape: [ 1, 3, -1, -1 ] }"
    config = f'input {{ name: "x" {shape} }} output {{ name: "y" {shape} }}'
    got = load_text(tmp_path, config, FIXED)
    assert got.max_batch_size == 0
    assert got.inputs[0].dims == (3, -1, -1)
    assert got.inputs[0].model_dims == (1, 3, -1, -1)
    narrow = """input { name: "x" data_type: TYPE_FP32 dims: [ 1, 3, 224, 224 ] }
                output { name: "y" data_type: TYPE_FP32 dims: [ 1, 3, -1, -1 ] }"""
    assert load_text(tmp_path / "b", narrow, FIXED).inputs[0].dims == (1, 3, 224, 224)


def test_scalars_of_unbatched_models_are_one_element(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidArg, match="scalar tensor 'n', should only provide 1 in the model configuration"
    ):
        load_text(tmp_path, 'output { name: "n" data_type: TYPE_INT64 dims: 2 }', FIXED)


def test_inputs_that_the_model_has_a_value_for_count_only_where_a_config_names_them(tmp_path: Path) -> None:
    model = ModelIO(
        (TensorInfo("a", FP32, (-1, 2)), TensorInfo("b", FP32, (4, 2), optional=True)),
        (TensorInfo("y", BYTES, (-1, 0)),),
    )
    got = load_text(tmp_path / "a", None, model)
    assert [t.name for t in got.inputs] == ["a"]
    assert got.outputs[0].dims == (-1,)
    config = 'max_batch_size: 1 input { name: "a" data_type: TYPE_FP32 dims: 2 }'
    assert [t.name for t in load_text(tmp_path / "b", config, model).inputs] == ["a"]
    got = load_text(tmp_path / "c", "max_batch_size: 8", model)
    assert (got.max_batch_size, [t.name for t in got.inputs]) == (8, ["a"])
    config = """
    input [ { name: "a" data_type: TYPE_FP32 dims: [-1, 2] }, { name: "b" data_type: TYPE_FP32 dims: [4, 2] } ]
    """
    assert [t.name for t in load_text(tmp_path / "d", config, model).inputs] == ["a", "b"]
    config = config.replace("[4, 2]", "[4, 2] optional: true")
    assert [t.optional for t in load_text(tmp_path / "e", config, model).inputs] == [False, True]


def test_an_input_that_the_model_needs_cannot_be_optional(tmp_path: Path) -> None:
    config = 'input { name: "scale" data_type: TYPE_FP32 dims: 2 optional: true }'
    with pytest.raises(InvalidArg, match="input 'scale' is optional in the model configuration, but the model does no"):
        load_text(tmp_path, FULL.replace('dims: [ 2 ]', 'dims: [ 2 ] optional: true'))
    with pytest.raises(InvalidArg, match="configuration expects 1 inputs, model provides 2: input 'image' is missing"):
        load_text(tmp_path / "b", config)


def test_a_batch_size_of_zero_that_is_written_is_kept(tmp_path: Path) -> None:
    """A message cannot tell it from one that is not written; the text can."""
    for number, zero in enumerate(("max_batch_size: 0", "max_batch_size:0x0", "name: 'm', max_batch_size :  0 # rows")):
        got = load_text(tmp_path / str(number), zero)
        assert (got.max_batch_size, got.dynamic_batching, got.inputs[1].dims) == (0, None, (-1, 2))
    for number, text in enumerate((
        "# max_batch_size: 0", "parameters { key: 'k' value { string_value: 'max_batch_size: 0' } }",
        "max_batch_size: 2 # max_batch_size: 0", 'parameters { key: "\\" max_batch_size: 0" value { } }',
    )):  # fmt: skip
        assert load_text(tmp_path / f"not {number}", text).max_batch_size in (2, 4)


def test_a_model_whose_first_dimensions_are_no_batch_is_not_batched(tmp_path: Path) -> None:
    model = replace(BATCHED, unbatched="the outputs begin with time")
    got = load_text(tmp_path / "a", None, model)
    assert (got.max_batch_size, got.dynamic_batching, got.inputs[1].dims) == (0, None, (-1, 2))
    assert got.warnings == ("model 'm' is served without batching: the outputs begin with time",)
    got = load_text(tmp_path / "b", "max_batch_size: 8", model)
    assert (got.max_batch_size, got.dynamic_batching is not None) == (8, True)
    assert "is configured for batches of 8: the outputs begin with time. Set 'max_batch_size: 0'" in got.warnings[0]


def test_dynamic_batching_is_not_switched_on_where_rows_of_a_batch_mix(tmp_path: Path) -> None:
    model = replace(BATCHED, mixes_rows="it has one scale")
    got = load_text(tmp_path / "a", None, model)
    assert (got.max_batch_size, got.dynamic_batching) == (4, None)
    assert "dynamic batching is not switched on for model 'm': it has one scale" in got.warnings[1]
    for number, config in enumerate(("dynamic_batching { }", FULL + "dynamic_batching { }")):
        got = load_text(tmp_path / str(number), config, model)
        assert got.dynamic_batching is not None
        assert "model 'm' is configured for dynamic batching: it has one scale" in got.warnings[0]
    got = load_text(tmp_path / "b", FULL, model)
    assert (got.max_batch_size, got.warnings) == (8, ())


def test_a_tensor_of_unknown_rank_has_the_dims_of_the_config(tmp_path: Path) -> None:
    model = ModelIO((TensorInfo("x", FP32, (), unranked=True),), (TensorInfo("y", FP32, (), unranked=True),))
    got = load_text(tmp_path / "a", None, model)
    assert (got.max_batch_size, got.inputs[0].dims, got.outputs[0].dims) == (0, (-1,), (-1,))
    config = """max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: [-1, 3] }
                output { name: "y" data_type: TYPE_FP32 dims: [7] }"""
    got = load_text(tmp_path / "b", config, model)
    assert (got.max_batch_size, got.inputs[0].dims, got.outputs[0].dims) == (8, (-1, 3), (7,))


def test_nothing_is_completed_when_disabled_but_defaults_are(tmp_path: Path) -> None:
    got = load_text(tmp_path, FULL, auto_complete=False)
    assert got.backend == "onnxruntime"
    assert got.version_policy.latest == 1
    assert [i.name for i in got.instances()] == ["m_0", "m_1"]
    with pytest.raises(InvalidArg, match=r"read m/config\.pbtxt: No such file or directory: it must be"):
        load_text(tmp_path / "b", None, auto_complete=False)


def test_a_backend_that_cannot_tell_leaves_the_config_as_written(tmp_path: Path) -> None:
    assert load_text(tmp_path, FULL, None).max_batch_size == 8


FILES = [
    ("model.onnx", "onnxruntime", "onnxruntime_onnx"),
    ("model.plan", "tensorrt", "tensorrt_plan"),
    ("model.pt", "pytorch", "pytorch_libtorch"),
    ("model.pt2", "pytorch", "torch_aoti"),
    ("model.xml", "openvino", ""),
    ("model.graphdef", "tensorflow", "tensorflow_graphdef"),
    ("model.savedmodel", "tensorflow", "tensorflow_savedmodel"),
    ("model.py", "python", ""),
]


@pytest.mark.parametrize(("filename", "backend", "platform"), FILES)
def test_the_backend_follows_from_the_files(
    tmp_path: Path, filename: str, backend: str, platform: str
) -> None:
    proto = parse("")
    deduce(proto, make_model(tmp_path, None, filename=filename), "m")
    assert (proto.backend, proto.platform, proto.default_model_filename) == (backend, platform, filename)


@pytest.mark.parametrize(("filename", "backend", "platform"), FILES)
def test_the_backend_follows_from_the_filename_in_the_config(
    tmp_path: Path, filename: str, backend: str, platform: str
) -> None:
    proto = parse(f'default_model_filename: "{filename}"')
    deduce(proto, make_model(tmp_path, None), "m")
    assert (proto.backend, proto.platform) == (backend, platform)


@pytest.mark.parametrize(("filename", "platform"), [
    ("model.graphdef", "tensorflow_graphdef"), ("model.savedmodel", "tensorflow_savedmodel"),
])  # fmt: skip
def test_the_platform_of_tensorflow_follows_from_what_lies_there(
    tmp_path: Path, filename: str, platform: str
) -> None:
    proto = parse('backend: "tensorflow"')
    deduce(proto, make_model(tmp_path, None, filename=filename), "m")
    assert (proto.platform, proto.default_model_filename) == (platform, filename)
    named = parse(f'backend: "tensorflow" default_model_filename: "{filename}"')
    deduce(named, make_model(tmp_path / "n", None, filename="model.graphdef"), "m")
    assert named.platform == platform


def test_a_directory_is_a_model_for_onnx_and_the_first_version_decides(tmp_path: Path) -> None:
    model = tmp_path / "m"
    (model / "2" / "model.onnx").mkdir(parents=True)
    (model / "10").mkdir()
    (model / "10" / "model.py").write_text("")
    (model / "01").mkdir()
    (model / "configs").mkdir()
    proto = parse("")
    deduce(proto, model, "m")
    assert proto.backend == "onnxruntime"


def test_the_name_of_the_directory_can_name_the_backend(tmp_path: Path) -> None:
    proto = parse("")
    deduce(proto, make_model(tmp_path, None, "x.identity", "weights"), "x.identity")
    assert (proto.backend, proto.default_model_filename) == ("identity", "model.identity")
    with pytest.raises(InvalidArg, match="Invalid model name: Could not determine backend for model 'y'"):
        deduce(parse(""), make_model(tmp_path, None, "y", "weights"), "y")


def test_a_platform_alone_gives_backend_and_filename(tmp_path: Path) -> None:
    proto = parse('platform: "libtorch"')
    deduce(proto, make_model(tmp_path, None), "m")
    assert (proto.backend, proto.platform, proto.default_model_filename) == (
        "pytorch",
        "libtorch",
        "model.pt",
    )


def kinds(config: ModelConfig) -> list[tuple[str, InstanceKind, int]]:
    return [(i.name, i.kind, i.device) for i in config.instances()]


def two_gpus(backend: str, named: bool) -> Gpus:
    return Gpus((0, 1))


def test_instances_run_where_they_can(tmp_path: Path) -> None:
    cpu, gpu = InstanceKind.CPU, InstanceKind.GPU
    assert kinds(load_text(tmp_path / "a", None)) == [("m_0", cpu, 0), ("m_1", cpu, 0)]
    assert kinds(load_text(tmp_path / "b", None, find_gpus=two_gpus)) == [("m_0", gpu, 0), ("m_1", gpu, 1)]
    auto = "instance_group { count: 1 gpus: 7 }"
    with pytest.raises(InvalidArg, match="KIND_CPU but specifies one or more GPUs"):
        load_text(tmp_path / "c", auto, find_gpus=two_gpus)
    two = 'instance_group [ { count: 1 }, { name: "g" kind: KIND_CPU passive: true } ]'
    got = load_text(tmp_path / "d", two)
    assert kinds(got) == [("m_0_0", cpu, 0), ("g_0", cpu, 0), ("g_1", cpu, 0)]
    assert [i.passive for i in got.instances()] == [False, True, True]
    with pytest.raises(InvalidArg, match=r"unsupported gpu id 5\. GPUs that may be used are: 0, 1"):
        load_text(tmp_path / "e", "instance_group { kind: KIND_GPU gpus: 5 }", find_gpus=two_gpus)


def test_only_onnx_models_get_two_instances_on_cpu(tmp_path: Path) -> None:
    model = make_model(tmp_path, 'backend: "identity"')
    got = load(model, "m", inspect=lambda backend, path, proto: BATCHED)
    assert kinds(got) == [("m_0", InstanceKind.CPU, 0)]
