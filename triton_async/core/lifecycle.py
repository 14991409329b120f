"""One model version from its files to READY and back: loads, starts instances, drains, frees. Loop thread."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, TypeVar

from triton_async.backends.base import Backend, LoadContext, LoadedModel
from triton_async.config.labels import read_labels
from triton_async.config.load import model_path
from triton_async.config.model_config import InstanceKind, ModelConfig, TensorConfig
from triton_async.core.batcher import DynamicBatcher
from triton_async.core.families import MetricSource
from triton_async.core.instances import Instance
from triton_async.core.model import Model
from triton_async.core.placement import (
    GpuLoads,
    MemoryUsage,
    check_load_limits,
    gpus_in_use,
    used_nbytes,
)
from triton_async.core.queue import RequestQueue
from triton_async.core.reactor import Reactor
from triton_async.core.scheduler import Scheduler
from triton_async.errors import InternalError, ServerError
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.memory.devices import Devices
from triton_async.memory.pools import Pools
from triton_async.memory.regions import RegionRegistry
from triton_async.memory.slab import SlabPool

log = logging.getLogger("triton_async.core")

T = TypeVar("T")


class State(Enum):
    """States of a model version in the repository index.

    UNAVAILABLE -> LOADING -> READY -> UNLOADING -> UNAVAILABLE; LOADING -> UNAVAILABLE when the load fails.
    """

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


class Backends(Protocol):
    """Where backends come from; the app hands one down."""

    def get(self, name: str) -> Backend: ...


@dataclass(frozen=True, slots=True)
class Host:
    """What the server's models are made on. `executor` runs blocking loads; `pools` is its memory, and the GPUs;
    `regions` that of clients, who by default may register none. `gpu_limits`: --model-load-gpu-limit. For the metrics:
    `gpu_uuid` of a GPU, "" when it is not known.
    """

    loop: asyncio.AbstractEventLoop
    reactor: Reactor
    pools: Pools
    backends: Backends
    executor: Executor
    backend_config: Mapping[str, Mapping[str, str]]
    regions: RegionRegistry = field(default_factory=RegionRegistry)
    gpu_limits: Mapping[int, float] = field(default_factory=dict)
    gpu_loads: GpuLoads = field(default_factory=GpuLoads)
    metric_sources: Sequence[MetricSource] = ()
    gpu_uuid: Callable[[int], str] = lambda device: ""

    @property
    def pool(self) -> SlabPool:
        """Host memory, for what front-ends receive."""
        return self.pools.host

    def open_devices(self) -> Devices:
        """The machine's GPUs. The first call may load CUDA and block. Unsupported, with the reason, for none."""
        return self.pools.devices

    def use_gpu(self, device: int) -> None:
        """Makes a GPU current for the calling thread, which may be any but the loop's. ServerError."""
        self.open_devices().use(device)


@dataclass(slots=True)
class LoadedVersion:
    """A version whose instances run. `load_secs`: how long the load took. `memory`: what it took, where known."""

    version: int
    model: Model
    loaded: LoadedModel
    load_secs: float
    memory: tuple[MemoryUsage, ...] = ()


def make_signature(config: ModelConfig, version: int, model_dir: Path) -> ModelSignature:
    """Signature of a version; reads the labels files. Blocking."""

    def spec(tensor: TensorConfig) -> TensorSpec:
        labels = read_labels(model_dir, tensor.label_filename) if tensor.label_filename else ()
        return TensorSpec(
            tensor.name, tensor.datatype, tensor.dims, tensor.reshape, tensor.optional, labels
        )

    return ModelSignature(
        config.name,
        version,
        [spec(tensor) for tensor in config.inputs],
        [spec(tensor) for tensor in config.outputs],
        config.max_batch_size,
        config.decoupled,
    )


async def load_version(host: Host, config: ModelConfig, version: int, model_dir: Path) -> LoadedVersion:
    """Loads a version and starts all its instances. ServerError with the reason; nothing is left behind then."""
    gpus = gpus_in_use(config)
    place = host.gpu_loads.begin(gpus)
    try:
        before = await run_blocking(host, _used_before, host, gpus) if gpus else {}
        version_loaded = await _load_version(host, config, version, model_dir)
        after = await run_blocking(host, _used_after, host, gpus) if gpus else {}
    finally:
        alone = host.gpu_loads.end(place)
    grown = {gpu: after[gpu] - before[gpu] for gpu in alone if gpu in after}
    version_loaded.memory = tuple(MemoryUsage("GPU", gpu, nbytes) for gpu, nbytes in grown.items() if nbytes > 0)
    return version_loaded


