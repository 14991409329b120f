"""Execution providers of a model's sessions: from its config to ONNX Runtime's names and options, checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from triton_async.config.model_config import InstanceKind, ModelConfig
from triton_async.errors import InvalidArg, Unsupported

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"

# What to install where the library was built without a provider.
_PACKAGES = {CUDA: "onnxruntime-gpu", TENSORRT: "onnxruntime-gpu", OPENVINO: "onnxruntime-openvino"}

_ALGO_SEARCH = ("EXHAUSTIVE", "HEURISTIC", "DEFAULT")
_ARENA_STRATEGIES = ("kNextPowerOfTwo", "kSameAsRequested")
# Numbers of the model-level parameters, which came before the `cuda` accelerator, and the option's own words.
_NUMBERED = {"cudnn_conv_algo_search": _ALGO_SEARCH, "arena_extend_strategy": _ARENA_STRATEGIES}
_CUDA_FLAGS = frozenset(
    ("do_copy_in_default_stream", "use_ep_level_unified_stream", "cudnn_conv_use_max_workspace",
     "cudnn_conv1d_pad_to_nc1d", "enable_skip_layer_norm_strict_mode", "use_tf32", "prefer_nhwc", "fuse_conv_bias",
     "tunable_op_enable", "tunable_op_tuning_enable")
)  # fmt: skip
# Options that the server sets itself, and those whose values are addresses.
_CUDA_OWN = frozenset(
    ("device_id", "has_user_compute_stream", "user_compute_stream", "default_memory_arena_cfg",
     "gpu_external_alloc", "gpu_external_free", "gpu_external_empty_cache")
)  # fmt: skip
# A captured graph replays on the addresses it was captured with, and ours change with each batch.
_GRAPHS = frozenset(("enable_cuda_graph", "trt_cuda_graph_enable"))

_PRECISIONS = {"FP32": (), "FP16": ("trt_fp16_enable",), "BF16": ("trt_bf16_enable",), "INT8": ("trt_int8_enable",)}
_TRT_NUMBERS = frozenset(
    ("trt_max_partition_iterations", "trt_min_subgraph_size", "trt_dla_core", "trt_builder_optimization_level",
     "trt_auxiliary_streams", "trt_ep_context_embed_mode")
)  # fmt: skip
_TRT_FLAGS = frozenset(
    ("trt_dla_enable", "trt_engine_cache_enable", "trt_dump_subgraphs", "trt_force_sequential_engine_build",
     "trt_context_memory_sharing_enable", "trt_layer_norm_fp32_fallback", "trt_timing_cache_enable",
     "trt_force_timing_cache", "trt_detailed_build_log", "trt_build_heuristics_enable", "trt_sparsity_enable",
     "trt_dump_ep_context_model", "trt_cuda_graph_enable")
)  # fmt: skip
_TRT_TEXTS = frozenset(
    ("trt_engine_cache_path", "trt_engine_cache_prefix", "trt_timing_cache_path", "trt_tactic_sources",
     "trt_extra_plugin_lib_paths", "trt_profile_min_shapes", "trt_profile_max_shapes", "trt_profile_opt_shapes",
     "trt_ep_context_file_path")
)  # fmt: skip
_TRT_RENAMED = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}

Options = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Provider:
    """One execution provider. `options`: key and value as ONNX Runtime takes them."""

    name: str
    options: Options = ()


def providers(config: ModelConfig, kind: InstanceKind, device: int) -> tuple[Provider, ...]:
    """Providers for instances of this kind, the preferred first; the CPU's own is always there and not named.

    InvalidArg, in Triton's words where it has them, for an accelerator or parameter that can not be; those of GPUs
    are checked for instances on the CPU as well, which do not use them.
    """
    accelerators = config.proto.optimization.execution_accelerators
    tensorrt: list[Provider] = []
    cuda: dict[str, str] = {}
    for accelerator in accelerators.gpu_execution_accelerator:
        if accelerator.name == "tensorrt":
            tensorrt.append(Provider(TENSORRT, _tensorrt_options(accelerator.parameters, device)))
        elif accelerator.name == "cuda":
            cuda.update(_cuda_options(accelerator.parameters))
        else:
            raise InvalidArg(f"unknown Execution Accelerator '{accelerator.name}' is requested")
    openvino = [_openvino(accelerator) for accelerator in accelerators.cpu_execution_accelerator]
    cuda.update(_cuda_parameters(config.parameters))
    cuda["device_id"] = str(device)
    on_gpu = [*tensorrt, Provider(CUDA, tuple(cuda.items()))] if kind is InstanceKind.GPU else []
    return (*on_gpu, *openvino)


def missing(name: str) -> str:
    """Why a provider can not be used where the library was built without it."""
    return f"this ONNX Runtime has no {name}: install {_PACKAGES[name]}"


def plain_error(message: str) -> str:
    """What a GPU provider's message says, without the names of the C++ functions that it came through."""
    failure = re.search(r"CUDA failure \d+: [^;]*[^; ]", message)
    if failure:
        return f"onnx runtime error: {failure[0]}"
    return re.sub(r"(?<=: ).*\[ONNXRuntimeError\] : \d+ : \w+ : ", "", message, count=1)


