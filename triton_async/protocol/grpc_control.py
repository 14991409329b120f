"""Control messages of the gRPC service: what the server says, as messages, and what requests ask, as Python values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from triton_async import protos
from triton_async.config.trace_config import NUMBERS, parse_levels, parse_number
from triton_async.defines import LOG_VERBOSE_MAX
from triton_async.errors import InvalidArg, Unsupported
from triton_async.logs import LOG_FORMATS

_MODEL_METADATA = protos.message("inference.ModelMetadataResponse")
_SERVER_METADATA = protos.message("inference.ServerMetadataResponse")
_MODEL_CONFIG = protos.message("inference.ModelConfigResponse")
_STATISTICS = protos.message("inference.ModelStatisticsResponse")
_RESPONSE_STATISTICS = protos.message("inference.InferResponseStatistics")
_CUDA_REGIONS = protos.message("inference.CudaSharedMemoryStatusResponse")
_CUDA_REGION = protos.message("inference.CudaSharedMemoryStatusResponse.RegionStatus")
_SYSTEM_REGIONS = protos.message("inference.SystemSharedMemoryStatusResponse")
_SYSTEM_REGION = protos.message("inference.SystemSharedMemoryStatusResponse.RegionStatus")
_LOG_SETTINGS = protos.message("inference.LogSettingsResponse")
_TRACE_SETTINGS = protos.message("inference.TraceSettingResponse")
# Setting -> field of its value, and what it is called in errors.
_LOG_PARAMETERS = {
    "log_file": ("string_param", "string"), "log_info": ("bool_param", "boolean"),
    "log_warning": ("bool_param", "boolean"), "log_error": ("bool_param", "boolean"),
    "log_verbose_level": ("uint32_param", "int32"), "log_format": ("string_param", "string"),
}  # fmt: skip
_INDEX = protos.message("inference.RepositoryIndexResponse")


def server_metadata(metadata: Mapping[str, Any]) -> Any:
    return _SERVER_METADATA(**metadata)


def model_metadata(metadata: Mapping[str, Any]) -> Any:
    return _MODEL_METADATA(**metadata)


def model_config(config: Any) -> Any:
    """`config`: a completed inference.ModelConfig; it is copied."""
    return _MODEL_CONFIG(config=config)


def statistics(entries: Iterable[Mapping[str, Any]]) -> Any:
    """`entries`: as the statistics extension has them in JSON; all keys are field names."""
    message = _STATISTICS()
    for entry in entries:
        add_statistics(message, entry)
    return message


def add_statistics(message: Any, entry: Mapping[str, Any]) -> None:
    """One more entry of `statistics`."""
    fields = dict(entry)
    by_response = fields.pop("response_stats", {})
    model = message.model_stats.add(**fields)
    for index, durations in by_response.items():
        model.response_stats[index].CopyFrom(_RESPONSE_STATISTICS(**durations))


def repository_index(rows: Iterable[Mapping[str, str]]) -> Any:
    return _INDEX(models=[dict(row) for row in rows])


def cuda_regions(entries: Iterable[Mapping[str, Any]]) -> Any:
    """`entries`: as the shared memory extension has them in JSON; all keys are field names."""
    return _CUDA_REGIONS(regions={entry["name"]: _CUDA_REGION(**entry) for entry in entries})


def system_regions(entries: Iterable[Mapping[str, Any]]) -> Any:
    return _SYSTEM_REGIONS(regions={entry["name"]: _SYSTEM_REGION(**entry) for entry in entries})


def check_repository(request: Any) -> None:
    """Repositories have no names, as in Triton."""
    if request.repository_name:
        raise Unsupported("'repository_name' specification is not supported")


def load_parameters(request: Any) -> dict[str, str | bytes] | None:
    """`config` (JSON text) and `file:<path>` (contents) of a load request; None when it has none."""
    found: dict[str, str | bytes] = {}
    for key, parameter in request.parameters.items():
        if key == "config":
            expected = "string_param"
        elif key.startswith("file:"):
            expected = "bytes_param"
        else:
            raise InvalidArg(f"unrecognized load parameter '{key}'.")
        if parameter.WhichOneof("parameter_choice") != expected:
            raise InvalidArg(f"invalid value type for load parameter '{key}', expected {expected}.")
        found[key] = getattr(parameter, expected)
    return found or None


def log_settings(settings: Mapping[str, Any]) -> Any:
    """Answer of LogSettings: `settings` by Triton's names."""
    message = _LOG_SETTINGS()
    for name, value in settings.items():
        setattr(message.settings[name], _LOG_PARAMETERS[name][0], value)
    return message


def log_changes(request: Any) -> dict[str, Any]:
    """Changes of the log settings that a request asks for, checked."""
    found: dict[str, Any] = {}
    for name, setting in request.settings.items():
        if name == "log_file":
            raise Unsupported("log file location can not be updated through network protocol")
        if name not in _LOG_PARAMETERS:
            raise InvalidArg(f"unknown log setting '{name[:100]}'")
        parameter, expected = _LOG_PARAMETERS[name]
        if setting.WhichOneof("parameter_choice") != parameter:
            raise InvalidArg(f"expect {expected} for '{name}'")
        found[name] = getattr(setting, parameter)
        if name == "log_verbose_level":
            found[name] = min(found[name], LOG_VERBOSE_MAX)
        if name == "log_format" and found[name] not in LOG_FORMATS:
            raise InvalidArg(f"invalid argument for log_format, got: {found[name][:100]}")
    return found


def trace_changes(request: Any) -> dict[str, int | None]:
    """Changes of the trace settings that a request asks for, checked; None takes an earlier change back."""
    found: dict[str, int | None] = {}
    for name, setting in request.settings.items():
        values = list(setting.value)
        if name == "trace_file":
            raise Unsupported("trace file location can not be updated through network protocol")
        if name == "trace_level":
            found[name] = parse_levels(values) if values else None
        elif name in NUMBERS:
            if len(values) > 1:
                raise InvalidArg(f"expect only 1 value for '{name}'")
            found[name] = parse_number(name, values[0], " ") if values else None
        else:
            raise InvalidArg(f"unknown trace setting '{name[:100]}'")
    return found


def trace_settings(settings: Mapping[str, str | Sequence[str]]) -> Any:
    """Answer of TraceSetting: `settings` as HTTP has them."""
    message = _TRACE_SETTINGS()
    for name, value in settings.items():
        message.settings[name].value.extend([value] if isinstance(value, str) else value)
    return message


def unload_dependents(request: Any) -> bool:
    """The one parameter of an unload request; others are ignored, as Triton does."""
    if "unload_dependents" not in request.parameters:
        return False
    parameter = request.parameters["unload_dependents"]
    if parameter.WhichOneof("parameter_choice") != "bool_param":
        raise InvalidArg("invalid value type for 'unload_dependents' parameter, expected bool_param.")
    return bool(parameter.bool_param)
