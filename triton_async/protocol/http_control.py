"""JSON bodies of the v2 control calls: repository requests read, every answer written. No I/O."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from triton_async.config.trace_config import NUMBERS, parse_levels, parse_number
from triton_async.defines import CUDA_IPC_HANDLE_NBYTES, LOG_VERBOSE_MAX
from triton_async.errors import InvalidArg, Unavailable, Unsupported
from triton_async.logs import LOG_FORMATS
from triton_async.protocol.json_cut import cut_parameters, load_control
from triton_async.protocol.json_text import dumps, error_body, loads
from triton_async.protocol.json_value import as_array, as_bool, as_string, as_uint, member, members, present

__all__ = [
    "dumps", "error_body", "parse_archive", "parse_cuda_region", "parse_index", "parse_load", "parse_log_settings",
    "parse_system_region", "parse_trace_settings", "parse_unload", "statistics_body",
]  # fmt: skip

# Characters of base64 that are decoded at once: a fifth of a millisecond.
_BASE64_PIECE = 1 << 16

_NOT_READY = "Invalid value for 'ready': expected a boolean"


def parse_index(body: Any) -> bool:
    """Whether a repository index request asks for ready models only. An empty body asks for all."""
    try:
        document = load_control(body) if len(body) else None
    except InvalidArg as error:
        if "JSON nesting depth exceeds" in error.message and b'"ready"' in bytes(body):
            raise InvalidArg(_NOT_READY) from None
        raise
    if not isinstance(document, dict) or document.get("ready") is None:
        return False
    ready = document["ready"]
    if not isinstance(ready, bool):
        raise InvalidArg(_NOT_READY)
    return ready


def parse_archive(body: Any) -> tuple[str, str]:
    """Name and folder of a model that SageMaker brings."""
    document = load_control(body)
    if not isinstance(document, dict):
        raise InvalidArg("'model_name' and 'url' are expected")
    found = []
    for key in ("model_name", "url"):
        value = document.get(key)
        if not isinstance(value, str) or not value or "\0" in value:
            raise InvalidArg(f"'{key}' must be a text that is not empty")
        found.append(value)
    return found[0], found[1]


def parse_load(body: Any) -> dict[str, str | bytes]:
    """Parameters of a load request: `config` as text, `file:<version>/<name>` as bytes."""
    found: dict[str, str | bytes] = {}
    for key, text in ((cut_parameters(body) if len(body) else None) or {}).items():
        if key.startswith("file:"):
            found[key] = _decode_file(key, text)
            continue
        found[key] = as_string(loads(bytes(text)), "")
        if key != "config":
            raise InvalidArg("unexpected error on creating Triton parameter")
    return found


def parse_cuda_region(body: Any) -> tuple[bytes, int, int]:
    """IPC handle, GPU and byte size of a request to register CUDA shared memory."""
    document = load_control(body)
    if not isinstance(document, dict) or "raw_handle" not in document:
        raise InvalidArg("Shared memory register request has no 'raw_handle' field")
    text = as_string(member(document["raw_handle"], "b64", ""), "")
    nbytes = as_uint(member(document, "byte_size", ""), "")
    device_id = as_uint(member(document, "device_id", ""), "")
    try:
        handle = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        handle = b""
    if len(handle) != CUDA_IPC_HANDLE_NBYTES:
        raise InvalidArg("'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t")
    return handle, device_id, nbytes


def parse_system_region(body: Any) -> tuple[str, int, int]:
    """Key, offset and byte size of a request to register system shared memory."""
    document = load_control(body)
    for field in ("key", "byte_size"):
        if not isinstance(document, dict) or field not in document:
            raise InvalidArg(f"Shared memory register request has no '{field}' field")
    key = as_string(document["key"], "")
    offset = as_uint(document["offset"], "") if "offset" in document else 0
    return key, offset, as_uint(document["byte_size"], "")


def _decode_file(key: str, text: memoryview) -> bytes:
    """The bytes of a file, from the JSON text of a string in base64."""
    if bytes(text[:1]) != b'"':
        as_string(None, "")
    pieces = []
    carried = b""
    # In pieces, so that other threads get the GIL in between.
    for at in range(1, len(text) - 1, _BASE64_PIECE):
        end = min(at + _BASE64_PIECE, len(text) - 1)
        piece = bytes(text[at:end])
        if b"\\" in piece:  # which base64 does not need
            return _decode_text(key, as_string(loads(bytes(text)), ""))
        carried += b"".join(piece.split())
        whole = len(carried) if end == len(text) - 1 else max(len(carried) - 4, 0) // 4 * 4
        pieces.append(_decode_text(key, carried[:whole]))
        carried = carried[whole:]
    if any(len(piece) % 3 for piece in pieces[:-1]):
        raise _no_base64(key)  # its end stands in the middle
    return b"".join(pieces)


def _decode_text(key: str, text: str | bytes) -> bytes:
    try:
        return base64.b64decode("".join(text.split()) if isinstance(text, str) else text, validate=True)
    except (binascii.Error, ValueError):
        # Triton's decoder skips what is not base64 and loads the rest.
        raise _no_base64(key) from None


def _no_base64(key: str) -> InvalidArg:
    return InvalidArg(f"load parameter '{key}' is not valid base64")


def parse_unload(body: Any) -> bool:
    """Whether the models that an ensemble depends on are to be unloaded with it."""
    document = load_control(body) if len(body) else None
    parameters = document.get("parameters") if isinstance(document, dict) else None
    if not isinstance(parameters, dict) or parameters.get("unload_dependents") is None:
        return False
    return as_bool(parameters["unload_dependents"], "Unable to parse 'unload_dependents'")


def parse_log_settings(body: Any) -> dict[str, Any]:
    """Changes of the log settings that a request asks for, checked; null stands for no change."""
    found: dict[str, Any] = {}
    for name, value in present(load_control(body)).items():
        what = f"Unable to parse '{name}'"
        if name == "log_file":
            raise Unsupported("log file location can not be updated through network protocol")
        if name in ("log_info", "log_warning", "log_error"):
            found[name] = as_bool(value, what)
        elif name == "log_verbose_level":
            found[name] = min(as_uint(value, what), LOG_VERBOSE_MAX)
        elif name == "log_format":
            found[name] = as_string(value, what)
            if found[name] not in LOG_FORMATS:
                raise Unavailable(f"invalid argument for --log_format, got: {found[name][:100]}")
        else:
            raise InvalidArg(f"unknown log setting '{name[:100]}'")
    return found


def parse_trace_settings(body: Any) -> dict[str, int | None]:
    """Changes of the trace settings that a request asks for, checked; None takes an earlier change back."""
    document = load_control(body)
    found: dict[str, int | None] = {}
    for name, value in members(document, "") if isinstance(document, dict) else ():
        if name == "trace_file":
            raise Unsupported("trace file location can not be updated through network protocol")
        if name == "trace_level":
            levels = None if value is None else [as_string(level, "") for level in as_array(value, "")]
            if levels != []:  # which changes nothing, as in Triton
                found[name] = None if levels is None else parse_levels(levels)
        elif name in NUMBERS:
            found[name] = None if value is None else parse_number(name, as_string(value, ""))
        else:
            raise InvalidArg(f"unknown trace setting '{name[:100]}'")
    return found


def statistics_body(entries: list[dict[str, Any]]) -> bytes:
    """Answer of the statistics calls, from the entries of `InferenceServer.statistics`."""
    return dumps({"model_stats": entries})
