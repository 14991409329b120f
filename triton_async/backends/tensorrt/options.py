"""What configs and the command line say about TensorRT: backend settings and model parameters, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triton_async import defines
from triton_async.config.paths import safe_join, safe_name
from triton_async.errors import InvalidArg

STRATEGIES = ("STATIC", "ON_PROFILE_CHANGE")

# Parameters that say how to build a plan from ONNX.
MIN_SHAPES = "trt_profile_min_shapes"
OPT_SHAPES = "trt_profile_opt_shapes"
MAX_SHAPES = "trt_profile_max_shapes"
LEVEL = "trt_builder_optimization_level"
WORKSPACE = "max_workspace_size_bytes"
PRECISION = "precision_mode"
BUILD_PARAMETERS = frozenset((MIN_SHAPES, OPT_SHAPES, MAX_SHAPES, LEVEL, WORKSPACE, PRECISION))

_POLICIES = ("DEVICE_BLOCKING", "BLOCKING")

_STRATEGY = "execution_context_allocation_strategy"


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """`--backend-config=tensorrt,…`. `cache_directory` "": the user's; `cache_nbytes` 0: plans are not kept."""

    library: str = ""
    plugins: str = ""
    version_compatible: bool = False
    cache_directory: str = ""
    cache_nbytes: int = defines.PLAN_CACHE_NBYTES


def backend_settings(settings: Mapping[str, str]) -> BackendSettings:
    """The settings. InvalidArg for a value that cannot be.

    Two of Triton's change nothing here: `coalesce-request-input` lets it copy neighbouring inputs at once, which our
    gathering does by itself, and `execution-policy` says how many threads drive the instances of a GPU, ours being
    one for each.
    """
    _flag(settings, "coalesce-request-input")
    policy = settings.get("execution-policy", _POLICIES[0])
    if policy not in _POLICIES:
        raise InvalidArg(
            f"--backend-config=tensorrt,execution-policy is '{policy[:100]}', expected one of: {', '.join(_POLICIES)}"
        )
    return BackendSettings(
        library=settings.get("library", "").strip(),
        plugins=settings.get("plugins", ""),
        version_compatible=_flag(settings, "version-compatible"),
        cache_directory=settings.get("plan-cache-directory", "").strip(),
        cache_nbytes=_number(
            "--backend-config=tensorrt,plan-cache-byte-size",
            settings.get("plan-cache-byte-size", str(defines.PLAN_CACHE_NBYTES)),
            2**63 - 1,
        ),
    )


def allocation_strategy(proto: Any) -> str:
    """The parameter `execution_context_allocation_strategy`: STATIC when it is not given."""
    value = _parameter(proto, _STRATEGY) or STRATEGIES[0]
    if value not in STRATEGIES:
        raise InvalidArg(
            f"model '{proto.name}': parameter '{_STRATEGY}' is '{value[:100]}', expected one of: "
            f"{', '.join(STRATEGIES)}"
        )
    return value


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """Minimum, optimum and maximum dims of one input in one profile, batch dimension included."""

    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BuildParameters:
    """How the config wants a plan to be built. `profiles`: what is said of inputs, one mapping for each profile.

    `level` -1 and `workspace_nbytes` 0: the library's own. `precision` "": as the model says.
    """

    profiles: tuple[Mapping[str, ShapeRange], ...] = ()
    level: int = -1
    workspace_nbytes: int = 0
    precision: str = ""


def build_parameters(proto: Any) -> BuildParameters:
    """The build parameters of a config. InvalidArg naming the parameter for a value that cannot be."""
    where = f"model '{proto.name}': parameter"
    unknown = sorted(key for key in proto.parameters if key.startswith("trt_") and key not in BUILD_PARAMETERS)
    if unknown:
        raise InvalidArg(f"{where} '{unknown[0]}' is not known; there are: {', '.join(sorted(BUILD_PARAMETERS))}")
    level = _parameter(proto, LEVEL)
    precision = _parameter(proto, PRECISION).upper()
    if precision not in ("", "FP32", "FP16", "BF16", "INT8"):
        raise InvalidArg(f"{where} '{PRECISION}' is '{precision[:100]}', expected FP32, FP16, BF16 or INT8")
    return BuildParameters(
        profiles=_profiles(proto, where),
        level=_number(f"{where} '{LEVEL}'", level, 5) if level else -1,
        workspace_nbytes=_number(f"{where} '{WORKSPACE}'", _parameter(proto, WORKSPACE) or "0", 2**63 - 1),
        precision=precision,
    )


