"""A model's parameters for OpenVINO, checked: Triton's names, the older ones of its backend, and OpenVINO's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from triton_async.cgroup import quota_cpus
from triton_async.errors import InvalidArg

_MAX_COUNT = 1024

_PRECISIONS = {"f32": "f32", "fp32": "f32", "bf16": "bf16", "f16": "f16", "fp16": "f16"}
_BOOLEANS = {"yes": True, "true": True, "1": True, "on": True, "no": False, "false": False, "0": False, "off": False}


@dataclass(frozen=True, slots=True)
class Options:
    """How to compile and run a model. `properties`: OpenVINO's, by its names. `skip_dynamic_batch`: the batch is the
    model's, or max_batch_size, and no other. `pad`: smaller batches are filled up to that. `reshape`: inputs take the
    dims of the config. `check_range`: 64-bit inputs must fit int32.
    """

    properties: dict[str, str | int | bool] = field(default_factory=dict)
    extension: str = ""
    skip_dynamic_batch: bool = False
    pad: bool = False
    reshape: bool = False
    check_range: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """The precision that was asked for, "" for the engine's choice."""
        return str(self.properties.get("INFERENCE_PRECISION_HINT", ""))


def model_options(
    name: str, parameters: Mapping[str, str], settings: Mapping[str, str], instances: int, cores: int = 0
) -> Options:
    """Options of a model: its parameters, and the --backend-config `settings` where it says nothing. `instances`: how
    many will run it. InvalidArg, naming model and parameter, for a value that can not be.
    """
    properties: dict[str, str | int | bool] = {}
    said: dict[str, str] = {}
    where = f"model '{name}': parameter"
    for source, place in ((parameters, where), (settings, "--backend-config:")):
        set_here: set[str] = set()
        for key, (target, parse) in _PROPERTIES.items():
            text = source.get(key, "").strip()
            if not text or (target in properties and target not in set_here):
                continue
            value = parse(f"{place} '{key}'", text)
            if properties.setdefault(target, value) != value:
                raise InvalidArg(f"{place} '{key}' is '{text}', and '{said[target]}' says otherwise: set one of them")
            said[target] = key
            set_here.add(target)
    merged = {**settings, **parameters}
    warnings = []
    if merged.get("CPU_BIND_THREAD", "").strip().lower() == "numa":
        warnings.append(f"{where} 'CPU_BIND_THREAD' is 'NUMA', which OpenVINO has no more: threads are not bound")
    if merged.get("COMPILATION_NUM_THREADS", "").strip():
        _count(f"{where} 'COMPILATION_NUM_THREADS'", merged["COMPILATION_NUM_THREADS"].strip())
        warnings.append(f"{where} 'COMPILATION_NUM_THREADS' has no effect: OpenVINO has no such setting for CPUs")
    _set_defaults(properties, instances, cores)
    return Options(
        properties=properties,
        extension=merged.get("CPU_EXTENSION_PATH", "").strip(),
        skip_dynamic_batch=any(_flag(where, merged, f"SKIP_{key}DYNAMIC_BATCHSIZE") for key in ("OV_", "")),
        pad=_flag(where, merged, "ENABLE_BATCH_PADDING"),
        reshape=_flag(where, merged, "RESHAPE_IO_LAYERS"),
        check_range=_check_range(where, merged),
        warnings=tuple(warnings),
    )


def _set_defaults(properties: dict[str, str | int | bool], instances: int, cores: int) -> None:
    # The engine's own choice pins its threads to cores, the same ones for every model, and it counts cores without a
    # container's CPU quota.
    properties.setdefault("ENABLE_CPU_PINNING", False)
    most = cores or quota_cpus()
    if most and not properties.get("INFERENCE_NUM_THREADS"):
        properties["INFERENCE_NUM_THREADS"] = most
    if not properties.get("INFERENCE_NUM_THREADS", 1):
        del properties["INFERENCE_NUM_THREADS"]
    if "NUM_STREAMS" not in properties and "PERFORMANCE_HINT" not in properties and instances > 1:
        # The engine's default, latency, has one stream: instances would wait for each other.
        properties["PERFORMANCE_HINT"] = "THROUGHPUT"
    if properties.get("PERFORMANCE_HINT") == "THROUGHPUT":
        properties.setdefault("PERFORMANCE_HINT_NUM_REQUESTS", instances)


