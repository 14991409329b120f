"""Answers as bytes and back: the same answer, or none."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triton_async.core.answers_kept import decode_answer, encode_answer
from triton_async.datatypes import from_name
from triton_async.infer.request import InferRequest, RequestedOutput
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy, make

KEY = bytes(range(16))
MOST = 1 << 20
SIGNATURE = ModelSignature(
    "m", 1, [TensorSpec("X", from_name("FP32"), (-1,))],
    [
        TensorSpec("F", from_name("FP32"), (-1,)), TensorSpec("S", from_name("BYTES"), (-1,)),
        TensorSpec("B", from_name("BOOL"), ()),
    ],
    0,
)  # fmt: skip
PARAMETERS = st.none() | st.dictionaries(
    st.text(max_size=4),
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    max_size=3,
)


def answer(numbers: list[float], texts: list[bytes], parameters: Any = None) -> InferResponse:
    outputs = [
        from_numpy("F", np.array(numbers, np.float32)),
        from_numpy("S", np.array(texts, np.object_).reshape(len(texts))),
        from_numpy("B", np.array(True)),
    ]
    return InferResponse(None, "m", 1, outputs, parameters)


def request(*outputs: str) -> InferRequest:
    return InferRequest("m", outputs=[RequestedOutput(name) for name in outputs])


def checked(value: bytes) -> bytes:
    """With the checksum that belongs to it."""
    return value[:4] + zlib.crc32(value[8:]).to_bytes(4, "little") + value[8:]


@given(
    st.lists(st.floats(width=32, allow_nan=False), max_size=5), st.lists(st.binary(max_size=9), max_size=5), PARAMETERS
)
def test_what_was_written_is_read(numbers: list[float], texts: list[bytes], parameters: Any) -> None:
    value = encode_answer(KEY, answer(numbers, texts, parameters), MOST)
    assert value is not None
    read = decode_answer(value, KEY, request(), SIGNATURE)
    assert read is not None
    assert read.parameters == parameters
    assert [output.name for output in read.outputs] == ["F", "S", "B"]
    assert read.outputs[0].numpy().tolist() == numbers
    assert read.outputs[1].numpy().tolist() == texts
    assert read.outputs[2].numpy().tolist() is True


VALUE = encode_answer(KEY, answer([1, 2], [b"ab", b""], {"a": 1, "b": "x"}), MOST)
assert VALUE is not None
GOOD: bytes = VALUE


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(at: int, change: int) -> None:
    value = bytearray(GOOD)
    value[at] ^= change
    assert decode_answer(bytes(value), KEY, request(), SIGNATURE) is None


@given(st.integers(8, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_under_a_right_checksum_does_no_harm(at: int, change: int) -> None:
    """Whoever may write there may give other answers, but none that are no tensors of the model."""
    value = bytearray(GOOD)
    value[at] ^= change
    read = decode_answer(checked(bytes(value)), KEY, request(), SIGNATURE)
    if read is not None:
        for output in read.outputs:
            assert output.numpy().shape == output.shape


@given(st.binary(max_size=200))
def test_other_bytes_are_no_answer(value: bytes) -> None:
    assert decode_answer(value, KEY, request(), SIGNATURE) is None
    assert decode_answer(checked(GOOD[:28] + value), KEY, request(), SIGNATURE) is None


@given(st.integers(0, len(GOOD) - 1))
def test_what_is_cut_is_no_answer(length: int) -> None:
    assert decode_answer(GOOD[:length], KEY, request(), SIGNATURE) is None
    assert decode_answer(checked(GOOD[:length]), KEY, request(), SIGNATURE) is None


def test_an_answer_belongs_to_its_key_its_outputs_and_its_model() -> None:
    assert decode_answer(GOOD, KEY, request("F", "S", "B"), SIGNATURE) is not None
    assert decode_answer(GOOD, KEY, request("F", "S"), SIGNATURE) is None
    assert decode_answer(GOOD, KEY[::-1], request(), SIGNATURE) is None
    assert decode_answer(checked(GOOD + b"\0"), KEY, request(), SIGNATURE) is None
    other = ModelSignature("m", 1, [], [TensorSpec(name, from_name("INT32"), (-1,)) for name in "FSB"], 0)
    assert decode_answer(GOOD, KEY, request(), other) is None


@pytest.mark.parametrize(
    "parameters", [{"a": 2**63}, {"a": [1]}, {"a" * 70000: 1}, {str(number): 1 for number in range(65535)}]
)
def test_what_has_no_form_is_not_written(parameters: Any) -> None:
    assert encode_answer(KEY, answer([], [], parameters), MOST) is None


def test_what_is_too_large_is_not_written() -> None:
    response = InferResponse(None, "m", 1, [make("F", from_name("FP32"), (4,), bytes(16))])
    value = encode_answer(KEY, response, MOST)
    assert value is not None
    assert encode_answer(KEY, response, len(value)) == value
    assert encode_answer(KEY, response, len(value) - 1) is None
    assert len(value) % 16 == 0
