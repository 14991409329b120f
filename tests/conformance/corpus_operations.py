"""Cases about shared memory that is not there, and about log settings. Order matters: settings last."""

from __future__ import annotations

import json
from typing import Any

from .cases import Case, GrpcCase, HttpCase, get

_SYSTEM, _CUDA, _LOGGING = "/v2/systemsharedmemory", "/v2/cudasharedmemory", "/v2/logging"


def _post(case_id: str, path: str, body: Any = None) -> HttpCase:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    return HttpCase(f"operations-{case_id}", "POST", path, (), data)


def _grpc(case_id: str, method: str, **message: Any) -> GrpcCase:
    return GrpcCase(f"operations-grpc-{case_id}", method, (message,))


def _log(case_id: str, **settings: Any) -> GrpcCase:
    return _grpc(case_id, "LogSettings", settings=settings)


_REGION = {"key": "/conformance-nobody", "offset": 0, "byte_size": 64}

# Settings of every kind, and what is none of them.
_LOG_BODIES: dict[str, Any] = {
    "level-negative": {"log_verbose_level": -1},
    "level-float": {"log_verbose_level": 1.5},
    "level-bool": {"log_verbose_level": True},
    "level-null": {"log_verbose_level": None},
    "level-over-uint32": {"log_verbose_level": 2**32},
    "level-over-uint64": {"log_verbose_level": 2**64},
    "level-back": {"log_verbose_level": 0},
    "info-number": {"log_info": 1},
    "warning-list": {"log_warning": []},
    "error-object": {"log_error": {}},
    "format-number": {"log_format": 1},
    "format-null": {"log_format": None},
    "format-empty": {"log_format": ""},
    "format-case": {"log_format": "iso8601"},
    "format-back": {"log_format": "default"},
    "file-null": {"log_file": None},
    "file-number": {"log_file": 1},
    "one-of-two-wrong": {"log_info": "x", "log_error": False},
    "after-one-of-two": {},
    "list": [],
    "number": 5,
    "text-alone": "x",
    "empty": b"",
    "trailing": b"{} x",
}

CASES: tuple[Case, ...] = (
    get("operations-system-status", f"{_SYSTEM}/status"),
    get("operations-system-status-unknown", f"{_SYSTEM}/region/nobody/status"),
    _post("system-register-no-key", f"{_SYSTEM}/region/r/register", _REGION),
    _post("system-register-empty", f"{_SYSTEM}/region/r/register", {}),
    _post("system-register-no-size", f"{_SYSTEM}/region/r/register", {"key": "/conformance-nobody"}),
    _post("system-register-no-body", f"{_SYSTEM}/region/r/register"),
    _post("system-register-no-json", f"{_SYSTEM}/region/r/register", b"{"),
    _post("system-register-text-size", f"{_SYSTEM}/region/r/register", {**_REGION, "byte_size": "64"}),
    _post("system-unregister-unknown", f"{_SYSTEM}/region/nobody/unregister"),
    _post("system-unregister-all", f"{_SYSTEM}/unregister"),
    get("operations-system-register-get", f"{_SYSTEM}/region/r/register"),
    get("operations-cuda-status", f"{_CUDA}/status"),
    _post("cuda-unregister-all", f"{_CUDA}/unregister"),
    get("operations-shm-unknown-kind", "/v2/othersharedmemory/status"),
    _grpc("system-status", "SystemSharedMemoryStatus"),
    _grpc("system-status-unknown", "SystemSharedMemoryStatus", name="nobody"),
    _grpc("system-register-no-key", "SystemSharedMemoryRegister", name="r", key="/conformance-nobody", byteSize=64),
    _grpc("system-unregister-unknown", "SystemSharedMemoryUnregister", name="nobody"),
    _grpc("system-unregister-all", "SystemSharedMemoryUnregister"),
    _grpc("cuda-status", "CudaSharedMemoryStatus"),
    _grpc("cuda-unregister-all", "CudaSharedMemoryUnregister"),
    get("operations-logging", _LOGGING),
    _log("logging"),
    _post("logging-level", _LOGGING, {"log_verbose_level": 1}),
    _post("logging-switch", _LOGGING, {"log_info": False, "log_warning": False}),
    get("operations-logging-after", _LOGGING),
    _post("logging-format", _LOGGING, {"log_format": "ISO8601"}),
    _post("logging-format-unknown", _LOGGING, {"log_format": "other"}),
    _post("logging-file", _LOGGING, {"log_file": "x"}),
    _post("logging-null", _LOGGING, {"log_info": None}),
    _post("logging-text", _LOGGING, {"log_info": "false"}),
    _post("logging-text-level", _LOGGING, {"log_verbose_level": "2"}),
    _post("logging-unknown", _LOGGING, {"log_other": True}),
    _post("logging-no-json", _LOGGING, b"{"),
    _log("logging-level", log_verbose_level={"uint32Param": 2}),
    _log("logging-switch", log_error={"boolParam": False}),
    _log("logging-after"),
    _log("logging-format", log_format={"stringParam": "default"}),
    _log("logging-format-unknown", log_format={"stringParam": "other"}),
    _log("logging-file", log_file={"stringParam": "x"}),
    _log("logging-text", log_info={"stringParam": "true"}),
    _log("logging-text-level", log_verbose_level={"stringParam": "2"}),
    _log("logging-unknown", log_other={"boolParam": True}),
    _log("logging-all", log_info={"boolParam": True}, log_warning={"boolParam": True}, log_error={"boolParam": True}),
    *(_post(f"logging-{kind}", _LOGGING, body) for kind, body in _LOG_BODIES.items()),
    get("operations-logging-at-end", _LOGGING),
)