def _count(where: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) > _MAX_COUNT:
        raise InvalidArg(f"{where} is '{text}', expected a non-negative number up to {_MAX_COUNT}")
    return int(text)


def _streams(where: str, text: str) -> str | int:
    if text.upper() in ("AUTO", "NUMA"):
        return text.upper()
    if not (text.isascii() and text.isdigit() and len(text) < 10) or not 0 < int(text) <= _MAX_COUNT:
        raise InvalidArg(f"{where} is '{text}', expected AUTO, NUMA or a number of 1 to {_MAX_COUNT}")
    return int(text)


def _boolean(where: str, text: str) -> bool:
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise InvalidArg(f"{where} is '{text}', expected YES or NO")
    return value


def _pinning(where: str, text: str) -> bool:
    return False if text.lower() == "numa" else _boolean(where, text)


def _enforce_bf16(where: str, text: str) -> str:
    return "bf16" if _boolean(where, text) else "f32"


def _hint_bf16(where: str, text: str) -> str:
    if text.lower() != "yes":
        raise InvalidArg(f"{where} is '{text}', expected YES; for exact results set INFERENCE_PRECISION to f32")
    return "bf16"


def _precision(where: str, text: str) -> str:
    value = _PRECISIONS.get(text.lower())
    if value is None:
        raise InvalidArg(f"{where} is '{text}', expected f32, bf16 or f16")
    return value


def _one_of(*values: str) -> Callable[[str, str], str]:
    def parse(where: str, text: str) -> str:
        if text.upper() not in values:
            raise InvalidArg(f"{where} is '{text}', expected {' or '.join(values)}")
        return text.upper()

    return parse


def _path(where: str, text: str) -> str:
    return text


# Parameter -> OpenVINO's property and how its value is read.
_PROPERTIES: dict[str, tuple[str, Callable[[str, str], str | int | bool]]] = {
    "INFERENCE_NUM_THREADS": ("INFERENCE_NUM_THREADS", _count),
    "CPU_THREADS_NUM": ("INFERENCE_NUM_THREADS", _count),
    "NUM_STREAMS": ("NUM_STREAMS", _streams),
    "CPU_THROUGHPUT_STREAMS": ("NUM_STREAMS", _streams),
    "INFERENCE_PRECISION": ("INFERENCE_PRECISION_HINT", _precision),
    "INFERENCE_PRECISION_HINT": ("INFERENCE_PRECISION_HINT", _precision),
    "HINT_BF16": ("INFERENCE_PRECISION_HINT", _hint_bf16),
    "ENFORCE_BF16": ("INFERENCE_PRECISION_HINT", _enforce_bf16),
    "EXECUTION_MODE": ("EXECUTION_MODE_HINT", _one_of("ACCURACY", "PERFORMANCE")),
    "EXECUTION_MODE_HINT": ("EXECUTION_MODE_HINT", _one_of("ACCURACY", "PERFORMANCE")),
    "PERFORMANCE_HINT": ("PERFORMANCE_HINT", _one_of("LATENCY", "THROUGHPUT")),
    "PERFORMANCE_HINT_NUM_REQUESTS": ("PERFORMANCE_HINT_NUM_REQUESTS", _count),
    "CPU_BIND_THREAD": ("ENABLE_CPU_PINNING", _pinning),
    "ENABLE_CPU_PINNING": ("ENABLE_CPU_PINNING", _boolean),
    "ENABLE_HYPER_THREADING": ("ENABLE_HYPER_THREADING", _boolean),
    "CACHE_DIR": ("CACHE_DIR", _path),
}


def _flag(where: str, merged: Mapping[str, str], key: str) -> bool:
    text = merged.get(key, "").strip()
    return bool(text) and _boolean(f"{where} '{key}'", text)


def _check_range(where: str, merged: Mapping[str, str]) -> bool:
    text = merged.get("INT64_OUTSIDE_INT32", "refuse").strip().lower()
    if text not in ("refuse", "pass"):
        raise InvalidArg(f"{where} 'INT64_OUTSIDE_INT32' is '{text}', expected refuse or pass")
    return text == "refuse"