def _used_before(host: Host, gpus: tuple[int, ...]) -> dict[int, int]:
    devices = host.open_devices()
    check_load_limits(devices, gpus, host.gpu_limits)
    return used_nbytes(devices, gpus)


def _used_after(host: Host, gpus: tuple[int, ...]) -> dict[int, int]:
    try:
        return used_nbytes(host.open_devices(), gpus)
    except Exception:  # for the statistics alone: the model is loaded, and must not be lost for that
        log.exception("the memory that a model took on its GPUs is not known")
        return {}


async def _load_version(host: Host, config: ModelConfig, version: int, model_dir: Path) -> LoadedVersion:
    started = time.monotonic()
    signature, loaded = await run_blocking(host, _load_blocking, host, config, version, model_dir)
    instances: list[Instance] = []
    try:
        instances = await _start_instances(host, config, loaded)
        scheduler = make_scheduler(config, signature)
        model = Model(host.reactor, signature, config, instances, scheduler, _input_pool(config, loaded))
    except BaseException:
        await _stop_instances(host, instances)
        await run_blocking(host, loaded.close)
        raise
    return LoadedVersion(version, model, loaded, time.monotonic() - started)


async def retire(host: Host, version: LoadedVersion) -> None:
    """Lets the version finish what it has, then stops its instances and frees it."""
    await version.model.drain()
    await _stop_instances(host, version.model.take_instances())
    await run_blocking(host, version.loaded.close)


async def run_blocking(host: Host, function: Callable[..., T], *arguments: Any) -> T:
    """Runs a step of a load on a load thread. Whatever a backend or a file system raises comes as a ServerError."""
    try:
        return await host.loop.run_in_executor(host.executor, function, *arguments)
    except ServerError:
        raise
    except Exception as error:
        log.exception("%s failed", function.__qualname__)
        raise InternalError(f"{type(error).__name__} while loading the model") from error


def _load_blocking(
    host: Host, config: ModelConfig, version: int, model_dir: Path
) -> tuple[ModelSignature, LoadedModel]:
    settings = {**host.backend_config.get("", {}), **host.backend_config.get(config.backend, {})}
    path = model_path(config.proto, model_dir, version)
    signature = make_signature(config, version, model_dir)
    context = LoadContext(config, version, path, signature, host.pool, settings, host.pools)
    return signature, host.backends.get(config.backend).load(context)


def _input_pool(config: ModelConfig, loaded: LoadedModel) -> SlabPool | None:
    return loaded.input_pool if config.proto.optimization.input_pinned_memory.enable else None


def make_scheduler(config: ModelConfig, signature: ModelSignature) -> Scheduler:
    """The scheduler that the config asks for."""
    batching = config.dynamic_batching
    if batching is None:
        return DynamicBatcher(signature, RequestQueue())
    queue = RequestQueue(
        batching.default_policy, batching.priority_levels, batching.default_priority_level, batching.priority_policies
    )
    return DynamicBatcher(signature, queue, batching)


async def _start_instances(host: Host, config: ModelConfig, loaded: LoadedModel) -> list[Instance]:
    made: list[Instance] = []
    waiting: list[asyncio.Future[None]] = []
    for spec in config.instances():
        if spec.passive:
            continue
        device = spec.device if spec.kind is InstanceKind.GPU else -1
        instance = Instance(spec.name, host.reactor, host.pool, host.use_gpu, device)
        group = config.instance_groups[spec.group]
        started: asyncio.Future[None] = host.loop.create_future()

        def make(spec=spec, group=group):  # type: ignore[no-untyped-def]
            return loaded.create_instance(spec.name, group, spec.device)

        try:
            instance.start(make, _settler(host.loop, started))
        except RuntimeError:
            started.set_exception(InternalError(f"the thread of instance '{spec.name}' could not be started"))
        made.append(instance)
        waiting.append(started)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    failed = next((result for result in results if result is not None), None)
    if failed is None:
        return made
    running = [instance for instance, result in zip(made, results, strict=True) if result is None]
    await _stop_instances(host, running)
    raise failed


async def _stop_instances(host: Host, instances: list[Instance]) -> None:
    waiting: list[asyncio.Future[None]] = []
    for instance in instances:
        stopped: asyncio.Future[None] = host.loop.create_future()
        instance.stop(_settler(host.loop, stopped))
        waiting.append(stopped)
    await asyncio.gather(*waiting)


def _settler(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]
) -> Callable[..., None]:
    """A callback for another thread that settles `future` on the loop."""

    def settle(error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def callback(error: BaseException | None = None) -> None:
        loop.call_soon_threadsafe(settle, error)

    return callback
