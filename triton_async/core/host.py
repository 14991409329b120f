"""What a server's models are made on: its memory, backends, GPUs, and the threads for what blocks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from triton_async.backends.base import Backend, BatchRule
from triton_async.config.host_policy import HostPolicy
from triton_async.config.metrics_config import MetricsConfig
from triton_async.config.model_config import ModelConfig
from triton_async.config.place import ModelPlace
from triton_async.core.cache import ResponseCache
from triton_async.core.defines import LOADS_APART_S
from triton_async.core.families import Family, MetricSource
from triton_async.core.files import LocalRoot, Root
from triton_async.core.limiter import RateLimiter
from triton_async.core.model_lock import current, in_turn
from triton_async.core.native_agents import NativeAgents
from triton_async.core.placement import GpuLoads
from triton_async.core.reactor import Reactor
from triton_async.core.threads import Threads
from triton_async.core.warmup import WarmUps
from triton_async.defines import FILE_THREADS, POOL_MOST_THREADS, POOL_PATIENCE_S, UNLOAD_THREADS
from triton_async.errors import InternalError, ServerError
from triton_async.infer.signature import ModelSignature
from triton_async.memory.binding import bind
from triton_async.memory.devices import Devices
from triton_async.memory.pools import Pools
from triton_async.memory.regions import RegionRegistry
from triton_async.memory.slab import SlabPool

log = logging.getLogger("triton_async.core")

T = TypeVar("T")

# What was being done when something failed.
LOADING = "while loading the model"
UNLOADING = "while unloading the model"
LOOKING = "while reading the model repository"


class Backends(Protocol):
    """Where backends come from; the app hands one down. `place`: of a model, which may bring one of its own."""

    def get(self, name: str, place: ModelPlace | None = None) -> Backend: ...


class Strategies(Protocol):
    """Batching strategies that are shared libraries; the app hands them down."""

    def strategy(self, config: ModelConfig, place: ModelPlace) -> Path | None: ...

    def batch_rule(
        self, library: Path, config: ModelConfig, signature: ModelSignature, place: ModelPlace
    ) -> BatchRule: ...


class Workers:
    """Threads for what blocks, apart from each other: loads that take minutes hold up no unload, and a file system that
    hangs holds up neither, nor looks at others. What frees models, and file systems, get further threads when those
    that are there seem to hang; loads when they wait for other loads. To be used in a `with` block, whose end waits for
    what they have.
    """

    def __init__(self, load_threads: int, cores: Sequence[int] = ()) -> None:
        """`cores`: where they run, and the threads that engines start from them; (): where the process does."""
        self._place = place = partial(_place, tuple(cores)) if cores else None
        self.loads = Threads(load_threads, "load", place, apart_s=LOADS_APART_S)
        self.unloads = Threads(UNLOAD_THREADS, "unload", place, POOL_PATIENCE_S, POOL_MOST_THREADS)
        self.files = Threads(FILE_THREADS, "files", place, POOL_PATIENCE_S, POOL_MOST_THREADS)
        self._of_roots: WeakKeyDictionary[Root, Threads] = WeakKeyDictionary()
        #: Whether the end of the block waits for none of them: something there does not come to its end.
        self.abandoned = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for executor in (self.loads, self.unloads, self.files, *self._of_roots.values()):
            executor.shutdown(wait=not self.abandoned)

    def of_root(self, root: Root) -> Threads:
        """Those that look at one model repository. They end with it."""
        if root not in self._of_roots:
            self._of_roots[root] = Threads(FILE_THREADS, "files", self._place, POOL_PATIENCE_S, POOL_MOST_THREADS)
        return self._of_roots[root]


def _place(cores: tuple[int, ...]) -> None:
    try:
        bind(cores, -1)
    except OSError as error:  # the container has lost them meanwhile: loads go on where they may
        log.warning("threads that load models can not run on the cores of --cpu-affinity: %s", error.strerror)


@dataclass(frozen=True, slots=True)
class HeldSchedulers:
    """For tests, as in Triton: schedulers give nothing away before so many requests wait (`queued`), and so many of
    sequences without a slot (`backlog`), once for each model.
    """

    queued: int = 0
    backlog: int = 0


def held_schedulers(environ: Mapping[str, str]) -> HeldSchedulers:
    """What the variables of Triton's own tests ask for. What is not a number counts as 0, as there."""

    def count(name: str) -> int:
        text = environ.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0

    held = HeldSchedulers(count("TRITONSERVER_DELAY_SCHEDULER"), count("TRITONSERVER_BACKLOG_DELAY_SCHEDULER"))
    if held != HeldSchedulers():
        log.warning("for tests: schedulers wait for %d requests, and %d in the backlog", held.queued, held.backlog)
    return held


