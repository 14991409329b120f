"""Responses into infer bodies: field order, JSON values, binary parts, classification, control bodies."""

from __future__ import annotations

import base64
import json
import math

import numpy as np
import pytest
from http_bodies import JSON_TYPES, SHAPES, answer, body, decode, encode, entry, sample, signature

from triton_async import datatypes
from triton_async.errors import InternalError, InvalidArg
from triton_async.infer.response import InferResponse
from triton_async.infer.tensor import encode_bytes, from_numpy, make
from triton_async.protocol.http_codec import encode_infer
from triton_async.protocol.http_control import parse_cuda_region, parse_index, parse_load, parse_unload, statistics_body

PLAIN = decode(body())
BINARY = decode(body(parameters={"binary_data_output": True}))


def classes(count: int, binary: bool = False):  # type: ignore[no-untyped-def]
    parameters = {"classification": count, "binary_data": binary}
    return decode(body(outputs=[{"name": "OUTPUT0", "parameters": parameters}]))


@pytest.mark.parametrize("name", JSON_TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_come_back_as_they_went(name: str, shape: tuple[int, ...]) -> None:
    array = sample(name, shape, seed=1)
    head, parts, length, kind = encode(PLAIN, array)
    assert (parts, length, kind) == (b"", None, "application/json")
    output = head["outputs"][0]
    assert output["shape"] == list(shape)
    assert output["data"] == array.astype(np.float64 if name == "FP32" else array.dtype).reshape(-1).tolist()
    again = decode(body(entry(name, list(shape), data=output["data"]))).inputs[0]
    assert np.array_equal(again.numpy(), array)


@pytest.mark.parametrize("count", [3, 300])
def test_floats_are_printed_as_doubles_and_tokens(count: int) -> None:
    values = np.full(count, 0.1, np.float32)
    head, *_ = encode_infer(PLAIN, answer(PLAIN, values), signature())
    assert b'"data":[0.10000000149011612,0.10000000149011612,' in head
    for kind in (np.float32, np.float64):
        odd = np.array([np.nan, np.inf, -np.inf, *[1.5] * count], kind)
        head, *_ = encode_infer(PLAIN, answer(PLAIN, odd), signature())
        assert b'"data":[NaN,Infinity,-Infinity,1.5,' in head
        again = json.loads(head)["outputs"][0]["data"]
        assert math.isnan(again[0])
        assert again[1:3] == [math.inf, -math.inf]


def test_binary_outputs_are_views_behind_the_header() -> None:
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    response = answer(BINARY, array)
    head, parts, length, kind = encode_infer(BINARY, response, signature())
    assert parts == [response.outputs[0]]
    assert bytes(parts[0]) == array.tobytes()
    assert (length, kind) == (len(head), "application/octet-stream")
    assert json.loads(head)["outputs"] == [
        {"name": "OUTPUT0", "datatype": "INT64", "shape": [2, 3], "parameters": {"binary_data_size": 48}}
    ]


def test_a_header_with_empty_binary_outputs_only_has_no_length() -> None:
    head, parts, length, kind = encode(BINARY, np.zeros((0, 3), np.float32))
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 0}
    assert (parts, length, kind) == (b"", None, "application/json")


def test_members_come_in_tritons_order() -> None:
    request = decode(body(id='4"2'))
    response = answer(request, np.zeros(1, np.uint8), parameters={"sequence_id": 3, "s": "x", "b": True})
    head, *_ = encode_infer(request, response, signature())
    assert head == (
        b'{"id":"4\\"2","model_name":"m","model_version":"3","parameters":{"sequence_id":3,"s":"x","b":true},'
        b'"outputs":[{"name":"OUTPUT0","datatype":"UINT8","shape":[1],"data":[0]}]}'
    )


def test_form_follows_each_requested_output() -> None:
    request = decode(body(
        parameters={"binary_data_output": True},
        outputs=[{"name": "B", "parameters": {"binary_data": True}}, {"name": "A"}],
    ))  # fmt: skip
    response = InferResponse(request, "m", 3, [
        from_numpy("A", np.array([1], np.int8)), from_numpy("B", np.array([2], np.int8)),
    ])  # fmt: skip
    head, parts, _, _ = encode_infer(request, response, signature())
    outputs = json.loads(head)["outputs"]
    assert [(o["name"], o.get("data"), o.get("parameters")) for o in outputs] == [
        ("A", [1], None), ("B", None, {"binary_data_size": 1}),
    ]  # fmt: skip
    assert b"".join(parts) == b"\x02"