def _tensorrt_options(parameters: Mapping[str, str], device: int) -> Options:
    options: dict[str, str] = {}
    for key in sorted(parameters):
        value = parameters[key]
        if key == "precision_mode":
            if value not in _PRECISIONS:
                raise InvalidArg(f"unsupported precision mode '{value}' is requested")
            options |= dict.fromkeys(_PRECISIONS[value], "1")
            continue
        reads = _trt_reader(key)
        if reads is None:
            raise InvalidArg(f"unknown parameter '{key}' is provided for TensorRT Execution Accelerator")
        if value:
            options[_TRT_RENAMED.get(key, key)] = reads("tensorrt", key, value)
    options["device_id"] = str(device)
    return tuple(options.items())


def _trt_reader(key: str) -> Callable[[str, str, str], str] | None:
    if key in _TRT_FLAGS or key == "int8_use_native_calibration_table":
        return _flag
    if key in _TRT_NUMBERS or key == "max_workspace_size_bytes":
        return _number
    return _text if key in _TRT_TEXTS or key == "int8_calibration_table_name" else None


def _cuda_options(parameters: Mapping[str, str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for key in sorted(parameters):
        value = parameters[key]
        if key in _CUDA_OWN:
            raise InvalidArg(
                f"parameter '{key}' of Execution Accelerator 'cuda' is set by the server and not by a configuration"
            )
        if not value:
            continue
        flag = key in _CUDA_FLAGS or key in _GRAPHS
        options[key] = (_flag if flag else _number if key == "gpu_mem_limit" else _text)("cuda", key, value)
    return options


def _cuda_parameters(parameters: Mapping[str, str]) -> dict[str, str]:
    """Options from the model's own parameters, the older way, which go before those of the accelerator."""
    options: dict[str, str] = {}
    for key, words in _NUMBERED.items():
        value = parameters.get(key)
        if value is None:
            continue
        if value.strip() not in [str(number) for number in range(len(words))]:
            raise InvalidArg(f"unsupported {key} value '{value}' is requested")
        options[key] = words[int(value)]
    if "gpu_mem_limit" in parameters:
        options["gpu_mem_limit"] = _number("cuda", "gpu_mem_limit", parameters["gpu_mem_limit"])
    if "do_copy_in_default_stream" in parameters:
        key = "do_copy_in_default_stream"
        options[key] = _flag("cuda", key, parameters[key])
    return options


def _openvino(accelerator: object) -> Provider:
    name, parameters = accelerator.name, accelerator.parameters  # type: ignore[attr-defined]
    if name != "openvino":
        raise InvalidArg(f"unknown Execution Accelerator '{name}' is requested")
    for key in sorted(parameters):
        raise InvalidArg(f"unknown parameter '{key}' is provided for OpenVINO Execution Accelerator")
    return Provider(OPENVINO, (("device_type", "CPU"),))


def _flag(accelerator: str, key: str, value: str) -> str:
    lowered = value.strip().lower()
    if lowered not in ("0", "1", "true", "false"):
        raise InvalidArg(_bad(accelerator, key, value, "true, false, 1 or 0"))
    on = lowered in ("1", "true")
    if on and key in _GRAPHS:
        raise Unsupported(
            f"parameter '{key}' of Execution Accelerator '{accelerator}' is not supported: a captured graph keeps "
            "the addresses of inputs and outputs, which change with each batch"
        )
    return "1" if on else "0"


def _number(accelerator: str, key: str, value: str) -> str:
    if not re.fullmatch("[0-9]{1,20}", value.strip(), re.ASCII) or int(value) >= 2**64:
        raise InvalidArg(_bad(accelerator, key, value, "a number"))
    return value.strip()


def _text(accelerator: str, key: str, value: str) -> str:
    if "\0" in value:
        raise InvalidArg(_bad(accelerator, key, ascii(value), "text"))
    return value


def _bad(accelerator: str, key: str, value: str, expected: str) -> str:
    return f"parameter '{key}' of Execution Accelerator '{accelerator}' is '{value}', expected {expected}"