@dataclass(frozen=True, slots=True)
class Host:
    """What the server's models are made on. `pools` is its memory, and the GPUs; `regions` that of clients, who by
    default may register none. `gpu_limits`: --model-load-gpu-limit. For the metrics: `gpu_uuid` of a GPU, "" when it is
    not known.
    """

    loop: asyncio.AbstractEventLoop
    reactor: Reactor
    pools: Pools
    backends: Backends
    workers: Workers
    backend_config: Mapping[str, Mapping[str, str]]
    regions: RegionRegistry = field(default_factory=RegionRegistry)
    gpu_limits: Mapping[int, float] = field(default_factory=dict)
    gpu_loads: GpuLoads = field(default_factory=GpuLoads)
    warm_ups: WarmUps = field(default_factory=WarmUps)
    metric_sources: Sequence[MetricSource] = ()
    gpu_uuid: Callable[[int], str] = lambda device: ""
    #: Lines of families that are not known here, at the end of the page.
    metrics_text: Callable[[], str] = lambda: ""
    #: The families of one name that models have made, of those in `metric_sources`.
    made_families: Callable[[str], Iterable[Family]] = lambda name: ()
    #: What is measured of models.
    measured: MetricsConfig = field(default_factory=MetricsConfig)
    #: Of the models whose config asks for it; None: no answer is kept.
    cache: ResponseCache | None = None
    held_schedulers: HeldSchedulers = HeldSchedulers()
    #: Dynamic batchers whose config says nothing of a delay find it themselves.
    auto_queue_delay: bool = False
    #: What executions wait for under --rate-limit; None: for nothing.
    limiter: RateLimiter | None = None
    #: The shortest executions may run on the loop's thread.
    loop_executions: bool = True
    #: --host-policy: name -> where instances of it run.
    policies: Mapping[str, HostPolicy] = field(default_factory=dict)
    #: Where instances run whose policy has no cores; (): where the process does.
    cores: Sequence[int] = ()
    #: Where strategies of batching come from; None: there are none.
    strategies: Strategies | None = None
    #: Repository agents that are libraries; None: there are none.
    agents: NativeAgents | None = None
    #: What a --model-repository is; that of directories alone by default.
    open_root: Callable[[str], Root] = LocalRoot

    @property
    def pool(self) -> SlabPool:
        """Host memory, for what front-ends receive."""
        return self.pools.host

    def policies_of(self, config: ModelConfig) -> set[str]:
        """Host policies that say something of instances of a model."""
        return {spec.host_policy for spec in config.instances()} & self.policies.keys() if self.policies else set()

    def open_devices(self) -> Devices:
        """The machine's GPUs. The first call may load CUDA and block. Unsupported, with the reason, for none."""
        return self.pools.devices

    def use_gpu(self, device: int) -> int:
        """Makes a GPU current for the calling thread, which may be any but the loop's, and says which was. ServerError.
        """
        return self.open_devices().use(device)

    async def loading(self, function: Callable[..., T], *arguments: Any) -> T:
        """Runs a step of a load on a load thread. Whatever a backend or a file system raises comes as a ServerError."""
        # What another load waits for comes first.
        turn, loads = current(), self.workers.loads
        nested = turn is not None and turn.asker is not None
        submit: Callable[..., Future[T]] = loads.submit_first if nested else loads.submit
        return await self._run(partial(submit, in_turn().run), LOADING, function, arguments)

    async def unloading(self, function: Callable[..., T], *arguments: Any) -> T:
        """The same for a step that frees a model."""
        return await self._run(self.workers.unloads.submit, UNLOADING, function, arguments)

    async def looking(self, function: Callable[..., T], *arguments: Any) -> T:
        """The same for a look at files, which takes no longer than the file system does."""
        return await self._run(self.workers.files.submit, LOOKING, function, arguments)

    async def looking_at(self, root: Root, function: Callable[..., T], *arguments: Any) -> T:
        """The same for a look at a model repository."""
        return await self._run(self.workers.of_root(root).submit, LOOKING, function, arguments)

    async def _run(
        self, submit: Callable[..., Future[T]], doing: str, function: Callable[..., T], arguments: tuple[Any, ...]
    ) -> T:
        try:
            return await asyncio.wrap_future(submit(function, *arguments), loop=self.loop)
        except Exception as error:
            known = as_server_error(error, doing, function)
            if known is error:
                raise
            raise known from error


def as_server_error(
    error: Exception, doing: str, function: Callable[..., Any], root: Path | None = None
) -> ServerError:
    """What clients are told of an error in `function`: its text may name files, so that of others is for the log. A
    file below `root`, the repository, is named.
    """
    if isinstance(error, ServerError):
        return error
    log.error("%s failed %s", getattr(function, "__qualname__", function), doing, exc_info=error)
    if root is not None and isinstance(error, OSError) and isinstance(error.filename, (str, Path)):
        # Where the repository lies is none of their business, which file of it is.
        path = Path(error.filename)
        if path.is_relative_to(root):
            return InternalError(f"'{path.relative_to(root)}': {error.strerror} {doing}")
    return InternalError(f"{type(error).__name__} {doing}")
