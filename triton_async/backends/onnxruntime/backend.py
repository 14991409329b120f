"""The backend and its loaded models: what Python decides before the first batch."""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from triton_async.backends.base import Backend, LoadContext, LoadedModel, ModelInstance
from triton_async.backends.onnxruntime.api import Environment, Library, find_library
from triton_async.backends.onnxruntime.cuda_libraries import preload
from triton_async.backends.onnxruntime.graph import Graph, read_graph
from triton_async.backends.onnxruntime.instance import OnnxRuntimeInstance
from triton_async.backends.onnxruntime.operators import operator_libraries
from triton_async.backends.onnxruntime.options import (
    INSPECT,
    SessionSettings,
    session_settings,
    thread_pools,
    usable_cores,
)
from triton_async.backends.onnxruntime.providers import CUDA, OPENVINO, Provider, missing
from triton_async.backends.onnxruntime.session import Session
from triton_async.backends.onnxruntime.zipmap import unzip
from triton_async.config.autocomplete import ModelIO
from triton_async.config.consistency import check_against_model
from triton_async.config.model_config import InstanceGroup, InstanceKind, ModelConfig, freeze
from triton_async.config.sequences import with_injected
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
    assembles = frozenset(("allow_ragged_batch", "batch_input", "batch_output", "padding"))
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

    @cached_property
    def usable(self) -> int:
        """Cores that a session may use, as of the first one: the threads that sessions share are made then."""
        return usable_cores(self.cores)

    def prepare(self) -> None:
        """Has the environment, whose threads are all models', before one binds its own to cores."""
        self._started()

    def inspect(self, path: Path, proto: Any) -> ModelIO:
        """Inputs and outputs of the model as its session has them: optimising one may settle shapes that the file
        leaves open. Inputs that it has a default for are optional.
        """
        # Before the session, which has the file's content of that moment or a later one.
        graph = read_graph(_model_file(path))
        return _described(self._inspect(path, proto, graph), graph)

    def _inspect(self, path: Path, proto: Any, graph: Graph | None) -> ModelIO:
        if proto is None:
            found: ModelIO = self.make_session(path, "", INSPECT, graph).model_io()
            return found
        config = freeze(proto)
        kind, device = _first_place(config)
        settings = _settings(config, kind, device, path, self.usable)
        if settings.device < 0:
            session = self.make_session(path, config.name, settings, graph)
            return replace(session.model_io(), opened=OpenedSession(session, path, settings))
        # Not yet on the GPU, whose memory is watched while a model loads.
        settings = _settings(config, InstanceKind.CPU, 0, path, self.usable)
        settings = replace(settings, providers=(), entries=(*settings.entries, *INSPECT.entries))
        try:
            return self.make_session(path, config.name, settings, graph).model_io()
        except InternalError as error:
            if f"error {_NOT_IMPLEMENTED}:" not in error.message:
                raise
        # Some operators have a kernel for GPUs alone.
        settings = replace(settings, providers=(Provider(CUDA, (("device_id", str(device)),)),), device=device)
        return self.make_session(path, config.name, settings, graph).model_io()

    def load(self, context: LoadContext) -> LoadedModel:
        """A session of the model, checked against its config."""
        return OnnxRuntimeModel(self, context)

    def _provide(self, model: str, settings: SessionSettings) -> None:
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

    def make_session(self, path: Path, model: str, settings: SessionSettings, graph: Graph | None) -> Session:
        """A session of the model file, or folder, at `path`, of which `read_graph` has read `graph`. ServerError."""
        self._provide(model, settings)
        alone = any(provider.name == OPENVINO for provider in settings.providers)
        file = _model_file(path)
        try:
            with _openvino if alone else nullcontext():
                session = self._new_session(file, model, settings)
        except ServerError as error:
            if settings.device < 0:
                raise
            raise type(error)(f"unable to load model '{model}' on GPU {settings.device}: {error.message}") from None
        if graph is not None:
            session.bounded = graph.is_bounded() and not settings.providers
            if not all(tensor.dims for tensor in (*session.inputs, *session.outputs)):
                session.mark_unranked(graph.unranked())
        return session

    def _new_session(self, file: Path, model: str, settings: SessionSettings) -> Session:
        try:
            return Session(self._started(), file, settings)
        except Unsupported as error:
            unzipped = unzip(file.read_bytes()) if "ONNX_TYPE_SEQUENCE" in error.message else None
            if unzipped is None:
                raise
        session = Session(self._started(), file, settings, unzipped.model)
        for output, labels in unzipped.labels.items():
            log.info(
                "model '%s': output '%s' is served as the tensor that ZipMap makes maps of, its columns: %s",
                model, output, ", ".join(labels),
            )  # fmt: skip
        return session

    def _loaded(self) -> Library:
        if self._library is None:
            self._library = Library()
        return self._library

    def _started(self) -> Environment:
        with self._lock:
            if self._environment is None:
                self._environment = Environment(self._loaded(), thread_pools(self.settings, self.usable))
            return self._environment


