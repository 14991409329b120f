"""gRPC cases: control calls, ModelInfer with raw and typed contents, streams and errors."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from .cases import GrpcCase, byte_strings

Message = dict[str, Any]
I0, I1 = "INPUT0", "INPUT1"
O0, O1 = "OUTPUT0", "OUTPUT1"


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def tensor(name: str, dtype: str, shape: Sequence[int], contents: Message | None = None, **more: Any) -> Message:
    """An InferInputTensor."""
    entry: Message = {"name": name, "datatype": dtype, "shape": list(shape), **more}
    return entry if contents is None else {**entry, "contents": contents}


def message(model: str, inputs: Sequence[Message], raw: Sequence[bytes] = (), **more: Any) -> Message:
    """A ModelInferRequest."""
    entry: Message = {"model_name": model, "inputs": list(inputs), **more}
    return {**entry, "raw_input_contents": [_b64(item) for item in raw]} if raw else entry


def _infer(case_id: str, model: str, inputs: Sequence[Message], raw: Sequence[bytes] = (), **more: Any) -> GrpcCase:
    return GrpcCase(f"grpc-{case_id}", "ModelInfer", (message(model, inputs, raw, **more),))


def _call(case_id: str, method: str, request: Message | bytes, mask: str = "") -> GrpcCase:
    return GrpcCase(f"grpc-{case_id}", method, (request,), mask=mask)


CONTROL = (
    _call("server-live", "ServerLive", {}),
    _call("server-ready", "ServerReady", {}),
    _call("health", "Health/Check", b""),
    _call("health-named", "Health/Check", b"\x0a\x0einference.Nope"),
    _call("model-ready", "ModelReady", {"name": "add_sub"}),
    _call("model-ready-version", "ModelReady", {"name": "versions", "version": "3"}),
    _call("model-ready-unknown", "ModelReady", {"name": "nobody"}),
    _call("model-ready-unknown-version", "ModelReady", {"name": "add_sub", "version": "9"}),
    _call("model-ready-version-text", "ModelReady", {"name": "add_sub", "version": "x"}),
    _call("model-ready-version-negative", "ModelReady", {"name": "add_sub", "version": "-1"}),
    _call("model-ready-version-minus-two", "ModelReady", {"name": "add_sub", "version": "-2"}),
    _call("model-ready-version-zero", "ModelReady", {"name": "add_sub", "version": "0"}),
    _call("model-ready-version-suffix", "ModelReady", {"name": "add_sub", "version": "1x"}),
    _call("model-ready-version-float", "ModelReady", {"name": "add_sub", "version": "1.5"}),
    _call("model-ready-version-space", "ModelReady", {"name": "add_sub", "version": " 1"}),
    _call("model-ready-no-name", "ModelReady", {}),
    _call("server-metadata", "ServerMetadata", {}, "server"),
    _call("model-metadata", "ModelMetadata", {"name": "add_sub"}),
    _call("model-metadata-versions", "ModelMetadata", {"name": "versions"}),
    _call("model-metadata-version", "ModelMetadata", {"name": "versions", "version": "1"}),
    _call("model-metadata-unknown", "ModelMetadata", {"name": "nobody"}),
    _call("model-metadata-unknown-version", "ModelMetadata", {"name": "add_sub", "version": "4"}),
    _call("model-metadata-version-text", "ModelMetadata", {"name": "add_sub", "version": "latest"}),
    _call("config", "ModelConfig", {"name": "add_sub"}, "config"),
    _call("config-classify", "ModelConfig", {"name": "classify"}, "config"),
    _call("config-optional", "ModelConfig", {"name": "optional"}, "config"),
    _call("config-batching", "ModelConfig", {"name": "batching"}, "config"),
    _call("config-reshape", "ModelConfig", {"name": "reshape_batch"}, "config"),
    _call("config-version", "ModelConfig", {"name": "versions", "version": "1"}, "config"),
    _call("config-unknown", "ModelConfig", {"name": "nobody"}),
    _call("config-unknown-version", "ModelConfig", {"name": "add_sub", "version": "2"}),
    _infer("counted", "counted_grpc", [tensor(I0, "INT32", [3, 2])], [np.arange(6, dtype="<i4").tobytes()]),
    _infer(
        "counted-refused",
        "counted_grpc",
        [tensor(I0, "INT32", [5, 2])],
        [np.arange(10, dtype="<i4").tobytes()],
    ),
    _call("stats", "ModelStatistics", {"name": "counted_grpc"}, "stats"),
    _call("stats-version", "ModelStatistics", {"name": "counted_grpc", "version": "1"}, "stats"),
    _call("stats-all", "ModelStatistics", {}, "stats-names"),
    _call("stats-unknown", "ModelStatistics", {"name": "nobody"}),
    _call("stats-unknown-version", "ModelStatistics", {"name": "add_sub", "version": "6"}),
    _call("index", "RepositoryIndex", {}),
    _call("index-ready", "RepositoryIndex", {"ready": True}),
    _call("index-named", "RepositoryIndex", {"repository_name": "other"}),
    _call("load-in-mode-none", "RepositoryModelLoad", {"model_name": "add_sub"}),
    _call("unload-in-mode-none", "RepositoryModelUnload", {"model_name": "add_sub"}),
    _call("load-named-repository", "RepositoryModelLoad", {"repository_name": "r", "model_name": "add_sub"}),
    _call("unload-named-repository", "RepositoryModelUnload", {"repository_name": "r", "model_name": "add_sub"}),
    _call("unknown-method", "ModelGuess", b""),
    _call("metadata-garbage", "ModelMetadata", b"\xff\xff\xff"),
)

# Per datatype: the field of InferTensorContents, edge values, numpy code.
_TYPED: dict[str, tuple[str, list[Any], str]] = {
    "BOOL": ("bool_contents", [True, False], "?"),
    "UINT8": ("uint_contents", [0, 255], "u1"),
    "UINT16": ("uint_contents", [0, 65535], "<u2"),
    "UINT32": ("uint_contents", [0, 4294967295], "<u4"),
    "UINT64": ("uint64_contents", [0, 18446744073709551615], "<u8"),
    "INT8": ("int_contents", [-128, 127], "i1"),
    "INT16": ("int_contents", [-32768, 32767], "<i2"),
    "INT32": ("int_contents", [-2147483648, 2147483647], "<i4"),
    "INT64": ("int64_contents", [-9223372036854775808, 9223372036854775807], "<i8"),
    "FP32": ("fp32_contents", [-1.5, 0.25], "<f4"),
    "FP64": ("fp64_contents", [-1.5, 0.1], "<f8"),
}


def _dtype_cases(dtype: str) -> tuple[GrpcCase, GrpcCase]:
    field, values, code = _TYPED[dtype]
    model, low = f"identity_{dtype.lower()}", dtype.lower()
    return (
        _infer(f"{low}-typed", model, [tensor(I0, dtype, [1, 2], {field: values})], id="t"),
        _infer(f"{low}-raw", model, [tensor(I0, dtype, [1, 2])], [np.array(values, code).tobytes()]),
    )


_RAW16 = np.arange(16, dtype="<i4").tobytes()
_TWO = [tensor(I0, "INT32", [1, 16]), tensor(I1, "INT32", [1, 16])]
_ONE = tensor(I0, "INT32", [2], {"int_contents": [7, 8]})
_PLAIN = tensor(I0, "INT32", [2])
_RAW2 = _RAW16[:8]

INFER = (
    *(case for dtype in _TYPED for case in _dtype_cases(dtype)),
    _infer("fp16-raw", "identity_fp16", [tensor(I0, "FP16", [1, 2])], [b"\x00\x3e\x00\xc0"]),
    _infer("bf16-raw", "identity_bf16", [tensor(I0, "BF16", [1, 2])], [b"\xc0\x3f\x00\xc0"]),
    _infer(
        "bytes-typed",
        "identity_bytes",
        [tensor(I0, "BYTES", [1, 3], {"bytes_contents": [_b64(b"abc"), "", _b64(b"\xff\x00")]})],
    ),
    _infer("bytes-raw", "identity_bytes", [tensor(I0, "BYTES", [1, 2])], [byte_strings(b"abc", b"")]),
    _infer("two-raw", "add_sub", _TWO, [_RAW16, _RAW16], id="42"),
    _infer("two-reversed", "add_sub", _TWO[::-1], [_RAW16, _RAW16]),
    _infer(
        "two-typed",
        "add_sub",
        [
            tensor(I0, "INT32", [1, 16], {"int_contents": list(range(16))}),
            tensor(I1, "INT32", [1, 16], {"int_contents": [1] * 16}),
        ],
    ),
    _infer("one-output", "add_sub", _TWO, [_RAW16, _RAW16], outputs=[{"name": O1}]),
    _infer("outputs-reversed", "add_sub", _TWO, [_RAW16, _RAW16], outputs=[{"name": O1}, {"name": O0}]),
    _infer("version", "versions", [_ONE], model_version="1"),
    _infer("version-latest", "versions", [_ONE]),
    _infer("zero-size", "identity_fp32", [tensor(I0, "FP32", [1, 0])], [b""]),
    _infer("zero-size-typed", "identity_fp32", [tensor(I0, "FP32", [1, 0], {"fp32_contents": []})]),
    _infer("zero-size-bytes", "identity_bytes", [tensor(I0, "BYTES", [1, 0])], [b""]),
    _infer("optional-absent", "optional", [tensor(I0, "FP32", [4])], [np.ones(4, "<f4").tobytes()]),
    _infer("reshape-batch", "reshape_batch", [tensor(I0, "INT32", [2, 1])], [_RAW2]),
    _infer(
        "parameters",
        "versions",
        [_ONE],
        parameters={"s": {"string_param": "x"}, "i": {"int64_param": 3}, "b": {"bool_param": True}},
    ),
    _infer(
        "sequence",
        "versions",
        [_ONE],
        parameters={"sequence_id": {"int64_param": 5}, "sequence_start": {"bool_param": True}},
    ),
    _infer("priority", "versions", [_ONE], parameters={"priority": {"uint64_param": 2}}),
    _infer(
        "class",
        "classify",
        [tensor(I0, "FP32", [1, 5])],
        [np.arange(5, dtype="<f4").tobytes()],
        outputs=[{"name": O0, "parameters": {"classification": {"int64_param": 2}}}],
    ),
    GrpcCase("grpc-gzip", "ModelInfer", (message("versions", [_PLAIN], [_RAW2]),), compression="gzip"),
    GrpcCase("grpc-deflate", "ModelInfer", (message("versions", [_PLAIN], [_RAW2]),), compression="deflate"),
)


_WIDE = np.arange(300_000, dtype="<f4").tobytes()

# Each goes out as the first message of its connection, when the peers' settings are not yet agreed.
LARGE = tuple(
    _infer(f"large-{length}", "identity_fp32", [tensor(I0, "FP32", [1, length])], [_WIDE[: 4 * length]])
    for length in (4000, 4095, 4096, 16384, 300_000)
)


def _parameter(name: str, **value: Any) -> Message:
    return {"parameters": {name: value}}


BAD = (
    _infer("model-unknown", "nobody", [_ONE]),
    _infer("model-empty", "", [_ONE]),
    _infer("version-unknown", "versions", [_ONE], model_version="2"),
    _infer("version-text", "versions", [_ONE], model_version="one"),
    _infer("version-negative", "versions", [_ONE], model_version="-3"),
    _infer("decoupled", "decoupled", [tensor(I0, "INT32", [1], {"int_contents": [1]})]),
    _infer("no-inputs", "versions", []),
    _infer("missing-input", "add_sub", _TWO[:1], [_RAW16]),
    _infer("extra-input", "versions", [_PLAIN, tensor(I1, "INT32", [2])], [_RAW2, _RAW2]),
    _infer("unknown-input", "versions", [tensor("INPUT9", "INT32", [2])], [_RAW2]),
    _infer("duplicate-input", "add_sub", [_TWO[0], _TWO[0]], [_RAW16, _RAW16]),
    _infer("unknown-output", "versions", [_PLAIN], [_RAW2], outputs=[{"name": "OUTPUT9"}]),
    _infer("duplicate-output", "versions", [_PLAIN], [_RAW2], outputs=[{"name": O0}, {"name": O0}]),
    _infer("datatype-wrong", "versions", [tensor(I0, "FP32", [2])], [_RAW2]),
    _infer("datatype-unknown", "versions", [tensor(I0, "INT33", [2])], [_RAW2]),
    _infer("datatype-empty", "versions", [tensor(I0, "", [2])], [_RAW2]),
    _infer("shape-wrong", "versions", [tensor(I0, "INT32", [3])], [_RAW16[:12]]),
    _infer("shape-negative", "versions", [tensor(I0, "INT32", [-1])], [_RAW2]),
    _infer("shape-negative-batch", "identity_int32", [tensor(I0, "INT32", [-1, 2])], [_RAW2]),
    _infer("shape-empty", "versions", [tensor(I0, "INT32", [])], [_RAW2]),
    _infer("shape-max", "identity_int8", [tensor(I0, "INT8", [1, 2**63 - 1])], [_RAW2]),
    _infer("batch-over", "identity_int32", [tensor(I0, "INT32", [9, 1])], [_RAW16[:36]]),
    _infer("batch-differs", "add_sub", [_TWO[0], tensor(I1, "INT32", [2, 16])], [_RAW16, _RAW16 * 2]),
    _infer("bytes-short", "versions", [_PLAIN], [_RAW2[:4]]),
    _infer("bytes-long", "versions", [_PLAIN], [_RAW16]),
    _infer("bytes-empty", "versions", [_PLAIN], [b""]),
    _infer("no-contents", "versions", [_PLAIN]),
    _infer("empty-contents", "versions", [tensor(I0, "INT32", [2], {})]),
    _infer("raw-and-typed", "versions", [_ONE], [_RAW2]),
    _infer("raw-for-one-of-two", "add_sub", _TWO, [_RAW16]),
    _infer("raw-too-many", "versions", [_PLAIN], [_RAW2, _RAW2]),
    _infer(
        "raw-and-typed-mixed",
        "add_sub",
        [_TWO[0], tensor(I1, "INT32", [1, 16], {"int_contents": [1] * 16})],
        [_RAW16],
    ),
    _infer("typed-wrong-field", "versions", [tensor(I0, "INT32", [2], {"fp32_contents": [1.0, 2.0]})]),
    _infer(
        "typed-two-fields",
        "versions",
        [tensor(I0, "INT32", [2], {"int_contents": [1, 2], "fp32_contents": [1.0, 2.0]})],
    ),
    _infer("typed-short", "versions", [tensor(I0, "INT32", [2], {"int_contents": [1]})]),
    _infer("typed-long", "versions", [tensor(I0, "INT32", [2], {"int_contents": [1, 2, 3]})]),
    _infer("typed-int8-over", "identity_int8", [tensor(I0, "INT8", [1, 1], {"int_contents": [300]})]),
    _infer("typed-uint8-over", "identity_uint8", [tensor(I0, "UINT8", [1, 1], {"uint_contents": [256]})]),
    _infer("typed-fp16", "identity_fp16", [tensor(I0, "FP16", [1, 2], {"fp32_contents": [1.0, 2.0]})]),
    _infer("typed-bf16", "identity_bf16", [tensor(I0, "BF16", [1, 2], {"fp32_contents": [1.0, 2.0]})]),
    _infer("typed-bytes-short", "identity_bytes", [tensor(I0, "BYTES", [1, 2], {"bytes_contents": [_b64(b"a")]})]),
    _infer("strings-short", "identity_bytes", [tensor(I0, "BYTES", [1, 2])], [byte_strings(b"one")]),
    _infer("strings-many", "identity_bytes", [tensor(I0, "BYTES", [1, 1])], [byte_strings(b"a", b"b")]),
    _infer("strings-cut", "identity_bytes", [tensor(I0, "BYTES", [1, 1])], [b"\x09\x00\x00\x00abc"]),
    _infer("strings-cut-length", "identity_bytes", [tensor(I0, "BYTES", [1, 2])], [byte_strings(b"a") + b"\x01"]),
    _infer(
        "shm-unknown",
        "versions",
        [
            tensor(
                I0,
                "INT32",
                [2],
                parameters={
                    "shared_memory_region": {"string_param": "r"},
                    "shared_memory_byte_size": {"int64_param": 8},
                },
            )
        ],
    ),
    _infer(
        "shm-no-size",
        "versions",
        [tensor(I0, "INT32", [2], parameters={"shared_memory_region": {"string_param": "r"}})],
    ),
    _infer(
        "shm-and-contents",
        "versions",
        [
            tensor(
                I0,
                "INT32",
                [2],
                {"int_contents": [1, 2]},
                parameters={
                    "shared_memory_region": {"string_param": "r"},
                    "shared_memory_byte_size": {"int64_param": 8},
                },
            )
        ],
    ),
    _infer("sequence-id-bool", "versions", [_ONE], **_parameter("sequence_id", bool_param=True)),
    _infer("sequence-start-int", "versions", [_ONE], **_parameter("sequence_start", int64_param=1)),
    _infer("sequence-end-text", "versions", [_ONE], **_parameter("sequence_end", string_param="x")),
    _infer("priority-text", "versions", [_ONE], **_parameter("priority", string_param="x")),
    _infer("priority-negative", "versions", [_ONE], **_parameter("priority", int64_param=-1)),
    _infer("timeout-text", "versions", [_ONE], **_parameter("timeout", string_param="x")),
    _infer("timeout-uint64", "versions", [_ONE], **_parameter("timeout", uint64_param=5)),
    _infer("parameter-double", "versions", [_ONE], **_parameter("p", double_param=1.5)),
    _infer("parameter-uint64", "versions", [_ONE], **_parameter("p", uint64_param=1)),
    _infer("parameter-unset", "versions", [_ONE], **_parameter("p")),
    _infer("parameter-reserved", "versions", [_ONE], **_parameter("triton_x", bool_param=True)),
    _infer(
        "parameter-empty-final",
        "versions",
        [_ONE],
        **_parameter("triton_enable_empty_final_response", bool_param=True),
    ),
    _infer(
        "class-text",
        "classify",
        [tensor(I0, "FP32", [1, 5])],
        [np.arange(5, dtype="<f4").tobytes()],
        outputs=[{"name": O0, "parameters": {"classification": {"string_param": "2"}}}],
    ),
    _infer(
        "class-negative",
        "classify",
        [tensor(I0, "FP32", [1, 5])],
        [np.arange(5, dtype="<f4").tobytes()],
        outputs=[{"name": O0, "parameters": {"classification": {"int64_param": -2}}}],
    ),
    _infer("error-with-id", "versions", [tensor(I0, "INT64", [2])], [_RAW16], id="55"),
    _call("infer-garbage", "ModelInfer", b"\xff\xff\xff"),
    _call("infer-cut", "ModelInfer", b"\x0a\x08versi"),
    _call("infer-empty", "ModelInfer", b""),
    GrpcCase(
        "grpc-deadline",
        "ModelInfer",
        (message("slow", [tensor(I0, "INT32", [1])], [_RAW16[:4]]),),
        timeout=0.1,
    ),
)


def _stream(case_id: str, *messages: Message | bytes, **more: Any) -> GrpcCase:
    return GrpcCase(f"grpc-stream-{case_id}", "ModelStreamInfer", messages, **more)


_OK = message("versions", [_PLAIN], [_RAW2], id="ok")
_UNKNOWN = message("nobody", [_PLAIN], [_RAW2], id="lost")
_WRONG = message("versions", [tensor(I0, "INT64", [2])], [_RAW16], id="wrong")
_SLOW = message("slow", [tensor(I0, "INT32", [1])], [_RAW16[4:8]], id="slow")
_FINAL = {"parameters": {"triton_enable_empty_final_response": {"bool_param": True}}}
_STRICT = (("triton_grpc_error", "true"),)

STREAM = (
    _stream("none"),
    _stream("one", _OK),
    _stream("three", _OK, {**_OK, "id": "second"}, {**_OK, "id": "third"}),
    _stream("no-id", message("versions", [_PLAIN], [_RAW2])),
    _stream("typed", message("versions", [_ONE])),
    _stream("two-models", _OK, message("add_sub", _TWO, [_RAW16, _RAW16], id="sum")),
    _stream("slow-first", _SLOW, _OK),
    _stream("error-unknown-model", _UNKNOWN),
    _stream("error-validation", _WRONG),
    _stream("error-no-data", message("versions", [_PLAIN], id="x")),
    _stream("error-then-ok", _UNKNOWN, _OK),
    _stream("wrong-then-ok", _WRONG, _OK),
    _stream("ok-error-ok", _OK, _WRONG, {**_OK, "id": "last"}),
    _stream("error-version", {**_OK, "model_version": "x"}),
    _stream("empty-final", {**_OK, **_FINAL}),
    _stream("reserved-parameter", {**_OK, "parameters": {"triton_x": {"bool_param": True}}}),
    _stream("strict-ok", _OK, metadata=_STRICT),
    _stream("strict-unknown-model", _UNKNOWN, _OK, metadata=_STRICT),
    _stream("strict-validation", _WRONG, _OK, metadata=_STRICT),
    _stream("garbage", b"\xff\xff\xff"),
    _stream(
        "class",
        message(
            "classify",
            [tensor(I0, "FP32", [1, 5])],
            [np.arange(5, dtype="<f4").tobytes()],
            outputs=[{"name": O0, "parameters": {"classification": {"int64_param": 1}}}],
        ),
    ),
)

CASES: tuple[GrpcCase, ...] = (*CONTROL, *INFER, *LARGE, *BAD, *STREAM)
