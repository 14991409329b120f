"""The backend and its loaded models: which plan runs on which GPU, and the instances of it. Load threads."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from triton_async.backends.base import Backend, LoadContext, LoadedModel, ModelInstance
from triton_async.backends.device.instance import DeviceInstance
from triton_async.backends.device.options import slot_options
from triton_async.backends.tensorrt import options
from triton_async.backends.tensorrt.api import Library, open_library
from triton_async.backends.tensorrt.buffers import DeviceAccess
from triton_async.backends.tensorrt.calls import copy_async, synchronize
from triton_async.backends.tensorrt.check import check_config, model_io
from triton_async.backends.tensorrt.context import TensorRTEngine
from triton_async.backends.tensorrt.describe import Plan, describe
from triton_async.backends.tensorrt.kernels import Kernels, context_maker
from triton_async.backends.tensorrt.plans import PlanCache
from triton_async.backends.tensorrt.profiles import group_profiles
from triton_async.backends.tensorrt.sources import PlanSource, default_cache
from triton_async.config.autocomplete import ModelIO
from triton_async.config.model_config import InstanceGroup, InstanceKind, ModelConfig
from triton_async.defines import DEVICE_SLOTS
from triton_async.errors import InternalError, InvalidArg, ServerError
from triton_async.memory.devices import DeviceInfo, Devices

log = logging.getLogger("triton_async.tensorrt")


class TensorRTBackend(Backend):
    """TensorRT. Loads the library with the first model, and touches it only where there is a GPU: it may crash else."""

    name = "tensorrt"
    kinds = (InstanceKind.GPU,)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._library: Library | None = None
        self._cache: PlanCache | None = None

    def inspect(self, path: Path, proto: Any) -> ModelIO:
        """Inputs, outputs and largest batch: of the plan, on the first GPU that the config names; of the ONNX model
        when there is no plan yet, for which no GPU is needed."""
        settings = options.backend_settings(self.settings)
        directory = options.version_directory(path, proto)
        devices = _devices_or_none(self.pools)
        info = _first_device(devices, proto)
        source = options.find_model(directory, proto, None if info is None else info.compute_capability)
        origin = _Origin(*source, proto)
        if devices is None or info is None:
            if not origin.is_onnx:
                _devices(self.pools, proto.name)  # says why there is none
            return PlanSource(self.library(settings), settings, *origin).onnx_io()
        devices.use(info.index)
        library = self.library(settings)
        library.load_plugins(settings.plugins)
        if origin.is_onnx:
            return PlanSource(library, settings, *origin).onnx_io()
        try:
            loaded = _open(library, settings, devices, info, origin)
        except InternalError as error:
            raise InternalError(f"unable to load plan file to auto complete config: {error.message}") from None
        loaded.close()
        return model_io(loaded.plan, proto)

    def load(self, context: LoadContext) -> LoadedModel:
        """The plan on every GPU of the config, checked against it. InvalidArg where there is no GPU, saying why."""
        settings = options.backend_settings(context.backend_config)
        devices = _devices(context.pools, context.config.name)
        _refuse_other_kinds(context.config)
        library = self.library(settings)
        return TensorRTModel(library, settings, context, devices=devices, cache=self._plan_cache(settings))

    def library(self, settings: options.BackendSettings) -> Library:
        """The library, opened at the first call. Unsupported when it is not installed."""
        with self._lock:
            if self._library is None:
                self._library = open_library(settings.library)
            return self._library

    def _plan_cache(self, settings: options.BackendSettings) -> PlanCache | None:
        with self._lock:
            if self._cache is None and settings.cache_nbytes:
                self._cache = default_cache(settings)
            return self._cache


@dataclass(slots=True)
class _Loaded:
    """A plan on one GPU. `runtime` is named only to live as long as `engine`."""

    runtime: Any
    engine: Any
    plan: Plan
    kernels: Kernels | None

    def close(self) -> None:
        """Drops the engine, then the runtime. Its execution contexts are gone."""
        self.kernels = None
        self.engine = None
        self.runtime = None


class _Origin(NamedTuple):
    """Where a plan comes from: a file, whether it is ONNX, and the config."""

    path: Path
    is_onnx: bool
    proto: Any


class TensorRTModel(LoadedModel):
    """One version. Its instances on a GPU share an engine where the library lets contexts share a profile."""

    def __init__(
        self,
        library: Library,
        settings: options.BackendSettings,
        context: LoadContext,
        *,
        devices: Devices,
        cache: PlanCache | None,
    ) -> None:
        self._library = library
        self._settings = settings
        self._devices = devices
        self._cache = cache
        self._context = context
        self._pools = context.pools
        self._lock = threading.Lock()
        self._strategy = options.allocation_strategy(context.config.proto)
        self._directory = options.version_directory(context.path, context.config.proto)
        # Engines by GPU; where an engine is for one instance only, the GPUs whose first is taken, and the others.
        self._shared: dict[int, _Loaded] = {}
        self._taken: set[int] = set()
        self._others: list[tuple[int, _Loaded]] = []
        library.load_plugins(settings.plugins)
        for group in context.config.instance_groups:
            for gpu in group.gpus:
                if gpu not in self._shared:
                    self._shared[gpu] = self._open(gpu)
        # Where large request bodies are best received.
        self.input_pool = self._pools.pinned()

    def create_instance(self, name: str, group: InstanceGroup, device_id: int) -> ModelInstance:
        """An instance with an execution context for each profile of its group, on its GPU."""
        return self._instance(name, self._make_engine(name, group, device_id), device_id)

    def _make_engine(self, name: str, group: InstanceGroup, device_id: int) -> TensorRTEngine:
        self._devices.use(device_id)
        loaded = self._engine_of(device_id)
        graphs = self._context.config.proto.optimization.cuda.graphs
        stream = self._devices.create_stream(device_id)
        try:
            return TensorRTEngine(
                self._library,
                loaded.engine,
                loaded.plan,
                self._context.signature,
                profiles=group_profiles(group.profile, loaded.plan, name),
                access=_access(self._devices, device_id, stream),
                slots=DEVICE_SLOTS,
                make_context=context_maker(self._library, self._strategy, loaded.kernels, graphs),
            )
        finally:
            self._devices.destroy_stream(stream)

    def close(self) -> None:
        """Keeps what the library compiled for the next load, and drops the engines."""
        for gpu, loaded in (*self._others, *self._shared.items()):
            self._devices.use(gpu)
            if loaded.kernels is not None:
                loaded.kernels.save()
            loaded.close()
        self._others.clear()
        self._shared.clear()

    def _engine_of(self, gpu: int) -> _Loaded:
        with self._lock:
            loaded = self._shared[gpu]
            # TensorRT before 10 gives a profile of an engine to one context only.
            if self._library.major >= 10 or not loaded.plan.is_dynamic or gpu not in self._taken:
                self._taken.add(gpu)
                return loaded
        loaded = self._open(gpu)
        with self._lock:
            self._others.append((gpu, loaded))
        return loaded

    def _instance(self, name: str, engine: TensorRTEngine, gpu: int) -> ModelInstance:
        """The instance, which owns `engine` from here on, also when it cannot be made."""
        context = self._context
        return DeviceInstance(
            name,
            engine,
            context.signature,
            self._devices,
            gpu,
            slot_options(context.config),
            context.pool,
            pinned_pool=self._pools.pinned(),
            memory=self._pools.device(gpu),
        )

    def _open(self, gpu: int) -> _Loaded:
        info = next(info for info in self._devices.infos if info.index == gpu)
        proto = self._context.config.proto
        source = options.find_model(self._directory, proto, info.compute_capability)
        origin = _Origin(*source, proto)
        loaded = _open(self._library, self._settings, self._devices, info, origin, cache=self._cache)
        check_config(proto, loaded.plan)
        return loaded


def _open(
    library: Library,
    settings: options.BackendSettings,
    devices: Devices,
    info: DeviceInfo,
    origin: _Origin,
    *,
    cache: PlanCache | None = None,
) -> _Loaded:
    """The plan of `origin` on a GPU, which becomes current; built first when that is ONNX."""
    devices.use(info.index)
    library.load_plugins(settings.plugins)
    source = PlanSource(library, settings, *origin)
    plan = source.plan(info, cache)
    runtime, engine = library.engine(plan, settings.version_compatible)
    kernels = Kernels.open(engine, cache, lambda: source.key(info))
    return _Loaded(runtime, engine, describe(engine, library), kernels)


def _access(devices: Devices, gpu: int, stream: int) -> DeviceAccess:
    return DeviceAccess(
        allocate=partial(devices.allocate, gpu),
        free=partial(devices.free, gpu),
        allocate_pinned=devices.allocate_pinned,
        free_pinned=devices.free_pinned,
        copy=copy_async,
        synchronize=synchronize,
        stream=stream,
    )


def _devices(pools: Any, model: str) -> Devices:
    """The GPUs. InvalidArg, in Triton's words and with the reason, when there is none."""
    reason = "this server was made without GPUs"
    try:
        if pools is not None:
            found: Devices = pools.devices
            return found
    except ServerError as error:
        reason = error.message
    raise InvalidArg(f"unable to load model '{model}', TensorRT backend supports only GPU device: {reason}")


def _devices_or_none(pools: Any) -> Devices | None:
    try:
        return _devices(pools, "")
    except InvalidArg:
        return None


def _first_device(devices: Devices | None, proto: Any) -> DeviceInfo | None:
    """The first GPU of the config that is there, else the first there is."""
    if devices is None:
        return None
    named = [gpu for group in proto.instance_group for gpu in group.gpus]
    infos = {info.index: info for info in devices.infos}
    return next((infos[gpu] for gpu in named if gpu in infos), devices.infos[0])


def _refuse_other_kinds(config: ModelConfig) -> None:
    for group in config.instance_groups:
        if group.kind is not InstanceKind.GPU:
            raise InvalidArg(
                f"unable to load model '{config.name}', TensorRT backend supports only GPU device: instance group "
                f"'{group.name}' is of KIND_{group.kind.name}"
            )
