"""HTTP infer requests that both servers answer with tensors."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from typing import Any

import numpy as np

from .cases import HttpCase, In, byte_strings, infer, out, post, target

I0, I1 = "INPUT0", "INPUT1"
O0, O1 = "OUTPUT0", "OUTPUT1"
BINARY = {"binary_data": True}

# Per datatype: JSON values at the edges, and the same as bytes.
_VALUES: dict[str, tuple[list[Any], str]] = {
    "BOOL": ([True, False, True], "?"),
    "UINT8": ([0, 1, 255], "u1"),
    "UINT16": ([0, 1, 65535], "<u2"),
    "UINT32": ([0, 1, 4294967295], "<u4"),
    "UINT64": ([0, 1, 18446744073709551615], "<u8"),
    "INT8": ([-128, 0, 127], "i1"),
    "INT16": ([-32768, 0, 32767], "<i2"),
    "INT32": ([-2147483648, 0, 2147483647], "<i4"),
    "INT64": ([-9223372036854775808, 0, 9223372036854775807], "<i8"),
    "FP32": ([-1.5, 0.1, 3.0e38], "<f4"),
    "FP64": ([-1.5, 0.1, 1.0e300], "<f8"),
}


def _model(dtype: str) -> str:
    return f"identity_{dtype.lower()}"


def _dtype_cases(dtype: str) -> list[HttpCase]:
    """All four ways in and out for one datatype."""
    values, code = _VALUES[dtype]
    raw = np.array(values, code).tobytes()
    low = dtype.lower()
    text, binary = In(I0, dtype, [1, 3], data=values), In(I0, dtype, [1, 3], raw=raw)
    return [
        infer(f"{low}-json-json", _model(dtype), [text], id="a"),
        infer(f"{low}-json-binary", _model(dtype), [text], [out(O0, **BINARY)]),
        infer(f"{low}-binary-json", _model(dtype), [binary]),
        infer(f"{low}-binary-binary", _model(dtype), [binary], [out(O0, **BINARY)]),
    ]


_HALF = np.array([1.5, -2.0, 0.1], "<f2").tobytes()
_BRAIN = struct.pack("<3H", 0x3FC0, 0xC000, 0x3DCD)
_STRINGS = byte_strings(b"abc", b"", "grüß".encode())

DTYPES = (
    *(case for dtype in _VALUES for case in _dtype_cases(dtype)),
    infer("fp16-binary-binary", "identity_fp16", [In(I0, "FP16", [1, 3], raw=_HALF)], [out(O0, **BINARY)]),
    infer("fp16-binary-json", "identity_fp16", [In(I0, "FP16", [1, 3], raw=_HALF)]),
    infer("bf16-binary-binary", "identity_bf16", [In(I0, "BF16", [1, 3], raw=_BRAIN)], [out(O0, **BINARY)]),
    infer("bf16-binary-json", "identity_bf16", [In(I0, "BF16", [1, 3], raw=_BRAIN)]),
    infer("bytes-json-json", "identity_bytes", [In(I0, "BYTES", [1, 3], data=["abc", "", "grüß"])]),
    infer(
        "bytes-json-binary",
        "identity_bytes",
        [In(I0, "BYTES", [1, 2], data=["x", 'q"\\'])],
        [out(O0, **BINARY)],
    ),
    infer("bytes-binary-json", "identity_bytes", [In(I0, "BYTES", [1, 3], raw=_STRINGS)]),
    infer("bytes-binary-binary", "identity_bytes", [In(I0, "BYTES", [1, 3], raw=_STRINGS)], [out(O0, **BINARY)]),
    infer(
        "bytes-control-characters",
        "identity_bytes",
        [In(I0, "BYTES", [1, 1], raw=byte_strings(b"\x01\n\t\x00z"))],
    ),
    infer("bytes-not-utf8-json", "identity_bytes", [In(I0, "BYTES", [1, 1], raw=byte_strings(b"\xff\xfe"))]),
    infer(
        "bytes-not-utf8-binary",
        "identity_bytes",
        [In(I0, "BYTES", [1, 1], raw=byte_strings(b"\xff\xfe"))],
        [out(O0, **BINARY)],
    ),
    post(
        "fp32-nan-infinity",
        "identity_fp32",
        '{"inputs":[{"name":"INPUT0","shape":[1,4],"datatype":"FP32","data":[NaN,Infinity,-Infinity,Inf]}]}',
    ),
    infer("fp32-integers", "identity_fp32", [In(I0, "FP32", [1, 3], data=[1, -2, 16777217])]),
    infer("fp32-small", "identity_fp32", [In(I0, "FP32", [1, 5], data=[1e-7, 1.0e-45, -0.0, 123456789.0, 1e21])]),
    infer("fp64-digits", "identity_fp64", [In(I0, "FP64", [1, 3], data=[1e-7, 0.30000000000000004, 5e-324])]),
    infer("fp32-overflow", "identity_fp32", [In(I0, "FP32", [1, 1], data=[1e39])]),
)

_SIXTEEN = list(range(16))
_ONES = [1] * 16
_SUM_IN = [In(I0, "INT32", [1, 16], data=_SIXTEEN), In(I1, "INT32", [1, 16], data=_ONES)]
_RAW16 = np.arange(16, dtype="<i4").tobytes()
_SUM_RAW = [In(I0, "INT32", [1, 16], raw=_RAW16), In(I1, "INT32", [1, 16], raw=_RAW16)]
_FP4 = In(I0, "FP32", [4], data=[1.0, 2.0, 3.0, 4.0])

OUTPUTS = (
    infer("two-in-two-out", "add_sub", _SUM_IN, id="42"),
    infer("two-binary", "add_sub", _SUM_RAW),
    infer("two-reversed-inputs", "add_sub", _SUM_IN[::-1]),
    infer("mixed-in", "add_sub", [_SUM_IN[0], _SUM_RAW[1]]),
    infer("mixed-in-reversed", "add_sub", [_SUM_RAW[0], _SUM_IN[1]]),
    infer("mixed-out", "add_sub", _SUM_IN, [out(O0, **BINARY), out(O1)]),
    infer("mixed-out-reversed", "add_sub", _SUM_IN, [out(O1, **BINARY), out(O0)]),
    infer("only-second-output", "add_sub", _SUM_IN, [out(O1)]),
    infer("outputs-reversed", "add_sub", _SUM_IN, [out(O1), out(O0)]),
    infer("outputs-empty-list", "add_sub", _SUM_IN, []),
    infer("outputs-empty-parameters", "add_sub", _SUM_IN, [{"name": O0, "parameters": {}}]),
    infer("binary-data-output", "add_sub", _SUM_IN, parameters={"binary_data_output": True}),
    infer("binary-data-output-false", "add_sub", _SUM_IN, parameters={"binary_data_output": False}),
    infer(
        "binary-data-output-and-outputs",
        "add_sub",
        _SUM_IN,
        [out(O0, binary_data=False), out(O1)],
        parameters={"binary_data_output": True},
    ),
    infer("binary-data-false", "add_sub", _SUM_IN, [out(O0, binary_data=False)]),
    infer(
        "swap-mixed",
        "swap",
        [
            In(I0, "FP32", [1, 2], data=[1.5, 2.5]),
            In(I1, "BYTES", [1, 1], raw=byte_strings(b"hi")),
        ],
        [out(O0, **BINARY), out(O1)],
    ),
    infer(
        "swap-different-lengths",
        "swap",
        [
            In(I0, "FP32", [2, 1], data=[1.5, 2.5]),
            In(I1, "BYTES", [2, 2], data=["a", "b", "c", "d"]),
        ],
    ),
    infer("optional-absent", "optional", [_FP4]),
    infer("optional-present", "optional", [_FP4, In(I1, "FP32", [4], data=[1.0, 1.0, 1.0, 1.0])]),
)

_ONE = In(I0, "INT32", [2], data=[7, 8])

REQUESTS = (
    infer("id-empty", "versions", [_ONE], id=""),
    infer("id-unicode", "versions", [_ONE], id='é"\\\n'),
    infer("version-one", "versions", [_ONE], version=1),
    infer("version-latest", "versions", [_ONE]),
    infer("version-zeros", "versions", [_ONE], version="003"),
    infer("version-policy-latest", "latest", [_ONE]),
    infer("dynamic-batching", "batching", [In(I0, "FP32", [2, 4], data=[0.5] * 8)]),
    infer("parameters-any", "versions", [_ONE], parameters={"s": "x", "i": -3, "b": True}),
    infer("parameters-double", "versions", [_ONE], parameters={"d": 0.5}),
    infer("parameters-empty", "versions", [_ONE], parameters={}),
    infer("sequence-parameters", "versions", [_ONE], parameters={"sequence_id": 3, "sequence_start": True}),
    infer("sequence-id-text", "versions", [_ONE], parameters={"sequence_id": "abc", "sequence_end": True}),
    infer("priority", "versions", [_ONE], parameters={"priority": 1, "timeout": 1000000}),
    infer("input-parameters-unknown", "versions", [In(I0, "INT32", [2], data=[1, 2], parameters={"x": 1})]),
    infer("unknown-members", "versions", [_ONE], extra={"a": [1, {"b": None}]}),
    post(
        "inputs-first",
        "versions",
        '{"inputs":[{"data":[1,2],"datatype":"INT32","shape":[2],"name":"INPUT0"}],"id":"z"}',
    ),
    post(
        "whitespace",
        "versions",
        ' {\n\t"inputs" : [ { "name" : "INPUT0" , "datatype" : "INT32" ,\r\n'
        ' "shape" : [ 2 ] , "data" : [ 1 , 2 ] } ] }\n',
    ),
    post(
        "escaped-names",
        "versions",
        '{"inputs":[{"n\\u0061me":"INPUT\\u0030","datatype":"INT32","shape":[2],"data":[1,2]}]}',
    ),
    infer("data-nested", "fixed23", [In(I0, "FP32", [2, 3], data=[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])]),
    infer("data-flat", "fixed23", [In(I0, "FP32", [2, 3], data=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]),
    infer(
        "data-nested-differently",
        "fixed23",
        [In(I0, "FP32", [2, 3], data=[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])],
    ),
    infer("data-nested-unevenly", "fixed23", [In(I0, "FP32", [2, 3], data=[[1.0], [2.0, 3.0, 4.0, 5.0, 6.0]])]),
    infer("data-nested-too-deep", "fixed23", [In(I0, "FP32", [2, 3], data=[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])]),
    infer("batch-of-eight", "identity_fp32", [In(I0, "FP32", [8, 1], data=[0.5] * 8)]),
    infer("dynamic-2d", "dyn2", [In(I0, "FP32", [3, 1], data=[1.0, 2.0, 3.0])]),
    infer("reshape", "reshape22", [In(I0, "FP32", [4], data=[1.0, 2.0, 3.0, 4.0])]),
    infer("reshape-batch", "reshape_batch", [In(I0, "INT32", [3, 1], data=[1, 2, 3])]),
    infer(
        "reshape-batch-binary",
        "reshape_batch",
        [In(I0, "INT32", [2, 1], raw=_RAW16[:8])],
        [out(O0, **BINARY)],
    ),
)

ZERO_SIZE = (
    infer("zero-json", "identity_fp32", [In(I0, "FP32", [1, 0], data=[])]),
    infer("zero-binary-out", "identity_fp32", [In(I0, "FP32", [1, 0], data=[])], [out(O0, **BINARY)]),
    infer("zero-binary-in", "identity_fp32", [In(I0, "FP32", [1, 0], raw=b"")]),
    infer("zero-binary-both", "identity_fp32", [In(I0, "FP32", [1, 0], raw=b"")], [out(O0, **BINARY)]),
    infer("zero-2d", "dyn2", [In(I0, "FP32", [0, 3], data=[])]),
    infer("zero-bytes-json", "identity_bytes", [In(I0, "BYTES", [1, 0], data=[])]),
    infer("zero-bytes-binary", "identity_bytes", [In(I0, "BYTES", [1, 0], raw=b"")], [out(O0, **BINARY)]),
    infer("zero-batch", "identity_fp32", [In(I0, "FP32", [0, 2], data=[])]),
    infer(
        "zero-one-of-two",
        "swap",
        [
            In(I0, "FP32", [1, 0], raw=b""),
            In(I1, "BYTES", [1, 1], raw=byte_strings(b"x")),
        ],
        [out(O0, **BINARY), out(O1, **BINARY)],
    ),
)

_RAW_HEADER = (("Inference-Header-Content-Length", "0"),)

RAW_BINARY = (
    post("raw-fixed", "raw_fixed", _RAW16[:16], _RAW_HEADER),
    post("raw-batch", "batch16", np.arange(16, dtype="<f4").tobytes(), _RAW_HEADER),
    post("raw-dynamic", "identity_fp32", np.arange(5, dtype="<f4").tobytes(), _RAW_HEADER),
    post("raw-bytes", "raw_bytes", b"hello", _RAW_HEADER),
    post("raw-bytes-batch", "raw_bytes_batch", b"hello", _RAW_HEADER),
    post("raw-reshape", "reshape22", _RAW16[:16], _RAW_HEADER),
    post("raw-empty", "identity_fp32", b"", _RAW_HEADER),
    post("raw-empty-bytes", "raw_bytes", b"", _RAW_HEADER),
    post("raw-classify", "classify", np.arange(5, dtype="<f4").tobytes(), _RAW_HEADER),
    post("raw-short", "raw_fixed", _RAW16[:12], _RAW_HEADER),
    post("raw-long", "raw_fixed", _RAW16[:20], _RAW_HEADER),
    post("raw-uneven", "identity_fp32", b"12345", _RAW_HEADER),
    post("raw-two-inputs", "add_sub", _RAW16, _RAW_HEADER),
    post("raw-two-dynamic", "dyn2", _RAW16, _RAW_HEADER),
    post("raw-bytes-dynamic", "identity_bytes", b"hello", _RAW_HEADER),
    post("raw-optional", "optional", _RAW16[:16], _RAW_HEADER),
    HttpCase("raw-version", "POST", target("versions", version=1), _RAW_HEADER, _RAW16[:8]),
    HttpCase("raw-no-body", "POST", target("raw_fixed"), _RAW_HEADER, None),
)

_FIVE = In(I0, "FP32", [1, 5], data=[0.5, 2.25, -1.0, 2.5, 1e10])

CLASSIFICATION = (
    infer("class-labels", "classify", [_FIVE], [out(O0, classification=3)]),
    infer("class-one", "classify", [_FIVE], [out(O0, classification=1)]),
    infer("class-more-than-there-are", "classify", [_FIVE], [out(O0, classification=50)]),
    infer("class-zero", "classify", [_FIVE], [out(O0, classification=0)]),
    infer("class-binary", "classify", [_FIVE], [out(O0, classification=2, binary_data=True)]),
    infer(
        "class-batch",
        "classify",
        [In(I0, "FP32", [2, 5], data=[1, 2, 3, 4, 5, 5, 4, 3, 2, 1])],
        [out(O0, classification=2)],
    ),
    infer(
        "class-no-labels",
        "identity_fp32",
        [In(I0, "FP32", [1, 3], data=[0.1, 0.3, 0.2])],
        [out(O0, classification=2)],
    ),
    infer("class-int", "classify_int", [In(I0, "INT32", [3], data=[5, -7, 9])], [out(O0, classification=3)]),
    infer("class-2d", "classify_2d", [In(I0, "FP32", [2, 2], data=[1, 4, 3, 2])], [out(O0, classification=4)]),
    infer("class-ties", "classify", [In(I0, "FP32", [1, 5], data=[1, 1, 1, 1, 1])], [out(O0, classification=2)]),
    infer(
        "class-nan",
        "classify",
        [In(I0, "FP32", [1, 5], raw=np.array([1, np.inf, 2, -np.inf, 0], "<f4").tobytes())],
        [out(O0, classification=5)],
    ),
    infer(
        "class-uint8",
        "identity_uint8",
        [In(I0, "UINT8", [1, 3], data=[1, 255, 3])],
        [out(O0, classification=3)],
    ),
    infer(
        "class-int64",
        "identity_int64",
        [In(I0, "INT64", [1, 2], data=[-5, 9007199254740993])],
        [out(O0, classification=2)],
    ),
    infer("class-fp64", "identity_fp64", [In(I0, "FP64", [1, 2], data=[0.1, 1e-7])], [out(O0, classification=2)]),
    infer(
        "class-bool",
        "identity_bool",
        [In(I0, "BOOL", [1, 2], data=[True, False])],
        [out(O0, classification=2)],
    ),
    infer("class-fp16", "identity_fp16", [In(I0, "FP16", [1, 3], raw=_HALF)], [out(O0, classification=2)]),
    infer("class-negative", "classify", [_FIVE], [out(O0, classification=-1)]),
    infer("class-text", "classify", [_FIVE], [out(O0, classification="3")]),
)

_PLAIN = json.dumps({"inputs": [_ONE.header()]}).encode()


def _packed(case_id: str, encoding: str, body: bytes, accept: str = "") -> HttpCase:
    headers = (("Content-Encoding", encoding),) if encoding else ()
    if accept:
        headers = (*headers, ("Accept-Encoding", accept))
    return post(case_id, "versions", body, headers)


COMPRESSION = (
    _packed("gzip-in", "gzip", gzip.compress(_PLAIN, mtime=0)),
    _packed("deflate-in", "deflate", zlib.compress(_PLAIN)),
    _packed("deflate-raw-in", "deflate", zlib.compress(_PLAIN)[2:-4]),
    _packed("identity-in", "identity", _PLAIN),
    _packed("gzip-upper-case", "GZIP", gzip.compress(_PLAIN, mtime=0)),
    _packed("encoding-unknown", "br", _PLAIN),
    _packed("encoding-two", "gzip, deflate", _PLAIN),
    _packed("gzip-corrupt", "gzip", gzip.compress(_PLAIN, mtime=0)[:20] + b"\0" * 30),
    _packed("gzip-not", "gzip", _PLAIN),
    _packed("gzip-cut", "gzip", gzip.compress(_PLAIN, mtime=0)[:-10]),
    _packed("gzip-trailing", "gzip", gzip.compress(_PLAIN, mtime=0) + b"trailing"),
    _packed("gzip-empty", "gzip", b""),
    _packed("deflate-corrupt", "deflate", b"nonsense here"),
    _packed("accept-gzip", "", _PLAIN, "gzip"),
    _packed("accept-deflate", "", _PLAIN, "deflate"),
    _packed("accept-both", "", _PLAIN, "gzip, deflate"),
    _packed("accept-weights", "", _PLAIN, "gzip;q=0.5, deflate;q=0.8"),
    _packed("accept-identity", "", _PLAIN, "identity"),
    _packed("accept-star", "", _PLAIN, "*"),
    _packed("accept-unknown", "", _PLAIN, "br, zstd"),
    _packed("accept-gzip-zero", "", _PLAIN, "gzip;q=0"),
    _packed("gzip-both-ways", "gzip", gzip.compress(_PLAIN, mtime=0), "gzip"),
    post("accept-gzip-error", "versions", b"{}", (("Accept-Encoding", "gzip"),)),
    infer("accept-gzip-binary", "versions", [_ONE], [out(O0, **BINARY)], headers=(("Accept-Encoding", "gzip"),)),
    post(
        "gzip-raw-binary",
        "raw_fixed",
        gzip.compress(_RAW16[:16], mtime=0),
        (*_RAW_HEADER, ("Content-Encoding", "gzip")),
    ),
)

TRANSFER = (
    HttpCase("chunked", "POST", target("versions"), chunks=(_PLAIN[:10], _PLAIN[10:40], _PLAIN[40:])),
    HttpCase("chunked-one", "POST", target("versions"), chunks=(_PLAIN,)),
    post("content-type-json", "versions", _PLAIN, (("Content-Type", "application/json"),)),
    post("content-type-octets", "versions", _PLAIN, (("Content-Type", "application/octet-stream"),)),
    post("header-length-spaces", "versions", _PLAIN, (("Inference-Header-Content-Length", f" {len(_PLAIN)} "),)),
    post("header-length-plus", "versions", _PLAIN, (("Inference-Header-Content-Length", f"+{len(_PLAIN)}"),)),
    post("header-length-exact", "versions", _PLAIN, (("inference-header-content-length", str(len(_PLAIN))),)),
    post("query-string", "versions/infer?x=/infer#", _PLAIN),
)

_WIDE = np.arange(300_000, dtype="<f4").tobytes()

# Around the sizes where a server may go another way: one read, 64 KiB, a megabyte.
LARGE = (
    *(
        infer(
            f"large-{length}",
            "identity_fp32",
            [In(I0, "FP32", [1, length], raw=_WIDE[: 4 * length])],
            [out(O0, **BINARY)],
        )
        for length in (4000, 16384, 16385, 300_000)
    ),
    infer("large-json", "identity_int32", [In(I0, "INT32", [2, 10_000], data=list(range(20_000)))]),
    infer("large-string", "identity_bytes", [In(I0, "BYTES", [1, 1], raw=byte_strings(b"abcdefgh" * 20_000))]),
    HttpCase(
        "large-chunked",
        "POST",
        target("identity_fp32"),
        (("Inference-Header-Content-Length", "0"),),
        chunks=tuple(_WIDE[start : start + 50_000] for start in range(0, len(_WIDE), 50_000)),
    ),
)

CASES: tuple[HttpCase, ...] = (
    *DTYPES,
    *OUTPUTS,
    *REQUESTS,
    *ZERO_SIZE,
    *RAW_BINARY,
    *CLASSIFICATION,
    *COMPRESSION,
    *TRANSFER,
    *LARGE,
)
