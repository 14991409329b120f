"""HTTP infer requests that a server has to refuse."""

from __future__ import annotations

import json
import struct
from typing import Any

from .cases import Headers, HttpCase, In, byte_strings, infer, out, post, target

I0, I1 = "INPUT0", "INPUT1"
O0 = "OUTPUT0"
_ONE = In(I0, "INT32", [2], data=[7, 8])
_LENGTH = "Inference-Header-Content-Length"


def _entry(**members: Any) -> str:
    """A request to a one-input model with these members of the input; None leaves a member out."""
    entry = {"name": I0, "shape": [2], "datatype": "INT32", "data": [7, 8], **members}
    return json.dumps({"inputs": [{key: value for key, value in entry.items() if value is not None}]})


_INPUTS = '"inputs":[{"name":"INPUT0","shape":[2],"datatype":"INT32","data":[7,8]}]}'

_TEXTS: dict[str, str | bytes] = {
    "empty": "",
    "space": "  ",
    "word": "hello",
    "open": "{",
    "cut": '{"inputs":[{"name":"INPUT0"',
    "array": "[]",
    "number": "7",
    "string": '"x"',
    "null": "null",
    "no-comma": '{"id":"a" "inputs":[]}',
    "trailing-comma": '{"id":"a",}',
    "trailing-text": '{"inputs":[]} x',
    "single-quotes": "{'inputs':[]}",
    "no-colon": '{"inputs" []}',
    "key-not-string": "{1:2}",
    "bad-escape": '{"id":"\\q"}',
    "bad-unicode": '{"id":"\\u12"}',
    "lone-surrogate": '{"id":"\\ud800"}',
    "open-string": '{"id":"abc',
    "comment": '{"id":"a"/*x*/}',
    "array-no-comma": '{"inputs":[1 2]}',
    "number-dot": '{"a":1.}',
    "number-exponent": '{"a":1e}',
    "number-plus": '{"a":+1}',
    "number-zeros": '{"a":01}',
    "number-huge": '{"a":1e999}',
    "word-true": '{"a":tru}',
    "nul": '{"a":"\0"}',
    "no-inputs": "{}",
    "inputs-null": '{"inputs":null}',
    "inputs-object": '{"inputs":{}}',
    "inputs-empty": '{"inputs":[]}',
    "inputs-of-numbers": '{"inputs":[1]}',
    "inputs-of-null": '{"inputs":[null]}',
    "id-number": '{"id":7,"inputs":[]}',
    "parameters-array": '{"parameters":[1],"inputs":[]}',
    "outputs-object": '{"outputs":{},' + _INPUTS,
    "outputs-null": '{"outputs":null,' + _INPUTS,
    "outputs-of-text": '{"outputs":["OUTPUT0"],' + _INPUTS,
    "duplicate-inputs": '{"inputs":[],' + _INPUTS,
    "not-utf8": b'{"id":"\xff","inputs":[]}',
    "bom": b"\xef\xbb\xbf{}",
}

JSON_TEXT = tuple(post(f"json-{name}", "versions", text) for name, text in _TEXTS.items())

