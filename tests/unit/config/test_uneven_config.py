"""Ragged inputs, what tells of them, and padding in configs: what is read of them, what is refused and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triton_async import datatypes, defines
from triton_async.config.autocomplete import ModelIO, TensorInfo
from triton_async.config.load import load, mistakes
from triton_async.config.model_config import ModelConfig
from triton_async.errors import InvalidArg

INT32, INT64, FP32 = (datatypes.from_name(name) for name in ("INT32", "INT64", "FP32"))

RAGGED = """
backend: "onnxruntime" max_batch_size: 8
input { name: "X" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true }
output { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] }
"""
COUNT = 'batch_input { kind: BATCH_ELEMENT_COUNT target_name: "N" data_type: TYPE_INT32 source_input: "X" }'
SCATTER = 'batch_output { target_name: "Y" source_input: "X" }'
RAGGED_MODEL = ModelIO(
    (TensorInfo("X", FP32, (-1,)), TensorInfo("N", INT32, (-1,))), (TensorInfo("Y", FP32, (-1,)),)
)

PADDED = """
backend: "onnxruntime" max_batch_size: 8 dynamic_batching { }
input [ { name: "ids" data_type: TYPE_INT64 dims: [ -1 ] }, { name: "kinds" data_type: TYPE_INT64 dims: [ -1 ] } ]
output [ { name: "hidden" data_type: TYPE_FP32 dims: [ -1, 4 ] }, { name: "pooled" data_type: TYPE_FP32 dims: [ 4 ] } ]
"""
PADDING = {
    "inputs": {"ids": ["length"], "kinds": {"dims": ["length"], "value": -1}},
    "outputs": {"hidden": ["length", None]},
    "masks": {"mask": {"data_type": "TYPE_INT64", "dims": ["length"]}},
    "lengths": {"long": {"data_type": "TYPE_INT32", "of": "length"}},
    "buckets": [16, 32],
    "max_elements": 256,
}
PADDED_MODEL = ModelIO(
    (TensorInfo("ids", INT64, (-1, -1)), TensorInfo("kinds", INT64, (-1, -1)), TensorInfo("mask", INT64, (-1, -1)),
     TensorInfo("long", INT32, (-1,))),
    (TensorInfo("hidden", FP32, (-1, -1, 4)), TensorInfo("pooled", FP32, (-1, 4))),
)  # fmt: skip


def read(root: Path, text: str, model: ModelIO) -> ModelConfig:
    directory = root / "m"
    (directory / "1").mkdir(parents=True, exist_ok=True)
    (directory / "1" / "model.onnx").touch()
    (directory / "config.pbtxt").write_text(text)
    return load(directory, "m", inspect=lambda backend, path, proto: model)


def padding(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"parameters {{ key: 'padding' value {{ string_value: '{text}' }} }}"


def read_padded(root: Path, value: Any = PADDING, text: str = PADDED, model: ModelIO = PADDED_MODEL) -> ModelConfig:
    return read(root, text + padding(value), model)


def test_a_ragged_config_is_read(tmp_path: Path) -> None:
    config = read(tmp_path, RAGGED + COUNT + SCATTER, RAGGED_MODEL)
    assert config.inputs[0].ragged
    assert [io.name for io in config.inputs] == ["X"]
    assert [io.name for io in config.engine_inputs] == ["X", "N"]
    (told,) = config.batch_inputs
    assert (told.kind.name, told.targets, told.datatype, told.source) == ("ELEMENT_COUNT", ("N",), INT32, "X")
    assert config.batch_outputs[0].targets == ("Y",)
    assert config.json()["batch_input"][0]["kind"] == "BATCH_ELEMENT_COUNT"
    assert config.json()["input"][0]["allow_ragged_batch"] is True


def test_what_batch_input_makes_is_no_input_of_clients_when_inputs_are_filled_in(tmp_path: Path) -> None:
    text = RAGGED.replace("data_type: TYPE_FP32 dims: [ -1 ] allow", "allow") + COUNT + SCATTER
    config = read(tmp_path, text, RAGGED_MODEL)
    assert [(io.name, io.datatype, io.dims) for io in config.inputs] == [("X", FP32, (-1,))]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (COUNT.replace('source_input: "X"', ""), "'BATCH_ELEMENT_COUNT' expects 1 source input, got 0"),
        (COUNT + COUNT.replace('"X"', '["X", "X"]').replace('"N"', '"O"'), "expects 1 source input, got 2"),
        (COUNT.replace("INT32", "INT64"), "batch input data type must be TYPE_INT32 or TYPE_FP32"),
        (COUNT.replace('"X"', '"Z"'), "unknown source input name 'Z'"),
        (COUNT.replace('target_name: "N"', ""), "must specify one or more 'target_name'"),
        (COUNT.replace('"N"', '"X"'), "has 'target_name' 'X', which is empty, an 'input' as well"),
        (COUNT + COUNT, "has 'target_name' 'N'"),
        ('batch_output { target_name: "Y" }', "'BATCH_SCATTER_WITH_INPUT_SHAPE' expects 1 source input, got 0"),
        ('batch_output { target_name: "Y" source_input: "Z" }', "unknown source input name 'Z'"),
        ('batch_output { target_name: "Z" source_input: "X" }', "unknown target output name 'Z'"),
        ('batch_output { source_input: "X" }', "must specify one or more 'target_name'"),
        (SCATTER + SCATTER, "target output name 'Y' can only be specified once"),
    ],
)
def test_a_ragged_config_that_can_not_be_is_refused(tmp_path: Path, more: str, words: str) -> None:
    with pytest.raises(InvalidArg) as raised:
        read(tmp_path, RAGGED + more, RAGGED_MODEL)
    assert words in raised.value.message
    assert raised.value.message.endswith("(in config.pbtxt)")
    assert any(words in problem.message for problem in mistakes(tmp_path / "m", "m"))


def test_an_output_with_more_variable_dimensions_than_its_source_is_refused(tmp_path: Path) -> None:
    text = RAGGED.replace('"Y" data_type: TYPE_FP32 dims: [ -1 ]', '"Y" data_type: TYPE_FP32 dims: [ 2, -1 ]')
    with pytest.raises(InvalidArg, match="batch output 'Y' has a variable dimension 1, which input 'X' does not have"):
        read(tmp_path, text + COUNT + SCATTER, RAGGED_MODEL)


def test_shapes_as_clients_send_them_are_told_of_inputs_without_reshape_alone(tmp_path: Path) -> None:
    text = RAGGED.replace("allow_ragged", "reshape { shape: [ 1, -1 ] } allow_ragged")
    read(tmp_path, text + COUNT, ModelIO(RAGGED_MODEL.inputs, (TensorInfo("Y", FP32, (-1, -1)),)))
    with pytest.raises(InvalidArg, match=r"'BATCH_ITEM_SHAPE' tells the shapes of input 'X'.*'reshape'"):
        read(tmp_path, text + COUNT.replace("ELEMENT_COUNT", "ITEM_SHAPE"), RAGGED_MODEL)


@pytest.mark.parametrize("dims", [(-1, -1), (8,), ()])
def test_a_ragged_input_is_one_variable_dimension_of_the_model(tmp_path: Path, dims: tuple[int, ...]) -> None:
    model = ModelIO((TensorInfo("X", FP32, dims), RAGGED_MODEL.inputs[1]), RAGGED_MODEL.outputs)
    with pytest.raises(InvalidArg, match=r"expects model provides input with shape \[-1\] for ragged input 'X', model"):
        read(tmp_path, RAGGED + COUNT, model)


def test_what_tells_of_the_batch_must_be_an_input_of_the_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidArg, match="N"):
        read(tmp_path, RAGGED + COUNT, ModelIO(RAGGED_MODEL.inputs[:1], RAGGED_MODEL.outputs))
    model = ModelIO((RAGGED_MODEL.inputs[0], TensorInfo("N", INT32, (-1, -1))), RAGGED_MODEL.outputs)
    with pytest.raises(InvalidArg, match=r"batch input 'N' has shape \[-1\], model provides \[-1,-1\]"):
        read(tmp_path, RAGGED + COUNT, model)


def test_padding_is_read(tmp_path: Path) -> None:
    config = read_padded(tmp_path)
    found = config.padding
    assert found is not None
    assert dict(found.buckets) == {"length": (16, 32)}
    assert dict(found.inputs) == {
        "ids": (("length",), bytes(8)), "kinds": (("length",), np.int64(-1).tobytes()),
    }  # fmt: skip
    assert dict(found.outputs) == {"hidden": ("length", None)}
    (mask,) = found.masks
    assert (mask.name, mask.datatype, mask.dims) == ("mask", INT64, (-1,))
    assert (mask.value, mask.pad) == (np.int64(1).tobytes(), bytes(8))
    (told,) = found.length_inputs
    assert (told.name, told.datatype, told.dims, told.length) == ("long", INT32, (), "length")
    assert found.max_elements == 256
    assert [io.name for io in config.engine_inputs] == ["ids", "kinds", "mask", "long"]
    assert config.engine_inputs[3].model_dims == ()


def test_buckets_are_given_for_each_length_by_name_and_elements_are_bounded_anyway(tmp_path: Path) -> None:
    config = read_padded(tmp_path, PADDING | {"buckets": {"length": [4]}})
    assert config.padding is not None
    assert dict(config.padding.buckets) == {"length": (4,)}
    value = {key: entry for key, entry in PADDING.items() if key not in ("buckets", "max_elements")}
    config = read_padded(tmp_path, value)
    assert config.padding is not None
    assert dict(config.padding.buckets) == {"length": ()}
    assert config.padding.max_elements == defines.PADDING_MAX_ELEMENTS


def changed(**fields: Any) -> Any:
    return PADDING | fields


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no", "must be JSON"),
        ("[" * 10000, "must be JSON"),
        ("[]", "must be a JSON object with"),
        ('{"inputs": {}, "inputs": {}}', "has a field twice"),
        (" " * (defines.PADDING_MAX_NBYTES + 1), "is longer than"),
        ({}, "must name the inputs that are padded, in 'inputs'"),
        (changed(input={}), "has unknown field 'input', there are: inputs, outputs, masks"),
        (changed(inputs=[]), "'inputs' must be an object, by names of tensors"),
        (changed(inputs={"x": ["length"]}), "'inputs.x' is no 'input' of the configuration"),
        (changed(inputs={"ids": []}), "'inputs.ids' must have a list with an entry for each of the 1 'dims'"),
        (changed(inputs={"ids": "length"}), "'inputs.ids' must have a list"),
        (changed(inputs={"ids": [1]}), "'inputs.ids' must have a name or null for dimension 0"),
        (changed(inputs={"ids": [None]}), "'inputs.ids' must name the length of dimension 0, which is variable"),
        (changed(inputs={"ids": {"dims": ["length"], "pad": 0}}), "'inputs.ids' has unknown field 'pad'"),
        (changed(inputs={"ids": {"dims": ["length"], "value": "0"}}), "'inputs.ids' 'value' must be a number"),
        (changed(inputs={"ids": {"dims": ["length"], "value": 0.5}}), "'inputs.ids' 'value' 0.5 is no TYPE_INT64"),
        (changed(inputs={"ids": {"dims": ["length"], "value": 1 << 63}}), "is no TYPE_INT64"),
        (changed(outputs={}), "must say in 'outputs' which lengths the variable dimensions of output 'hidden' have"),
        (changed(outputs={"y": [None]}), "'outputs.y' is no 'output' of the configuration"),
        (changed(outputs={"hidden": ["length", "length"]}), "has a length for dimension 1, which is not variable"),
        (changed(outputs={"hidden": ["other", None]}), "has length 'other', which no padded input has; there are"),
        (changed(masks={"mask": {"dims": ["length"]}}), "'masks.mask' must specify 'data_type'"),
        (changed(masks={"mask": {"data_type": "TYPE_STRING", "dims": ["length"]}}), "must specify 'data_type'"),
        (changed(masks={"mask": {"data_type": "TYPE_INT64", "dims": [1]}}), "must have 'dims', a list of names"),
        (changed(masks={"mask": {"data_type": "TYPE_INT64", "dims": ["length", 2]}}), "must be names of lengths"),
        (changed(masks={"mask": {"data_type": "TYPE_INT64", "dims": ["length"] * 2}}), "has the same length twice"),
        (changed(masks={"mask": {"data_type": "TYPE_INT64", "dims": ["other"]}}), "'masks.mask' has length 'other'"),
        (changed(masks={"mask": {"data_type": "TYPE_INT64", "dims": ["length"], "false_true": [0]}}), "a list of 2"),
        (changed(masks={"ids": {"data_type": "TYPE_INT64", "dims": ["length"]}}), "make input 'ids', which"),
        (changed(masks={"long": {"data_type": "TYPE_INT64", "dims": ["length"]}}), "make input 'long'"),
        (changed(lengths={"long": {"data_type": "TYPE_FP16", "of": "length"}}), "must be TYPE_INT32, TYPE_"),
        (changed(lengths={"long": {"data_type": "TYPE_INT32"}}), "must say in 'of' which length it tells"),
        (changed(lengths={"long": {"data_type": "TYPE_INT32", "of": "x"}}), "'lengths.long' has length 'x'"),
        (changed(lengths={"long": {"data_type": "TYPE_INT32", "of": "length", "dims": [2]}}), "must be [] or [1]"),
        (changed(buckets=4), "'buckets' must be a list of sizes, or an object"),
        (changed(buckets={"x": [1]}), "'buckets' has length 'x'"),
        (changed(buckets=[0]), "'buckets' of length 'length' must be a list of positive integers"),
        (changed(buckets=[True]), "must be a list of positive integers"),
        (changed(buckets={"length": []}), "'buckets' of length 'length' are none"),
        (changed(buckets=[8, 4]), "'buckets' of length 'length' must be ascending"),
        (changed(buckets=[8, 257]), "have 257, more than the 256 of 'max_elements'"),
        (changed(buckets=list(range(1, defines.PADDING_MAX_BUCKETS + 2))), "are more than"),
        (changed(max_elements=0), "'max_elements' must be a positive integer"),
        (changed(max_elements="many"), "'max_elements' must be a positive integer"),
    ],
)  # fmt: skip
def test_padding_that_can_not_be_is_refused(tmp_path: Path, value: Any, words: str) -> None:
    with pytest.raises(InvalidArg) as raised:
        read_padded(tmp_path, value)
    assert words in raised.value.message
    assert "'parameters' 'padding' of model 'm'" in raised.value.message
    assert raised.value.message.endswith("(in config.pbtxt)")
    assert any(words in problem.message for problem in mistakes(tmp_path / "m", "m"))


def test_bounds_of_padding_hold_just_below_them(tmp_path: Path) -> None:
    sizes = list(range(1, defines.PADDING_MAX_BUCKETS + 1))
    config = read_padded(tmp_path, changed(buckets=sizes))
    assert config.padding is not None
    assert len(config.padding.buckets["length"]) == defines.PADDING_MAX_BUCKETS
    read_padded(tmp_path, changed(buckets=[8, 256]))
    text = json.dumps(PADDING)
    read_padded(tmp_path, text + " " * (defines.PADDING_MAX_NBYTES - len(text)))


@pytest.mark.parametrize("count", [defines.PADDING_MAX_LENGTHS, defines.PADDING_MAX_LENGTHS + 1])
def test_a_model_has_so_many_lengths(tmp_path: Path, count: int) -> None:
    dims = ", ".join(["-1"] * count)
    text = f"""
        backend: "onnxruntime" max_batch_size: 8 dynamic_batching {{ }}
        input {{ name: "X" data_type: TYPE_FP32 dims: [ {dims} ] }}
        output {{ name: "Y" data_type: TYPE_FP32 dims: [ 1 ] }}
    """
    model = ModelIO((TensorInfo("X", FP32, (-1,) * (count + 1)),), (TensorInfo("Y", FP32, (-1, 1)),))
    value = {"inputs": {"X": [f"l{i}" for i in range(count)]}}
    if count == defines.PADDING_MAX_LENGTHS:
        read_padded(tmp_path, value, text, model)
    else:
        with pytest.raises(InvalidArg, match="has more than 8 lengths"):
            read_padded(tmp_path, value, text, model)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("max_batch_size: 8", "max_batch_size: 0", "needs 'max_batch_size' above 0"),
        ("dynamic_batching { }", "sequence_batching { }", "can not be used with 'sequence_batching'"),
        ('{ name: "kinds"', '{ allow_ragged_batch: true name: "kinds"', "can not be used beside 'allow_ragged_batch'"),
        ("TYPE_INT64 dims: [ -1 ] }, {", "TYPE_STRING dims: [ -1 ] }, {", "is TYPE_STRING, which can not be padded"),
        ("TYPE_INT64 dims: [ -1 ] }, {", "TYPE_INT64 dims: [ -1 ] reshape { shape: [ -1, 1 ] } }, {",
         "can not be padded and have 'reshape'"),
        ('{ name: "ids"', '{ optional: true name: "ids"', "length 'length' is only that of 'optional' inputs"),
    ],
)  # fmt: skip
def test_a_model_that_can_not_be_padded_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = PADDED.replace(old, new)
    if "optional" in new:
        text = text.replace('{ name: "kinds"', '{ optional: true name: "kinds"')
    with pytest.raises(InvalidArg) as raised:
        read_padded(tmp_path, text=text)
    assert words in raised.value.message


def test_padding_without_anything_to_pad_for_is_refused(tmp_path: Path) -> None:
    text = PADDED.replace("dynamic_batching { }", "")
    read_padded(tmp_path, text=text)  # it has buckets
    value = {key: entry for key, entry in PADDING.items() if key != "buckets"}
    with pytest.raises(InvalidArg, match="has nothing to do without 'dynamic_batching' or 'buckets'"):
        read_padded(tmp_path, value, text)


def test_what_tells_of_rows_needs_rows(tmp_path: Path) -> None:
    text = RAGGED.replace("max_batch_size: 8", "max_batch_size: 0")
    model = ModelIO(RAGGED_MODEL.inputs, (TensorInfo("Y", FP32, (-1,)),))
    read(tmp_path, text + COUNT, model)
    with pytest.raises(InvalidArg, match=r"'BATCH_ITEM_SHAPE' tells of rows, which there are none of with 'max_b"):
        read(tmp_path, text + COUNT.replace("ELEMENT_COUNT", "ITEM_SHAPE"), model)