def _profiles(proto: Any, where: str) -> tuple[Mapping[str, ShapeRange], ...]:
    parsed = [_shapes(proto, where, key) for key in (MIN_SHAPES, OPT_SHAPES, MAX_SHAPES)]
    if not any(parsed):
        return ()
    minimum, optimum, maximum = parsed
    same = [{name: len(shapes) for name, shapes in one.items()} for one in parsed]
    if not same[0] == same[1] == same[2] or len(set(same[0].values())) != 1:
        raise InvalidArg(
            f"{where}s '{MIN_SHAPES}', '{OPT_SHAPES}' and '{MAX_SHAPES}' must name the same inputs, and each input as "
            "often as there are profiles"
        )
    profiles: list[Mapping[str, ShapeRange]] = []
    for index in range(next(iter(same[0].values()))):
        profile = {}
        for name in minimum:
            found = ShapeRange(minimum[name][index], optimum[name][index], maximum[name][index])
            ranks = {len(found.minimum), len(found.optimum), len(found.maximum)}
            dims = zip(found.minimum, found.optimum, found.maximum, strict=False)
            if len(ranks) != 1 or not all(1 <= low <= best <= high for low, best, high in dims):
                raise InvalidArg(
                    f"{where}s '{MIN_SHAPES}', '{OPT_SHAPES}' and '{MAX_SHAPES}' of input '{name}' must have as many "
                    "dimensions as each other, with 1 <= minimum <= optimum <= maximum"
                )
            profile[name] = found
        profiles.append(profile)
    return tuple(profiles)


def _shapes(proto: Any, where: str, key: str) -> dict[str, list[tuple[int, ...]]]:
    """`a:1x3x224x224,b:1x4` of one parameter; an input named again is that of the next profile."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for entry in filter(None, (part.strip() for part in _parameter(proto, key).split(","))):
        name, colon, shape = entry.rpartition(":")
        sizes = shape.split("x")
        if not colon or not name or not all(size.isascii() and size.isdigit() and len(size) < 10 for size in sizes):
            raise InvalidArg(f"{where} '{key}' has '{entry[:100]}', expected <input>:<dim>x<dim>…, with commas between")
        found.setdefault(name, []).append(tuple(int(size) for size in sizes))
    return found


def plan_filename(proto: Any, compute_capability: tuple[int, int] | None) -> str:
    """Name of the plan in the version's directory: of `cc_model_filenames` for the GPU, else the default."""
    if compute_capability is not None:
        named: str = proto.cc_model_filenames.get("{}.{}".format(*compute_capability), "")
        if named:
            return safe_name(named, f"cc_model_filenames of model '{proto.name}'")
    return proto.default_model_filename or "model.plan"


def version_directory(path: Path, proto: Any) -> Path:
    """The version's directory, of the path that the default file name leads to."""
    name = proto.default_model_filename
    return path.parents[len(Path(name).parts) - 1] if name else path


def find_model(directory: Path, proto: Any, compute_capability: tuple[int, int] | None) -> tuple[Path, bool]:
    """(file, whether it is an ONNX model to build from) of a version. InvalidArg when there is neither."""
    name = plan_filename(proto, compute_capability)
    path = safe_join(directory, name, f"model filename of model '{proto.name}'")
    if path.exists():
        return path, name.endswith(".onnx")
    for onnx in (directory / "model.onnx", directory / "model.onnx" / "model.onnx"):
        if onnx.is_file():
            return onnx, True
    raise InvalidArg(
        f"unable to find '{name}' of version {directory.name} of model '{proto.name}', nor a model.onnx to build it "
        "from"
    )


def _parameter(proto: Any, key: str) -> str:
    return proto.parameters[key].string_value.strip() if key in proto.parameters else ""


def _flag(settings: Mapping[str, str], key: str) -> bool:
    value = settings.get(key, "false").strip().lower()
    if value not in ("true", "false", "1", "0"):
        raise InvalidArg(f"--backend-config=tensorrt,{key} is '{value[:100]}', expected true, false, 1 or 0")
    return value in ("true", "1")


def _number(what: str, text: str, high: int) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) > high:
        raise InvalidArg(f"{what} is '{text[:100]}', expected a number from 0 to {high}")
    return int(text)