def test_strings() -> None:
    head, *_ = encode(PLAIN, np.array([["abc", ""], ["grüß", "a\0\n"]], object))
    assert head["outputs"][0]["data"] == ["abc", "", "grüß", "a\0\n"]
    with pytest.raises(InvalidArg, match="not valid UTF-8"):
        encode(PLAIN, np.array([b"\xff\xfe"], object))
    assert encode(BINARY, np.array([b"\xff\xfe"], object))[1] == encode_bytes([b"\xff\xfe"])


@pytest.mark.parametrize("name", ["FP16", "BF16"])
def test_half_floats_only_travel_in_binary_form(name: str) -> None:
    array = np.zeros(2, np.uint16)
    with pytest.raises(InvalidArg) as caught:
        encode(PLAIN, array, name)
    assert caught.value.message == (
        f"sending {name} data via JSON is not supported. Please use the binary data format for output"
    )
    assert encode(BINARY, array, name)[1] == bytes(4)


@pytest.mark.parametrize("name", ["FP32", "BYTES", "BOOL"])
def test_an_output_that_does_not_fill_its_shape_is_an_internal_error(name: str) -> None:
    tensor = make("OUTPUT0", datatypes.from_name(name), (7,), encode_bytes([b"x"]))
    with pytest.raises(InternalError, match="output tensor shape does not match size of output for 'OUTPUT0'"):
        encode_infer(PLAIN, InferResponse(PLAIN, "m", 3, [tensor]), signature())


def test_any_byte_that_is_not_zero_is_true() -> None:
    tensor = make("OUTPUT0", datatypes.from_name("BOOL"), (3,), b"\x00\x01\xff")
    head, *_ = encode_infer(PLAIN, InferResponse(PLAIN, "m", 3, [tensor]), signature())
    assert json.loads(head)["outputs"][0]["data"] == [False, True, True]


# -- classification --------------------------------------------------------------------------------

def test_classes_are_score_index_label_highest_first() -> None:
    scores = np.array([[0.5, 2.25, -1.0, 2.5, 1e10]], np.float32)
    model = signature("FP32", (5,), 4, labels=("zero", "one", "two", "", "four"))
    head, *_ = encode(classes(3), scores, model=model)
    assert head["outputs"] == [{
        "name": "OUTPUT0", "datatype": "BYTES", "shape": [1, 3],
        "data": ["10000000000.000000:4:four", "2.500000:3", "2.250000:1:one"],
    }]  # fmt: skip


def test_classes_per_row_of_a_batch_or_over_everything() -> None:
    scores = np.array([[1, 4], [3, 2]], np.int32)
    assert encode(classes(1), scores, model=signature("INT32", (2,), 4))[0]["outputs"][0] == {
        "name": "OUTPUT0", "datatype": "BYTES", "shape": [2, 1], "data": ["4:1", "3:0"],
    }  # fmt: skip
    assert encode(classes(9), scores)[0]["outputs"][0] == {
        "name": "OUTPUT0", "datatype": "BYTES", "shape": [4], "data": ["4:1", "3:2", "2:3", "1:0"],
    }  # fmt: skip


def test_classes_in_binary_form() -> None:
    head, parts, length, _ = encode(classes(2, True), np.array([1, 2], np.uint8))
    assert parts == encode_bytes(["2:1", "1:0"])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": len(parts)}
    assert length is not None


@pytest.mark.parametrize("name", [name for name in JSON_TYPES if name != "BOOL"])
def test_the_highest_classes_are_those_of_a_full_stable_sort(name: str) -> None:
    scores = sample(name, (997,), seed=3)
    scores[100:200] = scores[5]  # ties
    for wanted in (1, 7, 240, 997):
        head, *_ = encode(classes(wanted), scores)
        found = [int(text.split(":")[1]) for text in head["outputs"][0]["data"]]
        expected = sorted(range(997), key=lambda i: (-scores[i].item(), i))[:wanted]
        assert found == expected


def test_scores_that_are_not_finite() -> None:
    scores = np.array([np.nan, 1, np.inf, -np.inf, *[0.0] * 20], np.float64)
    for wanted in (2, 24):
        head, *_ = encode(classes(wanted), scores)
        assert head["outputs"][0]["data"][:2] == ["inf:2", "1.000000:1"]
    assert head["outputs"][0]["data"][-2:] == ["-inf:3", "nan:0"]


