"""Infer bodies into requests: JSON, binary, raw, and Triton's refusals."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from http_bodies import JSON_TYPES, SHAPES, body, decode, entry, sample, signature

from triton_async import datatypes
from triton_async.errors import InternalError, InvalidArg, NotFound, ServerError
from triton_async.infer.tensor import encode_bytes
from triton_async.memory.buffer import live_buffers, wrap

NO_MEMBER = "attempt to access non-existing object member"
NO_UINT = "attempt to access JSON non-unsigned-integer as unsigned-integer"
NO_INT = "attempt to access JSON non-signed-integer as signed-integer"
NOT_THE_SHAPE = "Unable to parse 'data': Shape does not match true shape of 'data' field"
ONLY_ONE = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
    "'shared_memory_region' in 'parameters'. But"
)


def refuse(text: bytes, kind: type[ServerError], message: str, **more: Any) -> None:
    with pytest.raises(ServerError) as caught:
        decode(text, **more)
    assert (type(caught.value), caught.value.message) == (kind, message)


@pytest.mark.parametrize("name", JSON_TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_json_values_nested_or_flat_become_the_tensor(name: str, shape: tuple[int, ...]) -> None:
    array = sample(name, shape)
    forms = [array.reshape(-1).tolist()]
    if shape:
        forms.append(array.tolist())
    for data in forms:
        tensor = decode(body(entry(name, list(shape), data=data))).inputs[0]
        assert tensor.shape == shape
        assert tensor.datatype == datatypes.from_name(name)
        assert np.array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("name", [*JSON_TYPES, "FP16", "BF16", "BYTES"])
@pytest.mark.parametrize("shape", SHAPES)
def test_binary_tensors_are_views_of_the_body(name: str, shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape))
    raw = encode_bytes([b"x" * i for i in range(count)]) if name == "BYTES" else bytes(
        i % 251 for i in range(count * datatypes.element_size(datatypes.from_name(name)))
    )  # fmt: skip
    head = body(entry(name, list(shape), parameters={"binary_data_size": len(raw)}))
    text = bytearray(head + raw)
    tensor = decode(text, len(head)).inputs[0]
    assert bytes(tensor) == raw
    assert tensor.shape == shape
    if raw:
        with pytest.raises(BufferError):  # the tensor holds the body
            text.append(0)
        text[len(head)] ^= 0xFF
        assert bytes(tensor)[0] == raw[0] ^ 0xFF


def test_several_inputs_take_the_body_in_their_order() -> None:
    first, second = np.arange(4, dtype=np.int32), np.arange(3, dtype=np.float64)
    head = body(
        {"name": "A", "datatype": "INT32", "shape": [4], "parameters": {"binary_data_size": 16}},
        {"name": "B", "datatype": "INT32", "shape": [2], "data": [5, 6]},
        {"name": "C", "datatype": "FP64", "shape": [3], "parameters": {"binary_data_size": 24}},
    )
    request = decode(head + first.tobytes() + second.tobytes(), len(head))
    assert [tensor.name for tensor in request.inputs] == ["A", "B", "C"]
    assert [tensor.numpy().tolist() for tensor in request.inputs] == [[0, 1, 2, 3], [5, 6], [0.0, 1.0, 2.0]]
    assert request.received_ns == 5


def test_strings_are_framed() -> None:
    data = ["abc", "", "grüß", "a\0b", "\n\"\\"]
    for form in (data, [[item] for item in data]):
        tensor = decode(body(entry("BYTES", [5, 1] if form is not data else [5], data=form))).inputs[0]
        assert bytes(tensor) == encode_bytes(data)


def test_what_is_not_finite_is_taken_as_json_tokens() -> None:
    text = b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[5],"data":[NaN,Inf,-Inf,Infinity,-Infinity]}]}'
    values = decode(text).inputs[0].numpy()
    assert np.isnan(values[0])
    assert values[1:].tolist() == [np.inf, -np.inf, np.inf, -np.inf]


# -- strict values ---------------------------------------------------------------------------------

EDGES = [-(2**63) - 1, -(2**63), -(2**31) - 1, -(2**31), -(2**15) - 1, -(2**15), -129, -128, -1, 0, 1, 127, 128,
         255, 256, 2**15 - 1, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1,
         2**63, 2**64 - 1, 2**64]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in JSON_TYPES if "INT" in name])
def test_integers_are_stored_exactly_or_refused(name: str) -> None:
    limits = np.iinfo(JSON_TYPES[name])
    signed = limits.min < 0
    for value in EDGES:
        text = body(entry(name, [1], data=[value]))
        if limits.min <= value <= limits.max:
            assert decode(text).inputs[0].numpy().tolist() == [value]
        elif (signed and -(2**63) <= value < 2**63) or (not signed and 0 <= value < 2**64):
            refuse(text, InvalidArg, f"Unable to parse 'data': value {value} of input 'INPUT0' is out of range for "
                                     f"{name}")  # fmt: skip
        else:
            refuse(text, InvalidArg, f"Unable to parse 'data': {NO_INT if signed else NO_UINT}")


WRONG = {
    '"1"', "true", "null", "1.5", "7.0", "1.0", "0.0", "-0.0", "1", "9007199254740992.0", "9007199254740994.0", "1e3",
    "{}", "-1", "3", '"x"', "1e400", "-0",
}  # fmt: skip
# Clients that have only one kind of number send whole ones so; beyond 2^53 it may be another one than was meant.
WHOLE = {"7.0", "1.0", "0.0", "-0.0"}


@pytest.mark.parametrize(("name", "token"), list(itertools.product(JSON_TYPES, sorted(WRONG))))
def test_every_type_takes_only_its_own_values(name: str, token: str) -> None:
    text = b'{"inputs":[{"name":"INPUT0","datatype":"%s","shape":[1],"data":[%s]}]}' % (name.encode(), token.encode())
    if name == "BOOL":
        good, reason = {"true", "1.0", "0.0", "-0.0", "1", "-0"}, "attempt to access JSON non-boolean as boolean"
    elif name.startswith("FP"):
        good = WRONG - {'"1"', "true", "null", "{}", '"x"', "1e400"}
        reason = "attempt to access JSON non-number as double"
    elif name.startswith("U"):
        good, reason = {"3", "1", "-0"} | WHOLE, NO_UINT
    else:
        good, reason = {"-1", "3", "1", "-0"} | WHOLE, NO_INT
    if name in ("INT64", "UINT64"):
        good |= {"1e3", "9007199254740992.0"}
    elif "INT" in name and token == "9007199254740992.0":
        reason = f"value 9007199254740992 of input 'INPUT0' is out of range for {name}"
    elif "INT" in name and token == "1e3":
        good |= set() if name.endswith("INT8") else {"1e3"}
        reason = f"value 1000 of input 'INPUT0' is out of range for {name}"
    if token in good:
        expected = np.array([json.loads(token)], JSON_TYPES[name])
        assert decode(text).inputs[0].numpy().tolist() == expected.tolist()
    elif token == "1e400":
        refuse(text, InvalidArg, "failed to parse the request JSON buffer: Number too big to be stored in double. "
                                    f"at {text.index(b'1e400')}")  # fmt: skip
    else:
        refuse(text, InvalidArg, f"Unable to parse 'data': {reason}")


def test_a_double_too_large_for_a_float_is_refused() -> None:
    assert decode(body(entry("FP32", [1], data=[3.4028235e38]))).inputs[0].numpy()[0] == np.float32(3.4028235e38)
    refuse(body(entry("FP32", [1], data=[1e39])), InvalidArg,
           "Unable to parse 'data': value 1e+39 of input 'INPUT0' is out of range for FP32")  # fmt: skip
    assert decode(body(entry("FP64", [1], data=[2**53 + 1]))).inputs[0].numpy()[0] == float(2**53 + 1)


@pytest.mark.parametrize("shape", [[2, 3], [1, 6], [6, 1], [1, 2, 3]])
def test_nesting_is_that_of_the_shape_or_flat(shape: list[int]) -> None:
    values = list(range(6))
    nestings = {
        (6,): values, (2, 3): [values[:3], values[3:]], (1, 6): [values], (6, 1): [[v] for v in values],
        (1, 2, 3): [[values[:3], values[3:]]], (3, 2): [values[:2], values[2:4], values[4:]],
        (0,): [values[:1], values[1:]], (-1,): [0, [1, 2, 3, 4, 5]], (-2,): [[0, 1, 2], 3, 4, 5],
        (-3,): [values, []],
    }  # fmt: skip
    for nesting, data in nestings.items():
        text = body(entry("INT32", shape, data=data))
        if nesting in ((6,), tuple(shape), (6, 1) if shape == [6] else ()):
            assert decode(text).inputs[0].numpy().reshape(-1).tolist() == values
        else:
            dims = ",".join(map(str, shape))
            refuse(text, InvalidArg, "Unable to parse 'data': the nesting of 'data' of input 'INPUT0' is neither "
                                     f"flat nor that of its shape [{dims}]")  # fmt: skip


@pytest.mark.parametrize("data", [
    [[1], [2]], [[[1]], [[2]]], [[1], 2], [[[[[1]]]], [[2]]], [1, 2],
])  # fmt: skip
def test_lists_around_single_elements_say_nothing(data: list[Any]) -> None:
    assert decode(body(entry("INT32", [2], data=data))).inputs[0].numpy().tolist() == [1, 2]


@pytest.mark.parametrize("data", [[[1, 2]], [[[1, 2]]], [[1, 2], []], [[[1], [2]]]])
def test_lists_around_several_elements_are_another_shape(data: list[Any]) -> None:
    refuse(body(entry("INT32", [2], data=data)), InvalidArg, "Unable to parse 'data': the nesting of 'data' of input "
           "'INPUT0' is neither flat nor that of its shape [2]")  # fmt: skip


def test_members_that_are_null_are_left_out() -> None:
    """As code generators write them."""
    given = {**entry("INT32", [2], data=[7, 8]), "parameters": None}
    request = decode(body(given, id=None, parameters=None, outputs=None))
    assert (request.id, request.parameters, request.outputs) == ("", None, [])
    assert request.inputs[0].numpy().tolist() == [7, 8]
    outputs = [{"name": "OUTPUT0", "parameters": None}, {"name": "b", "parameters": {"classification": None}}]
    request = decode(body(given, parameters={"priority": None, "x": None, "y": 1}, outputs=outputs))
    assert (request.priority, request.parameters) == (0, {"y": 1})
    assert [(output.name, output.classification) for output in request.outputs] == [("OUTPUT0", 0), ("b", 0)]
    empty = {"name": "INPUT0", "datatype": "INT32", "shape": [0], "data": None, "parameters": {"binary_data_size": 0}}
    assert decode(body(empty)).inputs[0].nbytes == 0
    refuse(body({**given, "data": [7, None]}), InvalidArg, f"Unable to parse 'data': {NO_INT}")


@pytest.mark.parametrize("data", [[], [7], [7, 8, 9], [[], []], [[7]]])
def test_too_few_and_too_many_values(data: list[Any]) -> None:
    refuse(body(entry("INT32", [2], data=data)), InvalidArg, NOT_THE_SHAPE)


def test_values_for_an_empty_shape_are_refused() -> None:
    refuse(body(entry("INT32", [0], data=[1])), InvalidArg, NOT_THE_SHAPE)


@pytest.mark.parametrize("data", [7, {}, "text", True])
def test_data_is_an_array(data: Any) -> None:
    refuse(body(entry("INT32", [2], data=data)), InvalidArg,
           "Unable to parse 'data': attempt to access JSON non-array as array")  # fmt: skip


@pytest.mark.parametrize("depth", [99, 100, 101, 1_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_data_is_refused(depth: int, opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    data = "[" + opening * (depth - 1) + "7" + closing * (depth - 1) + "]"
    text = b'{"inputs":[{"name":"INPUT0","datatype":"INT32","shape":[1],"data":%s}]}' % data.encode()
    if depth <= 100 and opening == "[":
        assert decode(text).inputs[0].numpy().tolist() == [7]
        return
    with pytest.raises(ServerError) as caught:
        decode(text)
    if opening == "[":
        assert isinstance(caught.value, InvalidArg)
        assert caught.value.message == (
            "Unable to parse 'data': JSON nesting depth exceeds maximum allowed limit (100)"
        )


# -- members ---------------------------------------------------------------------------------------

MEMBERS: dict[str, tuple[dict[str, Any], type[ServerError], str]] = {
    "no name": ({"name": ...}, InvalidArg, f"Unable to parse 'name': {NO_MEMBER} 'name'"),
    "no datatype": ({"datatype": ...}, InvalidArg, f"Unable to parse 'datatype': {NO_MEMBER} 'datatype'"),
    "no shape": ({"shape": ...}, InvalidArg, f"Unable to parse 'shape': {NO_MEMBER} 'shape'"),
    "no data": ({"data": ...}, InvalidArg, f"{ONLY_ONE} no field is set"),
    "name": ({"name": 5}, InvalidArg, "Unable to parse 'name': attempt to access JSON non-string as string"),
    "datatype": ({"datatype": 5}, InvalidArg,
                 "Unable to parse 'datatype': attempt to access JSON non-string as string"),
    "unknown datatype": ({"datatype": "INT33"}, InvalidArg, "invalid datatype for input INPUT0"),
    "config datatype": ({"datatype": "TYPE_INT32"}, InvalidArg, "invalid datatype for input INPUT0"),
    "shape": ({"shape": 2}, InvalidArg, "Unable to parse 'shape': attempt to access JSON non-array as array"),
    "negative dim": ({"shape": [-1]}, InternalError, f"Unable to parse 'shape': {NO_UINT}"),
    "float dim": ({"shape": [2.0]}, InternalError, f"Unable to parse 'shape': {NO_UINT}"),
    "text dim": ({"shape": ["2"]}, InternalError, f"Unable to parse 'shape': {NO_UINT}"),
    "bool dim": ({"shape": [True]}, InternalError, f"Unable to parse 'shape': {NO_UINT}"),
    "null dim": ({"shape": [None]}, InternalError, f"Unable to parse 'shape': {NO_UINT}"),
    "2^64 dim": ({"shape": [2**64]}, InternalError, f"Unable to parse 'shape': {NO_UINT}"),
    "2^63 dim": ({"shape": [2**63]}, InvalidArg,
                 "invalid shape for input 'INPUT0': shape [9223372036854775808] causes total element count to exceed "
                 "maximum size of 9223372036854775807"),
    "product": ({"shape": [2**62, 4]}, InvalidArg,
                "invalid shape for input 'INPUT0': shape [4611686018427387904,4] causes total element count to exceed "
                "maximum size of 9223372036854775807"),
    "bytes": ({"shape": [2**63 - 1]}, InvalidArg,
              "byte size overflow for input 'INPUT0': element count (9223372036854775807) * data type size (4) "
              "exceeds maximum allowed size (9223372036854775807)"),
    "limit": ({"shape": [2**24 + 1]}, InvalidArg,
              "JSON input 'INPUT0' has a byte_size (67108868 bytes) that exceeds the maximum allowed value of "
              "67108864 bytes. Use --http-max-input-size to increase the limit."),
    "rank": ({"shape": [1] * 17}, InvalidArg, "input 'INPUT0' has 17 dimensions, at most 16 are supported"),
    "FP16": ({"datatype": "FP16"}, InvalidArg, "receiving FP16 data via JSON is not supported. Please use the binary "
                                               "data format for input INPUT0"),
    "BF16": ({"datatype": "BF16"}, InvalidArg, "receiving BF16 data via JSON is not supported. Please use the binary "
                                               "data format for input INPUT0"),
    "strings": ({"datatype": "BYTES"}, InvalidArg,
                "Unable to parse JSON bytes array: attempt to access JSON non-string as string"),
    "data and binary": ({"parameters": {"binary_data_size": 8}}, InvalidArg,
                        f"{ONLY_ONE} set 'data' 'binary_data_size'"),
    "all three": ({"parameters": {"binary_data_size": 8, "shared_memory_region": "r"}}, InvalidArg,
                  f"{ONLY_ONE} set 'data' 'binary_data_size' 'shared_memory_region'"),
    "binary size": ({"data": ..., "parameters": {"binary_data_size": "8"}}, InvalidArg,
                    f"Unable to parse 'binary_data_size': {NO_UINT}"),
    "negative size": ({"data": ..., "parameters": {"binary_data_size": -8}}, InvalidArg,
                      f"Unable to parse 'binary_data_size': {NO_UINT}"),
    "binary missing": ({"data": ..., "parameters": {"binary_data_size": 8}}, InvalidArg,
                       "unexpected size for input 'INPUT0', expecting 8 additional bytes for model 'm'"),
    "binary huge": ({"data": ..., "parameters": {"binary_data_size": 2**64 - 1}}, InvalidArg,
                    f"unexpected size for input 'INPUT0', expecting {2**64 - 1} additional bytes for model 'm'"),
    "region": ({"data": ..., "parameters": {"shared_memory_region": "r"}}, NotFound,
               "Unable to find shared memory region: 'r'"),
    "region name": ({"data": ..., "parameters": {"shared_memory_region": 1}}, InvalidArg,
                    "Unable to parse 'shared_memory_region': attempt to access JSON non-string as string"),
    "region offset": ({"data": ..., "parameters": {"shared_memory_region": "r", "shared_memory_offset": -1}},
                      InvalidArg, f"Unable to parse 'shared_memory_offset': {NO_UINT}"),
}  # fmt: skip


@pytest.mark.parametrize("case", MEMBERS)
def test_members_of_an_input(case: str) -> None:
    members, kind, message = MEMBERS[case]
    whole = {**entry("INT32", [2], data=[7, 8]), **members}
    refuse(body({key: value for key, value in whole.items() if value is not ...}), kind, message)


DOCUMENTS: dict[str, tuple[type[ServerError], str]] = {
    "{}": (InvalidArg, f"Unable to parse 'inputs': {NO_MEMBER} 'inputs'"),
    "[]": (InvalidArg, f"Unable to parse 'inputs': {NO_MEMBER} 'inputs'"),
    "7": (InvalidArg, f"Unable to parse 'inputs': {NO_MEMBER} 'inputs'"),
    '{"inputs":null}': (InvalidArg, f"Unable to parse 'inputs': {NO_MEMBER} 'inputs'"),
    '{"inputs":{}}': (InvalidArg, "Unable to parse 'inputs': attempt to access JSON non-array as array"),
    '{"inputs":[1]}': (InvalidArg, f"{ONLY_ONE} no field is set"),
    '{"id":7,"inputs":[]}': (InvalidArg, "Unable to parse 'id': attempt to access JSON non-string as string"),
    '{"parameters":[1],"inputs":[]}': (
        InvalidArg, "failed to get request params.: attempt to get members for non-object",
    ),
    '{"outputs":{},"inputs":[]}': (
        InvalidArg, "Unable to parse 'outputs': attempt to access JSON non-array as array",
    ),
    '{"outputs":["x"],"inputs":[]}': (InvalidArg, f"Unable to parse 'name': {NO_MEMBER} 'name'"),
}  # fmt: skip


@pytest.mark.parametrize("text", DOCUMENTS)
def test_documents_of_another_form(text: str) -> None:
    refuse(text.encode(), *DOCUMENTS[text])


def test_the_number_of_tensors_is_bounded() -> None:
    refuse(body(*[entry("INT32", [0], data=[])] * 4097), InvalidArg,
           "[request id: <id_unknown>] request has 4097 inputs, at most 4096 are supported")  # fmt: skip
    refuse(body(id="7", outputs=[{"name": "x"}] * 4097), InvalidArg,
           "[request id: 7] request has 4097 outputs, at most 4096 are supported")  # fmt: skip


# -- parameters and outputs ------------------------------------------------------------------------

def test_parameters_of_the_request() -> None:
    request = decode(body(id="42", parameters={
        "sequence_id": 2**64 - 1, "sequence_start": True, "sequence_end": True, "priority": 3, "timeout": 100,
        "binary_data_output": True, "s": "x", "i": -3, "b": False, "d": 0.5, "headers": "h", "big": 2**63,
    }))  # fmt: skip
    assert request.id == "42"
    assert request.sequence_id == 2**64 - 1
    assert request.flags == 3
    assert (request.priority, request.timeout_us, request.binary_default) == (3, 100, True)
    assert request.parameters == {"s": "x", "i": -3, "b": False, "d": 0.5, "headers": "h", "big": float(2**63)}
    assert decode(body(parameters={"sequence_id": "abc"})).sequence_id == "abc"
    assert decode(body(parameters={})).parameters is None


PARAMETERS: dict[str, tuple[Any, type[ServerError], str]] = {
    "p": ([1], InvalidArg, "parameter 'p' has invalid type. It should be either 'int', 'bool', or 'string'."),
    "triton_x": (1, InvalidArg, "parameter keys starting with 'triton_' are reserved for Triton usage and should not "
                                "be specified."),
    "sequence_start": (1, InvalidArg,
                       "Unable to parse 'sequence_start': attempt to access JSON non-boolean as boolean"),
    "sequence_end": ("x", InvalidArg,
                     "Unable to parse 'sequence_end': attempt to access JSON non-boolean as boolean"),
    "sequence_id": (-1, InvalidArg, "Unable to parse 'sequence_id': attempt to access JSON non-string as string"),
    "priority": ("1", InvalidArg, f"Unable to parse 'priority': {NO_UINT}"),
    "timeout": (1.5, InvalidArg, f"Unable to parse 'timeout': {NO_UINT}"),
    "binary_data_output": ("yes", InvalidArg,
                           "Unable to parse 'binary_data_output': attempt to access JSON non-boolean as boolean"),
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_the_wrong_type(name: str) -> None:
    value, kind, message = PARAMETERS[name]
    refuse(body(parameters={name: value}), kind, message)


@pytest.mark.parametrize("name", ["priority", "timeout"])
@pytest.mark.parametrize("value", [-1, 2**64, 1e300, True, "1", 0.0])
def test_numeric_parameters_are_64_bit_unsigned(name: str, value: Any) -> None:
    refuse(body(parameters={name: value}), InvalidArg, f"Unable to parse '{name}': {NO_UINT}")


def test_requested_outputs() -> None:
    outputs = decode(body(outputs=[
        {"name": "a"},
        {"name": "b", "parameters": {"binary_data": True, "other": 1}},
        {"name": "c", "parameters": {"classification": 3}},
        {"name": "d", "parameters": {"classification": 2**64 - 1, "binary_data": False}},
    ])).outputs  # fmt: skip
    assert [(o.name, o.binary, o.classification) for o in outputs] == [
        ("a", False, 0), ("b", True, 0), ("c", False, 3), ("d", False, 2**63 - 1),
    ]  # fmt: skip


OUTPUTS: dict[str, tuple[dict[str, Any], type[ServerError], str]] = {
    "classification": ({"classification": "3"}, InvalidArg, f"Unable to set 'classification': {NO_UINT}"),
    "binary": ({"binary_data": 1}, InvalidArg,
               "Unable to parse 'binary_data': attempt to access JSON non-boolean as boolean"),
    "region": ({"shared_memory_region": "r"}, NotFound, "Unable to find shared memory region: 'r'"),
    "region and classes": ({"shared_memory_region": "r", "classification": 1}, InvalidArg,
                           "Output can't set both 'shared_memory_region' and 'classification'"),
    "region and binary": ({"shared_memory_region": "r", "binary_data": True}, InvalidArg,
                          "Output can't set both 'shared_memory_region' and 'binary_data'"),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTPUTS)
def test_refused_outputs(case: str) -> None:
    parameters, kind, message = OUTPUTS[case]
    refuse(body(outputs=[{"name": "x", "parameters": parameters}]), kind, message)


# -- body and header lengths -----------------------------------------------------------------------

def test_lengths_have_to_agree() -> None:
    head = body(entry("INT32", [2], parameters={"binary_data_size": 8}))
    refuse(
        head + bytes(7),
        InvalidArg,
        "unexpected size for input 'INPUT0', expecting 1 additional bytes for model 'm'",
        header_length=len(head),
    )
    refuse(head + bytes(9), InvalidArg, "unexpected additional input data for model 'm'", header_length=len(head))
    refuse(head, InvalidArg, "unexpected size for request JSON, expecting 5 more bytes", header_length=len(head) + 5)
    refuse(head + bytes(8), InvalidArg, "failed to parse the request JSON buffer: The document root must not be "
                                           f"followed by other values. at {len(head)}")  # fmt: skip


def test_limits_of_the_option() -> None:
    text = body(entry("INT32", [2], data=[7, 8]))
    decode(text, limit=len(text))
    refuse(text, InvalidArg, f"request JSON size of {len(text)} bytes exceeds the maximum allowed input size of "
                             f"{len(text) - 1} bytes. Use --http-max-input-size to increase the limit.",
           limit=len(text) - 1)  # fmt: skip
    strings = body(entry("BYTES", [40], data=[""] * 40))
    assert len(strings) > 160
    refuse(body(entry("FP64", [100], data=[0] * 100)), InvalidArg,
           "JSON input 'INPUT0' has a byte_size (800 bytes) that exceeds the maximum allowed value of 700 bytes. "
           "Use --http-max-input-size to increase the limit.", limit=700)  # fmt: skip
    refuse(bytes(11), InvalidArg, "Raw input has a byte_size (11 bytes) that exceeds the maximum allowed value of 10 "
                                  "bytes. Use --http-max-input-size to increase the limit.",
           header_length=0, limit=10)  # fmt: skip
    # Tensors behind the JSON header are not bound by it.
    head = body(entry("UINT8", [5000], parameters={"binary_data_size": 5000}))
    assert decode(head + bytes(5000), len(head), limit=len(head)).inputs[0].nbytes == 5000


# -- raw -------------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("dims", "batch", "shape"),
    [
        ((4,), 0, (4,)), ((2, 2), 0, (2, 2)), ((-1,), 0, (4,)), ((2, -1), 0, (2, 2)), ((4,), 8, (1, 4)),
        ((-1,), 8, (1, 4)),
    ],
)  # fmt: skip
def test_a_raw_body_is_the_one_input(dims: tuple[int, ...], batch: int, shape: tuple[int, ...]) -> None:
    array = np.arange(4, dtype=np.float32)
    model = signature("FP32", dims, batch)
    request = decode(array.tobytes(), 0, model)
    model.validate(request)
    assert request.inputs[0].shape == shape
    assert request.inputs[0].numpy().reshape(-1).tolist() == array.tolist()
    assert request.binary_default


def test_a_raw_string_gets_its_frame() -> None:
    for batch, shape in ((0, (1,)), (4, (1, 1))):
        model = signature("BYTES", (1,), batch)
        request = decode(b"hello", 0, model)
        model.validate(request)
        assert request.inputs[0].shape == shape
        assert bytes(request.inputs[0]) == encode_bytes([b"hello"])


def test_raw_bodies_that_cannot_be_deduced() -> None:
    prefix = "[request id: <id_unknown>] "
    cases = [
        (signature(inputs=2), f"{prefix}Raw request must only have 1 input (found 1) to be deduced but got 2 inputs "
                              "in 'm' model configuration"),
        (signature("FP32", (-1, -1)), f"{prefix}The shape of the raw input 'INPUT0' can not be deduced because there "
                                      "are more than one variable-sized dimension"),
        (signature("BYTES", (-1,)), f"{prefix}For BYTE datatype raw input 'INPUT0', the model must have input shape "
                                    "[1]"),
        (signature("FP32", (3,)), f"{prefix}input byte size mismatch for input 'raw_input' for model 'm'. Expected "
                                  "12, got 9"),
        (signature("FP32", (-1,)), f"{prefix}input byte size mismatch for input 'raw_input' for model 'm'. Expected "
                                   "8, got 9"),
    ]  # fmt: skip
    for model, message in cases:
        refuse(bytes(9), InvalidArg, message, header_length=0, model=model)


# -- life ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, wrap, lambda b: np.frombuffer(b, np.uint8)])
def test_a_body_is_any_buffer(form: Any) -> None:
    head = body(entry("INT32", [1], parameters={"binary_data_size": 4}))
    assert decode(form(head + b"\7\0\0\0"), len(head)).inputs[0].numpy().tolist() == [7]
    assert decode(form(body(entry("INT32", [1], data=[7])))).inputs[0].numpy().tolist() == [7]


def test_a_refused_body_is_let_go() -> None:
    before = live_buffers()
    head = body(entry("INT32", [2], parameters={"binary_data_size": 8}))
    text = bytearray(head + bytes(9))
    for _ in range(10):
        with pytest.raises(InvalidArg):
            decode(text, len(head))
    text.append(1)  # not held by anything
    assert live_buffers() == before


def test_every_cut_of_a_body_is_answered() -> None:
    head = body(entry("INT32", [2], parameters={"binary_data_size": 8}), id="é")
    text = head + bytes(8)
    for cut in range(len(text)):
        with pytest.raises(ServerError):
            decode(text[:cut], len(head))
        if cut < len(head):
            with pytest.raises(ServerError):
                decode(text, cut or -1)
