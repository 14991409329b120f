"""The modules that models import: `triton_python_backend_utils`, and its other half, `c_python_backend_utils`.

Each instance has a pair of its own, whose classes know the instance. They are found by the imports of its model
(`loader`); `sys.modules` has a pair that is for other code, and of no instance.
"""

from __future__ import annotations

import json
import struct
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from . import completion, messages, services, tensors

if TYPE_CHECKING:
    from .context import Context

UTILS = "triton_python_backend_utils"
C_UTILS = "c_python_backend_utils"

_CONSTANTS = {
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_START": messages.FLAG_SEQUENCE_START,
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_END": messages.FLAG_SEQUENCE_END,
    "TRITONSERVER_RESPONSE_COMPLETE_FINAL": messages.COMPLETE_FINAL,
    "TRITONSERVER_REQUEST_RELEASE_ALL": messages.RELEASE_ALL,
    "TRITONSERVER_REQUEST_RELEASE_RESCHEDULE": messages.RELEASE_RESCHEDULE,
    "TRITONSERVER_MEMORY_CPU": messages.MemoryType.TRITONSERVER_MEMORY_CPU,
    "TRITONSERVER_MEMORY_GPU": messages.MemoryType.TRITONSERVER_MEMORY_GPU,
}
# Under the names that the real server's have, which models and clients see in texts.
for _class in (
    tensors.Tensor, tensors.TritonModelException, messages.TritonError, messages.InferenceResponse,
    messages.InferenceResponseSender, messages.ResponseIterator, messages.PreferredMemory, messages.InferenceTrace,
    services.Metric,
):  # fmt: skip
    _class.__module__ = C_UTILS
# What is the same for all instances, by the half that it is of.
_C_SHARED = {
    "Tensor": tensors.Tensor,
    "TritonModelException": tensors.TritonModelException,
    "TritonError": messages.TritonError,
    "InferenceResponse": messages.InferenceResponse,
    "InferenceResponseSender": messages.InferenceResponseSender,
    "ResponseIterator": messages.ResponseIterator,
    "PreferredMemory": messages.PreferredMemory,
    "MemoryType": messages.MemoryType,
    "InferenceTrace": messages.InferenceTrace,
    "Metric": services.Metric,
    "LogLevel": services.Logger.LogLevel,
    "MetricKind": services.MetricFamily.MetricKind,
    **services.MetricFamily.MetricKind.__members__,
    **_CONSTANTS,
}
# Names of the real module that serve its own processes, of which there are none here.
_OF_STUBS = ("SharedMemory", "shared_memory", "async_event_future_done_callback")


def get_input_tensor_by_name(inference_request: messages.InferenceRequest, name: str) -> tensors.Tensor | None:
    """The input of this name, or None."""
    tensor: tensors.Tensor
    for tensor in inference_request.inputs():
        if tensor._name == name:
            return tensor
    return None


def get_output_tensor_by_name(inference_response: messages.InferenceResponse, name: str) -> tensors.Tensor | None:
    """The output of this name, or None."""
    tensor: tensors.Tensor
    for tensor in inference_response._outputs:
        if tensor._name == name:
            return tensor
    return None


_SHARED = {
    "get_input_tensor_by_name": get_input_tensor_by_name,
    "get_output_tensor_by_name": get_output_tensor_by_name,
    "ModelConfig": completion.ModelConfig,
    "get_input_config_by_name": completion.get_input_config_by_name,
    "get_output_config_by_name": completion.get_output_config_by_name,
    "using_decoupled_model_transaction_policy": completion.using_decoupled_model_transaction_policy,
    "TRITON_STRING_TO_NUMPY": tensors.TRITON_STRING_TO_NUMPY,
    "TRITON_TO_NUMPY_TYPE": tensors.TRITON_TO_NUMPY_TYPE,
    "NUMPY_TO_TRITON_TYPE": tensors.NUMPY_TO_TRITON_TYPE,
    "serialize_byte_tensor": tensors.serialize_byte_tensor,
    "deserialize_bytes_tensor": tensors.deserialize_bytes_tensor,
    "triton_to_numpy_type": tensors.triton_to_numpy_type,
    "numpy_to_triton_type": tensors.numpy_to_triton_type,
    "triton_string_to_numpy": tensors.triton_string_to_numpy,
    # Which models use that have no import of their own.
    "json": json,
    "np": np,
    "struct": struct,
}


def make_modules(context: Context) -> dict[str, ModuleType]:
    """The two modules of an instance, by name."""
    control = services.ModelControl(context)
    bound = {
        "InferenceRequest": _bound(messages.InferenceRequest, context, ()),
        "Logger": _bound(services.Logger, context),
        "MetricFamily": _bound(services.MetricFamily, context),
        "load_model": control.load_model,
        "unload_model": control.unload_model,
        "is_model_ready": control.is_model_ready,
    }
    c_utils = ModuleType(C_UTILS, "The half of Triton's Python API that is the server's.")
    vars(c_utils).update(_C_SHARED, **bound, __getattr__=_missing)
    utils = ModuleType(UTILS, "Triton's API for Python models.")
    vars(utils).update(_SHARED, **_C_SHARED, **bound)
    vars(utils)["get_model_dir"] = lambda: context.model_dir
    return {UTILS: utils, C_UTILS: c_utils}


def _bound(base: type[Any], context: Context, slots: tuple[str, ...] | None = None) -> type[Any]:
    """The class of one instance."""
    names: dict[str, Any] = {"_context": context, "__module__": C_UTILS, "__doc__": base.__doc__}
    if slots is not None:
        names["__slots__"] = slots
    return type(base.__name__, (base,), names)


def install(modules: dict[str, ModuleType] | None = None) -> None:
    """Enters a pair in `sys.modules`: that of the only instance of a process, or one of no instance, whose names that
    need one raise RuntimeError.
    """
    sys.modules.update(modules or _of_no_instance())


def _of_no_instance() -> dict[str, ModuleType]:
    c_utils, utils = ModuleType(C_UTILS), ModuleType(UTILS)
    vars(c_utils).update(_C_SHARED)
    vars(utils).update(_SHARED, **_C_SHARED)
    for module in (c_utils, utils):
        vars(module)["__getattr__"] = _needs_instance
    return {UTILS: utils, C_UTILS: c_utils}


def _missing(name: str) -> NoReturn:
    if name in _OF_STUBS:
        raise AttributeError(
            f"{C_UTILS}.{name} is for the stub processes of Triton's Python backend: nothing here has use for it"
        )
    raise AttributeError(f"module '{C_UTILS}' has no attribute '{name}'")


_BOUND = ("InferenceRequest", "Logger", "MetricFamily", "load_model", "unload_model", "is_model_ready", "get_model_dir")


def _needs_instance(name: str) -> NoReturn:
    if name in _BOUND:
        raise RuntimeError(
            f"{UTILS}.{name} belongs to a model instance: import it in model.py or a file beside it, or set the "
            "model's parameter ISOLATION to 'process'"
        )
    raise AttributeError(f"module '{UTILS}' has no attribute '{name}'")