class OpenedSession:
    """The session that a model was inspected in. One load may take it."""

    def __init__(self, session: Session, path: Path, settings: SessionSettings) -> None:
        self._session: Session | None = session
        self._made_of = path, settings

    def take(self, path: Path, settings: SessionSettings) -> Session | None:
        """The session, when it is of this model with these settings and still there."""
        session, self._session = self._session, None
        return session if self._made_of == (path, settings) else None

    def close(self) -> None:
        """Drops the session when no load took it."""
        self._session = None


class OnnxRuntimeModel(LoadedModel):
    """One version. Its instances on the CPU share a session, and so do those on each GPU, unless the config says
    `share_session_between_instances: 0`.

    Triton's default is a session for each instance. A session runs any number of batches at a time, so more of
    them only repeat the weights in memory, the time to load them and the thread pool.
    """

    def __init__(self, backend: OnnxRuntimeBackend, context: LoadContext) -> None:
        self._backend = backend
        self._context = context
        self._lock = threading.Lock()
        # By device, -1 the CPU; with sessions that are not shared, those that no instance has yet.
        self._sessions: dict[int, Session] = {}
        config = context.config
        self._settings: dict[tuple[InstanceKind, int], SessionSettings] = {}
        settings = self._settings_for(*_first_place(config))
        opened = context.opened
        session = opened.take(context.path, settings) if isinstance(opened, OpenedSession) else None
        if session is None:
            session = self._make_session(settings)
            check_against_model(with_injected(config.proto), session.model_io())
        self._sessions[settings.device] = session
        _warn_of_idle_accelerators(config)
        if any(group.kind is InstanceKind.GPU for group in config.instance_groups):
            # Where its copies to and from GPUs are fastest.
            self.input_pool = context.pools.pinned()
        else:
            self.thread_bound = False

    def create_instance(self, name: str, group: InstanceGroup, device_id: int) -> ModelInstance:
        """An instance of the session shared on its device, or of one of its own."""
        settings = self._settings_for(group.kind, device_id)
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

    def _settings_for(self, kind: InstanceKind, device: int) -> SessionSettings:
        settings = self._settings.get((kind, device))
        if settings is None:
            settings = self._settings[kind, device] = _settings(
                self._context.config, kind, device, self._context.path, self._backend.usable
            )
        return settings

    def _make_session(self, settings: SessionSettings) -> Session:
        path = self._context.path
        return self._backend.make_session(path, self._context.config.name, settings, read_graph(_model_file(path)))


def _settings(config: ModelConfig, kind: InstanceKind, device: int, path: Path, cores: int) -> SessionSettings:
    settings, operators = session_settings(config, kind, device, cores), operator_libraries(config, path)
    return replace(settings, operators=operators) if operators else settings


def _first_place(config: ModelConfig) -> tuple[InstanceKind, int]:
    """Kind and device of the first instance."""
    first = next(iter(config.instances()), None)
    return (InstanceKind.CPU, 0) if first is None else (first.kind, first.device)


def _described(found: ModelIO, graph: Graph | None) -> ModelIO:
    """With what the file says and no session does: names of dimensions, and operators."""
    if graph is None:
        return found
    return replace(
        found,
        unbatched=graph.unbatched(frozenset(tensor.name for tensor in found.inputs if tensor.optional)),
        mixes_rows=graph.mixes_rows(),
    )


def _model_file(path: Path) -> Path:
    # A folder of the model's name holds the model with its external data, as in Triton.
    return path / "model.onnx" if path.is_dir() else path


def _warn_of_idle_accelerators(config: ModelConfig) -> None:
    accelerators = config.proto.optimization.execution_accelerators.gpu_execution_accelerator
    if accelerators and not any(group.kind is InstanceKind.GPU for group in config.instance_groups):
        names = ", ".join(accelerator.name for accelerator in accelerators)
        log.warning("model '%s' has no instance on a GPU: its accelerators are not used: %s", config.name, names)