_MEMBERS: dict[str, dict[str, Any]] = {
    "no-name": {"name": None},
    "no-shape": {"shape": None},
    "no-datatype": {"datatype": None},
    "no-data": {"data": None},
    "name-number": {"name": 5},
    "name-unknown": {"name": "INPUT9"},
    "name-empty": {"name": ""},
    "name-quotes": {"name": 'a"b'},
    "datatype-number": {"datatype": 5},
    "datatype-unknown": {"datatype": "INT33"},
    "datatype-lower-case": {"datatype": "int32"},
    "datatype-config-name": {"datatype": "TYPE_INT32"},
    "datatype-empty": {"datatype": ""},
    "datatype-other": {"datatype": "FP32", "data": [1.0, 2.0]},
    "datatype-string": {"datatype": "STRING", "data": ["a", "b"]},
    "shape-number": {"shape": 2},
    "shape-text": {"shape": "2"},
    "shape-of-text": {"shape": ["2"]},
    "shape-float": {"shape": [2.0]},
    "shape-negative": {"shape": [-1]},
    "shape-minus-two": {"shape": [-2]},
    "shape-empty": {"shape": []},
    "shape-null": {"shape": [None]},
    "shape-too-many": {"shape": [1, 2]},
    "shape-other": {"shape": [3], "data": [1, 2, 3]},
    "shape-over-int64": {"shape": [9223372036854775808]},
    "shape-over-uint64": {"shape": [18446744073709551616]},
    "shape-zero": {"shape": [0], "data": []},
    "data-short": {"data": [7]},
    "data-long": {"data": [7, 8, 9]},
    "data-empty": {"data": []},
    "data-scalar": {"data": 7},
    "data-object": {"data": {}},
    "data-text": {"data": ["7", "8"]},
    "data-float": {"data": [7.5, 8.0]},
    "data-whole-float": {"data": [7.0, 8.0]},
    "data-bool": {"data": [True, False]},
    "data-null": {"data": [None, None]},
    "data-over-int32": {"data": [2147483648, 0]},
    "data-over-int64": {"data": [9223372036854775808, 0]},
    "data-empty-nests": {"data": [[], []]},
    "data-nested-101": {"data": json.loads("[" * 101 + "7,8" + "]" * 101)},
    "data-mixed-nest": {"data": [7, [8]]},
    "parameters-array": {"parameters": []},
    "parameters-binary-text": {"parameters": {"binary_data_size": "8"}, "data": None},
    "parameters-binary-negative": {"parameters": {"binary_data_size": -8}, "data": None},
    "parameters-binary-float": {"parameters": {"binary_data_size": 8.5}, "data": None},
    "data-and-binary": {"parameters": {"binary_data_size": 8}},
    "data-and-shm": {"parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8}},
    "shm-unknown": {
        "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8},
        "data": None,
    },
    "shm-no-size": {"parameters": {"shared_memory_region": "r"}, "data": None},
}

MEMBERS = tuple(post(f"input-{name}", "versions", _entry(**members)) for name, members in _MEMBERS.items())

VALUES = (
    infer("uint8-over", "identity_uint8", [In(I0, "UINT8", [1, 1], data=[256])]),
    infer("uint8-negative", "identity_uint8", [In(I0, "UINT8", [1, 1], data=[-1])]),
    infer("uint16-over", "identity_uint16", [In(I0, "UINT16", [1, 1], data=[65536])]),
    infer("uint32-over", "identity_uint32", [In(I0, "UINT32", [1, 1], data=[4294967296])]),
    infer("uint64-negative", "identity_uint64", [In(I0, "UINT64", [1, 1], data=[-1])]),
    infer("uint64-over", "identity_uint64", [In(I0, "UINT64", [1, 1], data=[18446744073709551616])]),
    infer("int8-over", "identity_int8", [In(I0, "INT8", [1, 1], data=[128])]),
    infer("int16-under", "identity_int16", [In(I0, "INT16", [1, 1], data=[-32769])]),
    infer("bool-number", "identity_bool", [In(I0, "BOOL", [1, 2], data=[1, 0])]),
    infer("bool-text", "identity_bool", [In(I0, "BOOL", [1, 1], data=["true"])]),
    infer("fp32-text", "identity_fp32", [In(I0, "FP32", [1, 1], data=["1.0"])]),
    infer("fp32-bool", "identity_fp32", [In(I0, "FP32", [1, 1], data=[True])]),
    infer("fp32-null", "identity_fp32", [In(I0, "FP32", [1, 1], data=[None])]),
    infer("bytes-number", "identity_bytes", [In(I0, "BYTES", [1, 1], data=[5])]),
    infer("bytes-short", "identity_bytes", [In(I0, "BYTES", [1, 2], data=["a"])]),
    infer("bytes-long", "identity_bytes", [In(I0, "BYTES", [1, 1], data=["a", "b"])]),
    infer("fp16-json", "identity_fp16", [In(I0, "FP16", [1, 1], data=[1.0])]),
    infer("bf16-json", "identity_bf16", [In(I0, "BF16", [1, 1], data=[1.0])]),
)

_FULL = In(I0, "INT32", [1, 16], data=list(range(16)))
_SECOND = In(I1, "INT32", [1, 16], data=list(range(16)))
_TWO = [_FULL, _SECOND]

TENSORS = (
    infer("missing-input", "add_sub", [_FULL]),
    infer("missing-first-input", "add_sub", [_SECOND], id="77"),
    infer("missing-both", "add_sub", []),
    infer("extra-input", "add_sub", [*_TWO, In("INPUT2", "INT32", [1, 16], data=list(range(16)))]),
    infer("extra-input-on-one", "versions", [_ONE, In(I1, "INT32", [2], data=[1, 2])]),
    infer("unknown-input-instead", "add_sub", [_FULL, In("INPUT9", "INT32", [1, 16], data=list(range(16)))]),
    infer("duplicate-input", "add_sub", [_FULL, _FULL, _SECOND]),
    infer("missing-required-of-optional", "optional", [In(I1, "FP32", [4], data=[1, 2, 3, 4])]),
    infer(
        "optional-too-many",
        "optional",
        [
            In(I0, "FP32", [4], data=[1, 2, 3, 4]),
            In(I1, "FP32", [4], data=[1, 2, 3, 4]),
            In("INPUT2", "FP32", [4], data=[1, 2, 3, 4]),
        ],
    ),
    infer("optional-none", "optional", []),
    infer("unknown-output", "add_sub", _TWO, [out("OUTPUT9")]),
    infer("unknown-output-id", "add_sub", _TWO, [out("OUTPUT9")], id="12"),
    infer("duplicate-output", "add_sub", _TWO, [out(O0), out(O0)]),
    infer("output-name-number", "add_sub", _TWO, [{"name": 3}]),
    infer("output-no-name", "add_sub", _TWO, [{}]),
    infer("output-binary-text", "add_sub", _TWO, [out(O0, binary_data="yes")]),
    infer("output-shm-unknown", "add_sub", _TWO, [out(O0, shared_memory_region="r", shared_memory_byte_size=64)]),
    infer(
        "output-shm-and-class",
        "add_sub",
        _TWO,
        [out(O0, shared_memory_region="r", shared_memory_byte_size=64, classification=2)],
    ),
    infer(
        "output-shm-and-binary",
        "add_sub",
        _TWO,
        [out(O0, shared_memory_region="r", shared_memory_byte_size=64, binary_data=True)],
    ),
    infer("datatype-with-id", "versions", [In(I0, "INT64", [2], data=[7, 8])], id="55"),
    infer("batch-over", "identity_fp32", [In(I0, "FP32", [9, 1], data=[0.5] * 9)]),
    infer("batch-absent", "batch16", [In(I0, "FP32", [16], data=[0.5] * 16)]),
    infer("batch-wrong-dims", "batch16", [In(I0, "FP32", [1, 15], data=[0.5] * 15)]),
    infer("batch-extra-dims", "batch16", [In(I0, "FP32", [1, 1, 16], data=[0.5] * 16)]),
    infer("batch-scalar", "batch16", [In(I0, "FP32", [], data=[0.5])]),
    infer("batch-differs", "add_sub", [_FULL, In(I1, "INT32", [2, 16], data=list(range(32)))]),
    infer("fixed-shape", "fixed23", [In(I0, "FP32", [3, 2], data=[0.5] * 6)]),
    infer("dynamic-rank", "dyn2", [In(I0, "FP32", [4], data=[0.5] * 4)]),
    infer("reshape-internal-shape", "reshape22", [In(I0, "FP32", [2, 2], data=[0.5] * 4)]),
    infer("reshape-batch-squeezed", "reshape_batch", [In(I0, "INT32", [2], data=[1, 2])]),
)


def _binary(case_id: str, shape: list[int], raw: bytes, size: int | None = None, tail: bytes = b"") -> HttpCase:
    """One binary input whose announced size may differ from what follows; the id chooses the model."""
    model, dtype = ("identity_bytes", "BYTES") if case_id.startswith("strings") else ("versions", "INT32")
    parameters = None if size is None else {"binary_data_size": size}
    case = infer(case_id, model, [In(I0, dtype, shape, raw=raw, parameters=parameters)])
    return HttpCase(case.id, case.method, case.target, case.headers, (case.body or b"") + tail)


BINARY = (
    _binary("binary-short", [2], b"1234"),
    _binary("binary-long", [2], b"123456789012"),
    _binary("binary-empty", [2], b""),
    _binary("binary-body-short", [2], b"1234", 8),
    _binary("binary-body-missing", [2], b"", 8),
    _binary("binary-body-long", [2], b"12345678", tail=b"!"),
    _binary("binary-announced-more", [2], b"12345678", 12),
    _binary("binary-announced-less", [2], b"12345678", 4),
    _binary("binary-announced-huge", [2], b"12345678", 2**62),
    _binary("binary-announced-over", [2], b"12345678", 2**64),
    _binary("binary-announced-zero", [2], b"12345678", 0),
    infer("binary-bool-two", "identity_bool", [In(I0, "BOOL", [1, 2], raw=b"\x02\xff")]),
    _binary("strings-short", [1, 2], byte_strings(b"one")),
    _binary("strings-many", [1, 1], byte_strings(b"one", b"two")),
    _binary("strings-cut-length", [1, 2], byte_strings(b"one") + b"\x01\x00"),
    _binary("strings-cut-text", [1, 1], struct.pack("<I", 9) + b"abc"),
    _binary("strings-huge-length", [1, 1], b"\xff\xff\xff\xffabc"),
    _binary("strings-empty", [1, 1], b""),
    _binary("strings-zero-with-bytes", [1, 0], byte_strings(b"one")),
    _binary("strings-huge-shape", [1, 2**40], byte_strings(b"one")),
    post(
        "binary-without-header",
        "versions",
        _entry(data=None, parameters={"binary_data_size": 8}) + "12345678",
    ),
    post("binary-without-header-or-body", "versions", _entry(data=None, parameters={"binary_data_size": 8})),
)

_PLAIN = _entry()


def _length(case_id: str, value: str, more: Headers = ()) -> HttpCase:
    return post(case_id, "versions", _PLAIN, ((_LENGTH, value), *more))


LENGTHS = (
    _length("header-length-text", "xx"),
    _length("header-length-empty", ""),
    _length("header-length-negative", "-1"),
    _length("header-length-over-body", str(len(_PLAIN) + 1)),
    _length("header-length-short", "10"),
    _length("header-length-one-less", str(len(_PLAIN) - 1)),
    _length("header-length-over-int", "2147483648"),
    _length("header-length-over-uint64", "99999999999999999999"),
    _length("header-length-text-after", f"{len(_PLAIN)}x"),
    _length("header-length-float", f"{len(_PLAIN)}.0"),
    _length("header-length-hex", hex(len(_PLAIN))),
    _length("header-length-underscore", "1_0"),
    _length("header-length-twice", str(len(_PLAIN)), ((_LENGTH, "10"),)),
    HttpCase("infer-no-body", "POST", target("versions")),
    HttpCase("content-length-text", "POST", target("versions"), (("Content-Length", "abc"),), b"{}"),
    HttpCase("content-length-negative", "POST", target("versions"), (("Content-Length", "-5"),), b"{}"),
    HttpCase(
        "content-length-over",
        "POST",
        target("versions"),
        (("Content-Length", "99999999999999999999"),),
        b"{}",
    ),
    HttpCase(
        "chunk-size-bad",
        "POST",
        target("versions"),
        raw=(
            f"POST {target('versions')} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            "Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"
        ).encode(),
    ),
)

PARAMETERS = tuple(
    infer(f"parameter-{name}", "versions", [_ONE], parameters=parameters)
    for name, parameters in {
        "array": {"p": [1]},
        "object": {"p": {}},
        "null": {"p": None},
        "reserved-prefix": {"triton_x": 1},
        "reserved-empty-final": {"triton_enable_empty_final_response": True},
        "uint64": {"p": 18446744073709551615},
        "sequence-start-number": {"sequence_id": 1, "sequence_start": 1},
        "sequence-end-text": {"sequence_id": 1, "sequence_end": "no"},
        "sequence-id-bool": {"sequence_id": True},
        "sequence-id-negative": {"sequence_id": -1},
        "sequence-id-float": {"sequence_id": 1.5},
        "priority-text": {"priority": "high"},
        "priority-negative": {"priority": -1},
        "timeout-text": {"timeout": "1s"},
        "timeout-negative": {"timeout": -1},
        "binary-output-text": {"binary_data_output": "yes"},
        "headers": {"headers": "x"},
    }.items()
)

CASES: tuple[HttpCase, ...] = (*JSON_TEXT, *MEMBERS, *VALUES, *TENSORS, *BINARY, *LENGTHS, *PARAMETERS)
