"""The backend and its loaded models: what Python decides before the first batch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from triton_async.backends.base import Backend, LoadContext, LoadedModel, ModelInstance
from triton_async.backends.onnxruntime.api import Environment, Library, find_library
from triton_async.backends.onnxruntime.cuda_libraries import preload
from triton_async.backends.onnxruntime.instance import OnnxRuntimeInstance
from triton_async.backends.onnxruntime.options import INSPECT, SessionSettings, global_threads, session_settings
from triton_async.backends.onnxruntime.providers import CUDA, OPENVINO, Provider, missing
from triton_async.backends.onnxruntime.session import Session
from triton_async.config.autocomplete import ModelIO
from triton_async.config.consistency import check_against_model
from triton_async.config.model_config import InstanceGroup, InstanceKind, ModelConfig
from triton_async.errors import InternalError, ServerError, Unsupported

log = logging.getLogger("triton_async.backends.onnxruntime")

_CPU_KINDS = (InstanceKind.CPU, InstanceKind.MODEL)

# OrtErrorCode: no kernel for an operator.
_NOT_IMPLEMENTED = 9

# Sessions with OpenVINO must not be made at the same time.
_openvino = threading.Lock()


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime. Holds the library and, from the first load on, its environment. Any thread."""

    name = "onnxruntime"
    accelerators = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._library: Library | None = None
        self._environment: Environment | None = None
        self._preloaded = False

    @property
    def kinds(self) -> tuple[InstanceKind, ...]:
        """GPU as well, where the installed library was built for it."""
        return _CPU_KINDS if self.gpu_problem else (*_CPU_KINDS, InstanceKind.GPU)

    @property
    def gpu_problem(self) -> str:
        """That the library was built without CUDA."""
        with self._lock:
            return "" if CUDA in self._loaded().providers else missing(CUDA)

    def inspect(self, path: Path, proto: Any) -> ModelIO:
        """Inputs and outputs of the model; inputs that it has a default for are optional."""
        try:
            return self._inspect(path, INSPECT)
        except InternalError as error:
            gpu = _first_gpu(proto)
            if gpu is None or f"error {_NOT_IMPLEMENTED}:" not in error.message:
                raise
        # Some operators have a kernel for GPUs alone.
        settings = replace(INSPECT, providers=(Provider(CUDA, (("device_id", str(gpu)),)),), device=gpu)
        self.provide(proto.name, settings)
        return self._inspect(path, settings)

    def load(self, context: LoadContext) -> LoadedModel:
        """A session of the model, checked against its config."""
        config = context.config
        if config.proto.model_operations.op_library_filename:
            raise Unsupported(f"unable to load model '{config.name}': custom operator libraries are not supported")
        return OnnxRuntimeModel(self, self._started(context.backend_config), context)

    def provide(self, model: str, settings: SessionSettings) -> None:
        """Makes the providers of `settings` ready to be appended. Unsupported, naming the model, for one that the
        library was built without.
        """
        with self._lock:
            for provider in settings.providers:
                if provider.name not in self._loaded().providers:
                    raise Unsupported(f"unable to load model '{model}': {missing(provider.name)}")
            if settings.device >= 0 and not self._preloaded:
                self._preloaded = True
                preload(find_library().parent)

    def _inspect(self, path: Path, settings: SessionSettings) -> ModelIO:
        with self._lock:
            environment = self._environment
            if environment is None:
                # A model may be inspected before the settings of the environment are known, and there is one
                # environment at a time: this one ends, under the lock, with the session.
                return Session(Environment(self._loaded()), _model_file(path), settings).model_io()
        return Session(environment, _model_file(path), settings).model_io()

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
    """One version. Its instances on the CPU share a session, and so do those on each GPU, unless the config says
    `share_session_between_instances: 0`.

    Triton's default is a session for each instance. A session runs any number of batches at a time, so more of
    them only repeat the weights in memory, the time to load them and the thread pool.
    """

    def __init__(self, backend: OnnxRuntimeBackend, environment: Environment, context: LoadContext) -> None:
        self._backend = backend
        self._context = context
        self._environment = environment
        self._lock = threading.Lock()
        # By device, -1 the CPU; with sessions that are not shared, those that no instance has yet.
        self._sessions: dict[int, Session] = {}
        first = next(iter(context.config.instances()), None)
        kind, device = (InstanceKind.CPU, 0) if first is None else (first.kind, first.device)
        settings = self._settings(kind, device)
        session = self._sessions[settings.device] = self._make_session(settings)
        check_against_model(context.config.proto, session.model_io())
        _warn_of_idle_accelerators(context.config)
        if any(group.kind is InstanceKind.GPU for group in context.config.instance_groups):
            # Where its copies to and from GPUs are fastest.
            self.input_pool = context.pools.pinned()

    def create_instance(self, name: str, group: InstanceGroup, device_id: int) -> ModelInstance:
        """An instance of the session shared on its device, or of one of its own."""
        settings = self._settings(group.kind, device_id)
        with self._lock:
            session = self._sessions.pop(settings.device, None)
            if session is None and settings.shared:
                session = self._make_session(settings)
            if session is not None and settings.shared:
                self._sessions[settings.device] = session
        session = session or self._make_session(settings)
        pool = self._context.pool if settings.device < 0 else self._context.pools.pinned()
        return OnnxRuntimeInstance(name, session, self._context.signature, pool)

    def close(self) -> None:
        """Drops the sessions."""
        self._sessions.clear()

    def _settings(self, kind: InstanceKind, device: int) -> SessionSettings:
        return session_settings(self._context.config, kind, device)

    def _make_session(self, settings: SessionSettings) -> Session:
        path, name = _model_file(self._context.path), self._context.config.name
        self._backend.provide(name, settings)
        try:
            if any(provider.name == OPENVINO for provider in settings.providers):
                with _openvino:
                    return Session(self._environment, path, settings)
            return Session(self._environment, path, settings)
        except ServerError as error:
            if settings.device < 0:
                raise
            raise type(error)(f"unable to load model '{name}' on GPU {settings.device}: {error.message}") from None


def _model_file(path: Path) -> Path:
    # A folder of the model's name holds the model with its external data, as in Triton.
    return path / "model.onnx" if path.is_dir() else path


def _first_gpu(proto: Any) -> int | None:
    groups = () if proto is None else proto.instance_group
    return next((group.gpus[0] for group in groups if group.kind == InstanceKind.GPU and group.gpus), None)


def _warn_of_idle_accelerators(config: ModelConfig) -> None:
    accelerators = config.proto.optimization.execution_accelerators.gpu_execution_accelerator
    if accelerators and not any(group.kind is InstanceKind.GPU for group in config.instance_groups):
        names = ", ".join(accelerator.name for accelerator in accelerators)
        log.warning("model '%s' has no instance on a GPU: its accelerators are not used: %s", config.name, names)
