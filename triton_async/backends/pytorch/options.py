"""A model's parameters for PyTorch, checked. Booleans and counts are written as Triton's backend reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from triton_async.config.model_config import ModelConfig
from triton_async.errors import InvalidArg, Unsupported

# Parameters that set something of the whole process; those that are not given change nothing.
_SWITCHES = ("ENABLE_JIT_EXECUTOR", "ENABLE_JIT_PROFILING", "ENABLE_TENSOR_FUSER", "DISABLE_CUDNN")

_BOOLEANS = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}

_MAX_THREADS = 1024


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a model. Thread counts 0: PyTorch's own choice."""

    optimized: bool = True
    inference_mode: bool = True
    share_weights: bool = False
    clean_cache: bool = False
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    switches: dict[str, bool] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def model_options(config: ModelConfig) -> Options:
    """Options of a model. InvalidArg or Unsupported, naming model and parameter, for what can not be done."""
    where = f"model '{config.name}': parameter"
    parameters = config.parameters
    if "TORCH_COMPILE_OPTIONAL_PARAMETERS" in parameters:
        raise Unsupported(
            f"{where} 'TORCH_COMPILE_OPTIONAL_PARAMETERS' belongs to models that are Python code, whose runtime is "
            "'model.py'"
        )
    if "MODEL_INIT_LIBRARY" in parameters:
        raise Unsupported(f"{where} 'MODEL_INIT_LIBRARY' is not supported: no native library is loaded for a model")
    warnings = []
    if _flag(where, parameters, "ENABLE_NVFUSER", False):
        warnings.append(f"{where} 'ENABLE_NVFUSER' has no effect: PyTorch has no nvFuser any more")
    return Options(
        optimized=not _flag(where, parameters, "DISABLE_OPTIMIZED_EXECUTION", False),
        inference_mode=_flag(where, parameters, "INFERENCE_MODE", True),
        share_weights=_flag(where, parameters, "ENABLE_WEIGHT_SHARING", False),
        clean_cache=_flag(where, parameters, "ENABLE_CACHE_CLEANING", False),
        intra_op_threads=_count(where, parameters, "INTRA_OP_THREAD_COUNT"),
        inter_op_threads=_count(where, parameters, "INTER_OP_THREAD_COUNT"),
        switches={key: _flag(where, parameters, key, False) for key in _SWITCHES if key in parameters},
        warnings=tuple(warnings),
    )


def _flag(where: str, parameters: Mapping[str, str], key: str, default: bool) -> bool:
    text = parameters.get(key)
    if text is None:
        return default
    value = _BOOLEANS.get(text.strip().lower())
    if value is None:
        raise InvalidArg(f"{where} '{key}' is '{text}', expected true, false, 1 or 0")
    return value


def _count(where: str, parameters: Mapping[str, str], key: str) -> int:
    text = parameters.get(key, "0").strip()
    if text == "-1":  # Triton's word for its default
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) > _MAX_THREADS:
        raise InvalidArg(f"{where} '{key}' is '{text}', expected a number of threads, 0 for the default")
    return int(text)
