"""The backend and its loaded models: what Python decides before the first batch."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triton_async.backends.base import Backend, LoadContext, LoadedModel, ModelInstance
from triton_async.backends.onnxruntime.api import Environment, Library
from triton_async.backends.onnxruntime.instance import OnnxRuntimeInstance
from triton_async.backends.onnxruntime.options import INSPECT, global_threads, session_settings
from triton_async.backends.onnxruntime.session import Session
from triton_async.config.autocomplete import ModelIO
from triton_async.config.consistency import check_against_model
from triton_async.config.model_config import InstanceGroup, InstanceKind, ModelConfig
from triton_async.errors import Unsupported


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime on CPU. Holds the library and, from the first load on, its environment. Any thread."""

    name = "onnxruntime"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._library: Library | None = None
        self._environment: Environment | None = None

    def inspect(self, path: Path, proto: Any) -> ModelIO:
        """Inputs and outputs of the model; inputs that it has a default for are optional."""
        with self._lock:
            environment = self._environment
            if environment is None:
                # A model may be inspected before the settings of the environment are known, and there is one
                # environment at a time: this one ends, under the lock, with the session.
                return Session(Environment(self._loaded()), _model_file(path), INSPECT).model_io()
        return Session(environment, _model_file(path), INSPECT).model_io()

    def load(self, context: LoadContext) -> LoadedModel:
        """A session of the model, checked against its config."""
        _refuse_devices(context.config)
        return OnnxRuntimeModel(self._started(context.backend_config), context)

    def _loaded(self) -> Library:
        if self._library is None:
            self._library = Library()
        return self._library

    def _started(self, backend_config: Mapping[str, str]) -> Environment:
        with self._lock:
            if self._environment is None:
                self._environment = Environment(self._loaded(), global_threads(backend_config))
            return self._environment


class OnnxRuntimeModel(LoadedModel):
    """One version. Its instances share a session, unless the config says `share_session_between_instances: 0`.

    Triton's default is a session for each instance. A session runs any number of batches at a time, so more of
    them only repeat the weights in memory, the time to load them and the thread pool.
    """

    def __init__(self, environment: Environment, context: LoadContext) -> None:
        self._context = context
        self._environment = environment
        self._lock = threading.Lock()
        self._settings = session_settings(context.config)
        self._session: Session | None = self._make_session()
        check_against_model(context.config.proto, self._session.model_io())

    def create_instance(self, name: str, group: InstanceGroup, device_id: int) -> ModelInstance:
        """An instance of the shared session, or of one of its own."""
        with self._lock:
            session = self._session
            if not self._settings.shared:
                # The one that the config was checked with serves the first instance.
                self._session = None
        session = session or self._make_session()
        return OnnxRuntimeInstance(name, session, self._context.signature, self._context.pool)

    def close(self) -> None:
        """Drops the session."""
        self._session = None

    def _make_session(self) -> Session:
        return Session(self._environment, _model_file(self._context.path), self._settings)


def _model_file(path: Path) -> Path:
    # A folder of the model's name holds the model with its external data, as in Triton.
    return path / "model.onnx" if path.is_dir() else path


def _refuse_devices(config: ModelConfig) -> None:
    for group in config.instance_groups:
        if group.kind is InstanceKind.GPU:
            raise Unsupported(
                f"unable to load model '{config.name}': instance group '{group.name}' is of KIND_GPU, and this "
                "build of ONNX Runtime has no CUDA execution provider; use KIND_CPU"
            )
    accelerators = config.proto.optimization.execution_accelerators
    for accelerator in (*accelerators.gpu_execution_accelerator, *accelerators.cpu_execution_accelerator):
        raise Unsupported(
            f"unable to load model '{config.name}': execution accelerator '{accelerator.name}' is not part of "
            "this build of ONNX Runtime"
        )
    if config.proto.model_operations.op_library_filename:
        raise Unsupported(f"unable to load model '{config.name}': custom operator libraries are not supported")
