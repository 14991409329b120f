"""Control messages of the gRPC service: what the server says, as messages, and what requests ask, as Python values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from triton_async import protos
from triton_async.errors import InvalidArg, Unsupported

_MODEL_METADATA = protos.message("inference.ModelMetadataResponse")
_SERVER_METADATA = protos.message("inference.ServerMetadataResponse")
_MODEL_CONFIG = protos.message("inference.ModelConfigResponse")
_STATISTICS = protos.message("inference.ModelStatisticsResponse")
_RESPONSE_STATISTICS = protos.message("inference.InferResponseStatistics")
_CUDA_REGIONS = protos.message("inference.CudaSharedMemoryStatusResponse")
_CUDA_REGION = protos.message("inference.CudaSharedMemoryStatusResponse.RegionStatus")
_SYSTEM_REGIONS = protos.message("inference.SystemSharedMemoryStatusResponse")
_SYSTEM_REGION = protos.message("inference.SystemSharedMemoryStatusResponse.RegionStatus")
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
        fields = dict(entry)
        by_response = fields.pop("response_stats", {})
        model = message.model_stats.add(**fields)
        for index, durations in by_response.items():
            model.response_stats[index].CopyFrom(_RESPONSE_STATISTICS(**durations))
    return message


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


def unload_dependents(request: Any) -> bool:
    """The one parameter of an unload request; others are ignored, as Triton does."""
    if "unload_dependents" not in request.parameters:
        return False
    parameter = request.parameters["unload_dependents"]
    if parameter.WhichOneof("parameter_choice") != "bool_param":
        raise InvalidArg("invalid value type for 'unload_dependents' parameter, expected bool_param.")
    return bool(parameter.bool_param)
