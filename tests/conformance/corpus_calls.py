"""gRPC cases about every call: messages that are none, names and versions of all kinds, settings, errors on streams."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cases import Case, GrpcCase, Headers
from .corpus_grpc import Message, message, tensor

# What each call is asked with that has nothing to tell; of a server whose models are all there.
RPCS: dict[str, Message] = {
    "ServerLive": {},
    "ServerReady": {},
    "ServerMetadata": {},
    "ModelReady": {"name": "versions"},
    "ModelMetadata": {"name": "versions"},
    "ModelConfig": {"name": "versions"},
    "ModelStatistics": {"name": "versions"},
    "RepositoryIndex": {},
    "RepositoryModelLoad": {"model_name": "versions"},
    "RepositoryModelUnload": {"model_name": "versions"},
    "SystemSharedMemoryStatus": {},
    "SystemSharedMemoryRegister": {"name": "r", "key": "/conformance-nobody", "byte_size": 8},
    "SystemSharedMemoryUnregister": {"name": "r"},
    "CudaSharedMemoryStatus": {},
    "CudaSharedMemoryRegister": {"name": "r", "byte_size": 8},
    "CudaSharedMemoryUnregister": {"name": "r"},
    "TraceSetting": {},
    "LogSettings": {},
}
# Messages that no call has: cut off; bytes that are no field; a text that is not UTF-8; a field that nobody knows; a
# number in the place of the first field, whatever that is.
_CUT, _GARBAGE, _NOT_UTF8 = b"\x0a\x08abc", b"\xff\xff\xff", b"\x0a\x01\xff"
_UNKNOWN, _NUMBER = b"\xc0\x3e\x01", b"\x08\x01"


def _call(case_id: str, method: str, request: Message | bytes, mask: str = "", **more: Any) -> GrpcCase:
    return GrpcCase(f"calls-{case_id}", method, (request,), mask=mask, **more)


_MASKS = {"ServerMetadata": "server-name", "ModelConfig": "config", "ModelStatistics": "stats"}

EVERY = tuple(
    _call(f"{rpc.lower()}-{kind}", rpc, request, _MASKS.get(rpc, ""), compression=coding)
    for rpc, plain in RPCS.items()
    for kind, request, coding in (
        ("plain", plain, ""),
        ("gzip", plain, "gzip"),
        ("empty", {}, ""),
        ("cut", _CUT, ""),
        ("garbage", _GARBAGE, ""),
        ("not-utf8", _NOT_UTF8, ""),
        ("unknown-field", _UNKNOWN, ""),
        ("number", _NUMBER, ""),
    )
    # All statistics have what other cases have asked.
    if rpc != "ModelStatistics" or kind not in ("empty", "unknown-field", "number")
)

_VERSIONED = {"ModelReady": "", "ModelMetadata": "", "ModelConfig": "config", "ModelStatistics": "stats"}

VERSIONS = tuple(
    _call(f"{rpc.lower()}-version-{kind}", rpc, {"name": name, "version": version}, mask)
    for rpc, mask in _VERSIONED.items()
    for kind, name, version in (
        ("one", "versions", "1"),
        ("zero", "versions", "0"),
        ("between", "versions", "2"),
        ("minus-one", "versions", "-1"),
        ("minus-two", "versions", "-2"),
        ("zeros", "versions", "003"),
        ("text", "versions", "latest"),
        ("int64", "versions", str(2**63 - 1)),
        ("over-int64", "versions", str(2**63)),
        ("of-unknown-model", "nobody", "1"),
        ("text-of-unknown-model", "nobody", "x"),
        ("not-latest", "latest", "1"),
    )
)

NAMES = tuple(
    _call(f"{rpc.lower()}-name-{kind}", rpc, {"name": name}, mask)
    for rpc, mask in _VERSIONED.items()
    for kind, name in (
        ("unknown", "nobody"),
        ("space", " versions"),
        ("case", "Versions"),
        ("slash", "versions/1"),
        ("dots", ".."),
        ("percent", "%76ersions"),
        ("unicode", "grüße"),
    )
)


def _parameters(**values: Any) -> dict[str, Any]:
    return {"model_name": "versions", "parameters": values}


# In the control mode `none`.
REPOSITORY = (
    _call("index-ready", "RepositoryIndex", {"ready": True}),
    _call("index-named", "RepositoryIndex", {"repository_name": "one"}),
    _call("load-unknown", "RepositoryModelLoad", {"model_name": "nobody"}),
    _call("load-config", "RepositoryModelLoad", _parameters(config={"string_param": "{}"})),
    _call("load-config-number", "RepositoryModelLoad", _parameters(config={"int64_param": 1})),
    _call("load-file-text", "RepositoryModelLoad", _parameters(**{"file:1/x": {"string_param": "x"}})),
    _call("load-unknown-parameter", "RepositoryModelLoad", _parameters(colour={"string_param": "red"})),
    _call("load-unset-parameter", "RepositoryModelLoad", _parameters(config={})),
    _call("unload-unknown", "RepositoryModelUnload", {"model_name": "nobody"}),
    _call("unload-dependents", "RepositoryModelUnload", _parameters(unload_dependents={"bool_param": True})),
    _call("unload-dependents-number", "RepositoryModelUnload", _parameters(unload_dependents={"int64_param": 1})),
    _call("unload-unknown-parameter", "RepositoryModelUnload", _parameters(colour={"string_param": "red"})),
)


def _log(case_id: str, **settings: Any) -> GrpcCase:
    return _call(f"log-{case_id}", "LogSettings", {"settings": settings})


def _trace(case_id: str, model: str = "", **settings: list[str]) -> GrpcCase:
    named = {"model_name": model} if model else {}
    return _call(
        f"trace-{case_id}", "TraceSetting",
        {**named, "settings": {name: {"value": value} for name, value in settings.items()}},
    )  # fmt: skip


# None of the wrong ones changes anything; traces go nowhere.
SETTINGS = (
    _log("info-number", log_info={"uint32Param": 1}),
    _log("info-unset", log_info={}),
    _log("warning-text", log_warning={"stringParam": "false"}),
    _log("error-text", log_error={"stringParam": ""}),
    _log("verbose-bool", log_verbose_level={"boolParam": True}),
    _log("verbose-unset", log_verbose_level={}),
    _log("verbose-most", log_verbose_level={"uint32Param": 2**32 - 1}),
    _log("verbose-back", log_verbose_level={"uint32Param": 0}),
    _log("format-number", log_format={"uint32Param": 1}),
    _log("format-bool", log_format={"boolParam": True}),
    _log("format-empty", log_format={"stringParam": ""}),
    _log("format-case", log_format={"stringParam": "iso8601"}),
    _log("file-empty", log_file={"stringParam": ""}),
    _log("file-bool", log_file={"boolParam": False}),
    _log("name-empty", **{"": {"boolParam": True}}),
    _log("at-end"),
    _trace("model", "versions"),
    _trace("unknown-model", "nobody"),
    _trace("rate", trace_rate=["5"]),
    _trace("rate-negative", trace_rate=["-1"]),
    _trace("rate-empty", trace_rate=[""]),
    _trace("rate-space", trace_rate=[" 5"]),
    _trace("rate-back", trace_rate=[]),
    _trace("count-text", trace_count=["x"]),
    _trace("count-over", trace_count=["99999999999"]),
    _trace("count-two", trace_count=["1", "2"]),
    _trace("count-of-model", "versions", trace_count=["4"]),
    _trace("count-of-model-back", "versions", trace_count=[]),
    _trace("frequency-text", log_frequency=["x"]),
    _trace("frequency-negative", log_frequency=["-1"]),
    _trace("frequency-over", log_frequency=["99999999999"]),
    _trace("frequency-back", log_frequency=[]),
    _trace("frequency-two", log_frequency=["1", "2"]),
    _trace("level-twice", trace_level=["TIMESTAMPS", "TIMESTAMPS"]),
    _trace("level-case", trace_level=["timestamps"]),
    _trace("level-back", trace_level=[]),
    _trace("file-none", trace_file=[]),
    _trace("at-end"),
)

_PLAIN = tensor("INPUT0", "INT32", [2])
_RAW2 = np.array([7, 8], "<i4").tobytes()
_FIVE = tensor("INPUT0", "FP32", [1, 5])
_RAW5 = np.arange(5, dtype="<f4").tobytes()


def _classes(case_id: str, **value: Any) -> GrpcCase:
    outputs = [{"name": "OUTPUT0", "parameters": {"classification": value}}]
    return _call(f"class-{case_id}", "ModelInfer", message("classify", [_FIVE], [_RAW5], outputs=outputs))


CLASSES = (
    _classes("zero", int64_param=0),
    _classes("all", int64_param=5),
    _classes("more", int64_param=50),
    _classes("bool", bool_param=True),
    _classes("uint64", uint64_param=2),
    _classes("double", double_param=2.0),
    _classes("unset"),
    _classes("int32-over", int64_param=2**31),
    _classes("uint32-over", int64_param=2**32),
)


def _stream(case_id: str, *messages: Message | bytes, **more: Any) -> GrpcCase:
    return GrpcCase(f"calls-stream-{case_id}", "ModelStreamInfer", messages, **more)


_OK = message("versions", [_PLAIN], [_RAW2], id="ok")


def _wrong(**changes: Any) -> Message:
    return {**message("versions", [_PLAIN], [_RAW2], id="wrong"), **changes}


def _metadata(value: str) -> Headers:
    return (("triton_grpc_error", value),)


STREAM = (
    _stream("unknown-version", _wrong(model_version="2"), _OK),
    _stream("version-zero", _wrong(model_version="0"), _OK),
    _stream("no-model", _wrong(model_name=""), _OK),
    _stream("no-inputs", _wrong(inputs=[], raw_input_contents=[]), _OK),
    _stream("empty-message", {}, _OK),
    _stream("unknown-input", _wrong(inputs=[tensor("INPUT9", "INT32", [2])]), _OK),
    _stream("unknown-output", _wrong(outputs=[{"name": "OUTPUT9"}]), _OK),
    _stream("short", _wrong(raw_input_contents=[]), _OK),
    _stream("datatype", _wrong(inputs=[tensor("INPUT0", "INT33", [2])]), _OK),
    _stream("shape", _wrong(inputs=[tensor("INPUT0", "INT32", [3])]), _OK),
    _stream("region-unknown",
            message("versions", [tensor("INPUT0", "INT32", [2], parameters={
                "shared_memory_region": {"string_param": "r"},
                "shared_memory_byte_size": {"int64_param": 8}})], id="wrong"),
            _OK),
    _stream("priority-text", _wrong(parameters={"priority": {"string_param": "x"}}), _OK),
    _stream("timeout-text", _wrong(parameters={"timeout": {"string_param": "x"}}), _OK),
    _stream("sequence-start-text", _wrong(parameters={"sequence_start": {"string_param": "x"}}), _OK),
    _stream("parameter-unset", _wrong(parameters={"p": {}}), _OK),
    _stream("class-text", _wrong(outputs=[{"name": "OUTPUT0", "parameters": {
        "classification": {"string_param": "1"}}}]), _OK),
    _stream("same-id", _OK, _OK),
    _stream("strict-false", _wrong(model_version="2"), _OK, metadata=_metadata("false")),
    _stream("strict-one", _wrong(model_version="2"), _OK, metadata=_metadata("1")),
    _stream("strict-case", _wrong(model_version="2"), _OK, metadata=_metadata("True")),
    _stream("gzip", _OK, compression="gzip"),
    _stream("not-utf8", b"\x0a\x01\xff"),
    _stream("cut", b"\x0a\x08abc"),
)  # fmt: skip

HEALTH = (
    _call("health-garbage", "Health/Check", _GARBAGE),
    _call("health-unknown-field", "Health/Check", _UNKNOWN),
)

CASES: tuple[Case, ...] = (*EVERY, *HEALTH, *VERSIONS, *NAMES, *REPOSITORY, *SETTINGS, *CLASSES, *STREAM)
