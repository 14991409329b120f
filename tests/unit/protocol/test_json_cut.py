"""JSON bodies without objects: numbers as they are meant, what nobody reads left out, and the bounds."""

from __future__ import annotations

import json
import math
import random
import struct
import tracemalloc

import numpy as np
import pytest
from http_bodies import body, decode, entry

from triton_async.defines import JSON_MAX_LEFT_NBYTES, MAX_PARAMETERS_PER_REQUEST
from triton_async.errors import InvalidArg
from triton_async.protocol import http_control
from triton_async.protocol.json_cut import cut_parameters

# Where rounding is hard: halves between doubles, the ends of the range, long digits.
HARD = (
    "9007199254740993", "9007199254740992.9999999999999999", "1.7976931348623157e308", "4.9406564584124654e-324",
    "2.2250738585072011e-308", "2.4703282292062327e-324", "0.1", "0.30000001192092896", "8.5e-23", "1e23", "-0.0",
    "1e-400",
    "7.2057594037927933e16", "1" * 400 + "e-390", "0." + "0" * 400 + "1e400", "123456789012345678901234567890",
)  # fmt: skip


def doubles(texts: list[str]) -> list[float]:
    text = body(entry("FP64", [len(texts)], data=[0])).replace(b"[0]", b"[" + ",".join(texts).encode() + b"]")
    found: list[float] = decode(text).inputs[0].numpy().tolist()
    return found


def test_numbers_are_rounded_as_everywhere() -> None:
    choose = random.Random(5)
    texts = list(HARD)
    for _ in range(20_000):
        (value,) = struct.unpack("d", choose.randbytes(8))
        if math.isfinite(value):
            texts.append(choose.choice([repr(value), f"{value:.17e}", f"{value:.6g}", f"{value:.3e}"]))
        whole, part = choose.randrange(10 ** choose.randrange(1, 22)), choose.randrange(10**6)
        texts.append(f"{whole}.{part}e{choose.randrange(-30, 30)}")
    texts = [text for text in texts if math.isfinite(float(text))]
    found = doubles(texts)
    for text, value in zip(texts, found, strict=True):
        assert value == float(text) and math.copysign(1, value) == math.copysign(1, float(text)), text


def test_what_is_not_finite_is_read_and_what_is_too_large_refused() -> None:
    assert np.isnan(doubles(["NaN"])[0])
    assert doubles(["-Infinity", "Inf"]) == [-math.inf, math.inf]
    for text in ("1e309", "-1e999999999999", "1" * 310):
        with pytest.raises(InvalidArg, match=r"Number too big to be stored in double. at \d+"):
            doubles(["1", text])


def test_long_values_and_what_nobody_reads_make_no_objects() -> None:
    count = 1_000_000
    text = body(entry("FP32", [count], data=[1.5] * count), unknown=[{}] * count, inputs2=[[1]] * count)
    tracemalloc.start()
    try:
        request = decode(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert request.inputs[0].nbytes == 4 * count
    assert peak < 4 * count + (1 << 16)


@pytest.mark.parametrize("member", ["id", "parameters", "name"])
def test_what_objects_are_made_of_is_bounded(member: str) -> None:
    def made(nbytes: int) -> bytes:
        name = "x" * nbytes if member == "name" else "INPUT0"
        more = {"id": "x" * nbytes, "parameters": {"p": "x" * nbytes}}
        return body({**entry("FP32", [1], data=[1]), "name": name}, **{member: more[member]} if member in more else {})

    room = JSON_MAX_LEFT_NBYTES - 1000
    assert decode(made(room))
    with pytest.raises(InvalidArg, match=f"has more than {JSON_MAX_LEFT_NBYTES} bytes beside the data"):
        decode(made(JSON_MAX_LEFT_NBYTES))


def test_parameters_are_counted_before_they_are_made() -> None:
    def made(count: int) -> bytes:
        return body(entry("FP32", [1], data=[1]), parameters={f"p{i}": i for i in range(count)})

    assert len(decode(made(MAX_PARAMETERS_PER_REQUEST)).parameters) == MAX_PARAMETERS_PER_REQUEST
    with pytest.raises(InvalidArg, match=f"request has 1000000 parameters, at most {MAX_PARAMETERS_PER_REQUEST}"):
        decode(made(1_000_000))


@pytest.mark.parametrize("name", ["data", "d\\u0061ta", "\\u0064\\u0061\\u0074\\u0061"])
def test_names_may_be_written_with_escapes(name: str) -> None:
    text = body(entry("INT32", [2], data=[7, 8])).replace(b'"data"', f'"{name}"'.encode())
    assert decode(text).inputs[0].numpy().tolist() == [7, 8]


def test_of_equal_names_the_last_one_counts() -> None:
    text = body(entry("INT32", [2], data=[7, 8])).replace(b'"data"', b'"data":[1,2,3],"data":"no","data"')
    assert decode(text).inputs[0].numpy().tolist() == [7, 8]


def test_files_of_a_load_are_decoded_in_pieces() -> None:
    import base64

    content = random.Random(1).randbytes(500_000)
    plain = base64.b64encode(content).decode()
    broken = "\n".join(plain[at : at + 76] for at in range(0, len(plain), 76))
    for text in (plain, broken):
        assert http_control.parse_load(json.dumps({"parameters": {"file:1/m": text}}).encode()) == {"file:1/m": content}
    for bad in (plain[:-2], "====" + plain, plain[:4000] + "=" + plain[4000:], plain[:99_999] + "*" + plain[99_999:]):
        with pytest.raises(InvalidArg, match="load parameter 'file:1/m' is not valid base64"):
            http_control.parse_load(json.dumps({"parameters": {"file:1/m": bad}}).encode())


def test_parameters_of_a_load_are_views_and_counted() -> None:
    found = cut_parameters(b'{"parameters": {"a": "x", "b": [1, {}]}, "c": 1}')
    assert found is not None
    assert {key: bytes(text) for key, text in found.items()} == {"a": b'"x"', "b": b"[1, {}]"}
    assert cut_parameters(b"7") is None
    many = json.dumps({"parameters": {str(i): "" for i in range(MAX_PARAMETERS_PER_REQUEST + 1)}}).encode()
    with pytest.raises(InvalidArg, match="parameters, at most"):
        cut_parameters(many)