@pytest.mark.parametrize("name", ["BYTES", "BOOL", "FP16", "BF16"])
def test_types_without_classes(name: str) -> None:
    array = np.array([b"x"], object) if name == "BYTES" else np.zeros(1, np.bool_ if name == "BOOL" else np.uint16)
    with pytest.raises(InvalidArg) as caught:
        encode(classes(1), array, None if name in ("BYTES", "BOOL") else name)
    assert caught.value.message == f"class result not available for output due to unsupported type '{name}'"


def test_empty_outputs_have_no_classes() -> None:
    for shape, dims in (((0,), [0]), ((0, 3), [0, 0]), ((2, 0), [2, 0])):
        model = signature("FP32", (-1,), 8 if len(shape) > 1 else 0)
        assert encode(classes(3), np.zeros(shape, np.float32), model=model)[0]["outputs"][0]["shape"] == dims


def test_the_number_of_class_strings_is_bounded() -> None:
    with pytest.raises(InvalidArg, match=r"^classification output tensor too large$"):
        encode(classes(1), np.zeros(1_000_001, np.int8))
    assert len(encode(classes(1), np.zeros(1_000_000, np.int8))[0]["outputs"][0]["data"]) == 1
    with pytest.raises(InvalidArg, match="gives 1200000 strings, at most 1000000"):
        encode(classes(600_000), np.zeros((2, 600_000), np.int8), model=signature("INT8", (-1,), 8))


# -- control bodies --------------------------------------------------------------------------------

def test_repository_requests() -> None:
    assert [parse_index(text) for text in (b"", b"{}", b"[]", b'{"ready":true}')] == [False, False, False, True]
    assert parse_unload(b'{"parameters":{"unload_dependents":true}}')
    assert not parse_unload(b"")
    assert parse_load(b"") == parse_load(b"{}") == {}
    assert parse_load(b'{"parameters":{"config":"{}","file:1/model.onnx":"aGk="}}') == {
        "config": "{}", "file:1/model.onnx": b"hi",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_index, b"{", "failed to parse the request JSON buffer: Missing a name for object member. at 1"),
        (parse_load, b"{", "failed to parse the request JSON buffer: Missing a name for object member. at 1"),
        (parse_load, b'{"parameters":[]}', "attempt to get members for non-object"),
        (parse_load, b'{"parameters":{"config":{}}}', "attempt to access JSON non-string as string"),
        (parse_load, b'{"parameters":{"other":"x"}}', "unexpected error on creating Triton parameter"),
        (parse_unload, b'{"parameters":{"unload_dependents":1}}',
         "Unable to parse 'unload_dependents': attempt to access JSON non-boolean as boolean"),
    ],
)  # fmt: skip
def test_broken_repository_requests(parse, text: bytes, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidArg) as caught:
        parse(text)
    assert caught.value.message == message


def test_a_file_that_is_not_base64_is_refused() -> None:
    with pytest.raises(InvalidArg, match="load parameter 'file:x' is not valid base64"):
        parse_load(b'{"parameters":{"file:x":"a*b"}}')


@pytest.mark.parametrize("nbytes", [0, 63, 64, 65])
def test_an_ipc_handle_has_one_length(nbytes: int) -> None:
    handle = base64.b64encode(bytes(nbytes)).decode()
    body = json.dumps({"raw_handle": {"b64": handle}, "device_id": 0, "byte_size": 8}).encode()
    if nbytes == 64:
        assert parse_cuda_region(body) == (bytes(64), 0, 8)
        return
    with pytest.raises(InvalidArg, match="'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t"):
        parse_cuda_region(body)


@pytest.mark.parametrize("parse", [parse_index, parse_load, parse_unload])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_repository_requests_are_refused(parse, opening: str) -> None:  # type: ignore[no-untyped-def]
    for depth in (99, 101, 1_000, 1_025):
        text = (opening * depth + "1" + ("]" if opening == "[" else "}") * depth).encode()
        try:
            assert not parse(text)
        except InvalidArg as error:
            assert depth > (1000 if parse is parse_load else 100)
            assert error.message == "JSON nesting depth exceeds maximum allowed limit (100)"


def test_statistics_body() -> None:
    assert statistics_body([{"name": "m"}]) == b'{"model_stats":[{"name":"m"}]}'
