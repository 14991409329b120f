"""What a server is made of, by its options: memory, backends, threads, the response cache, traces. No front-ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from triton_async import logs, native
from triton_async.backends.registry import BackendRegistry
from triton_async.config.affinity import engine_cores, instance_cores
from triton_async.config.locations import has_scheme
from triton_async.config.settings import Settings
from triton_async.config.trace_config import OPENTELEMETRY
from triton_async.core.caches import OpenCache
from triton_async.core.families import Family
from triton_async.core.files import LocalRoot, Root
from triton_async.core.gpu_metrics import GpuMonitor, environment_visible
from triton_async.core.host import Host, Workers, held_schedulers
from triton_async.core.inner import InnerRequests
from triton_async.core.limiter import RateLimiter
from triton_async.core.native_agents import NativeAgents
from triton_async.core.reactor import Reactor
from triton_async.core.server import InferenceServer
from triton_async.core.stuck_watch import StuckWatch
from triton_async.core.trace_files import TraceFiles
from triton_async.core.tracing import TraceRecorder
from triton_async.defines import SLAB_CACHE_NBYTES
from triton_async.embedding import control
from triton_async.errors import InvalidArg
from triton_async.loop_lag import LoopLag
from triton_async.memory.devices import open_devices
from triton_async.memory.pools import Pools
from triton_async.memory.regions import RegionRegistry
from triton_async.memory.slab import SlabPool

if TYPE_CHECKING:
    from triton_async.fronts import Fronts


class Composed(NamedTuple):
    """A server that was not started yet, where its backends come from, and its threads."""

    server: InferenceServer
    backends: BackendRegistry
    workers: Workers


@asynccontextmanager
async def composed(
    settings: Settings, cache: OpenCache, recorder: TraceRecorder | None, roots: Mapping[str, Root],
    fronts: Fronts | None = None,
) -> AsyncIterator[Composed]:
    """Makes a server on the running loop. To be left behind its `stop`: what it was made of ends with it. `fronts`: the
    front-end processes that it is to have, if any.
    """
    loop = asyncio.get_running_loop()
    reactor = Reactor()
    reactor.attach(loop)
    lag = LoopLag(loop)
    lag.start()
    pools = make_pools(settings, None if fronts is None else fronts.pool())
    backends = make_backends(settings, pools)
    agents = NativeAgents(settings.repoagent_directory, fetched)
    with Workers(settings.model_load_thread_count, instance_cores(settings)) as workers:
        regions = RegionRegistry((lambda: pools.devices) if settings.allow_client_shm else None)
        with watching_gpus(settings, pools) as monitor:
            stuck = StuckWatch(loop)
            host = Host(
                loop, reactor, pools, backends, workers, settings.backend_config, regions=regions,
                gpu_limits=settings.model_load_gpu_limit, gpu_uuid=monitor.uuid, measured=settings.metrics,
                metric_sources=(
                    monitor.families, partial(_own_families, lag, reactor), backends.families, stuck.families,
                    *cache.metric_sources, *(() if fronts is None else (fronts.families,)),
                ),
                loop_executions=settings.allow_loop_execution, policies=settings.host_policy,
                cores=instance_cores(settings),
                auto_queue_delay=settings.auto_queue_delay,
                cache=cache.cache,
                held_schedulers=held_schedulers(os.environ),
                limiter=_limiter(settings, reactor),
                open_root=roots.__getitem__,
                strategies=backends, agents=agents, metrics_text=native.metrics_text, made_families=backends.families,
            )  # fmt: skip
            server = InferenceServer(settings, host, recorder)
            backends.inference = inner = InnerRequests(server, control.answer)
            backends.watcher = reactor
            stuck.start(server.repository.held_models)
            try:
                yield Composed(server, backends, workers)
            finally:
                lag.stop()
                stuck.stop()
                inner.close()
                await loop.run_in_executor(None, server.close_traces)
                if not workers.abandoned:  # or else its threads, and what they are in, may never come back
                    await loop.run_in_executor(workers.unloads, backends.close)
                    await loop.run_in_executor(workers.unloads, agents.close)
        reactor.detach()
        pools.close()


def make_backends(settings: Settings, pools: Pools) -> BackendRegistry:
    """Where backends come from. `options`: as Triton tells libraries of itself."""
    options = {
        "auto-complete-config": "false" if settings.disable_auto_complete_config else "true",
        "default-max-batch-size": str(settings.default_max_batch_size),
        "min-compute-capability": f"{settings.min_supported_compute_capability:f}",
    }
    return BackendRegistry(
        settings.backend_config, pools, settings.backend_directory, options, engine_cores(settings),
        settings.model_processes,
    )  # fmt: skip


def open_root(place: str) -> Root:
    """The repository that a --model-repository names. ServerError, OSError."""
    if not has_scheme(place):
        return LocalRoot(place)
    from triton_async.cloud.repository import CloudRoot

    return CloudRoot(place)


class FetchedModel:
    """A copy of the model that lies at `url`, in object storage. Blocking. ServerError."""

    def __init__(self, url: str) -> None:
        parent, _, name = url.rstrip("/").rpartition("/")
        if not has_scheme(url) or not has_scheme(parent):
            raise InvalidArg("a repository agent has named a remote location that is none")
        self._root = open_root(parent)
        try:
            self.directory = self._root.fetch(name).directory
        except BaseException:
            self._root.close()
            raise

    def close(self) -> None:
        """Removes it."""
        self._root.close()


def fetched(url: str) -> FetchedModel:
    """The model that a repository agent has moved there."""
    return FetchedModel(url)


def trace_recorder(settings: Settings) -> TraceRecorder | None:
    """Where traces go; None where the options do not say. ServerError."""
    if settings.trace.mode == OPENTELEMETRY:
        from triton_async.core.telemetry import Telemetry

        return Telemetry(settings.trace, settings.id)
    return TraceFiles(settings.trace.file) if settings.trace.file else None


def _limiter(settings: Settings, reactor: Reactor) -> RateLimiter | None:
    return None if settings.rate_limit == "off" else RateLimiter(reactor, settings.rate_limit_resource)


def make_pools(settings: Settings, host: SlabPool | None = None) -> Pools:
    """The server's memory. No GPU is touched before something asks for one. `host`: that of the host, when it is to be
    of a kind of its own.
    """
    return Pools(
        host or SlabPool(SLAB_CACHE_NBYTES),
        partial(open_devices, settings.min_supported_compute_capability),
        pinned_nbytes=settings.pinned_memory_pool_byte_size,
        device_nbytes=settings.cuda_memory_pool_byte_size,
    )


@contextmanager
def watching_gpus(settings: Settings, pools: Pools) -> Iterator[GpuMonitor]:
    """The watch over GPUs for the metrics, which runs meanwhile unless they are not wanted."""
    monitor = GpuMonitor(
        settings.metrics_interval_ms / 1000, visible=environment_visible(), pci_bus_ids=pools.pci_bus_ids
    )
    if settings.allow_metrics and settings.allow_gpu_metrics:
        monitor.start()
    try:
        yield monitor
    finally:
        monitor.close()


def _own_families(lag: LoopLag, reactor: Reactor) -> list[Family]:
    """What the process knows of itself, for the metrics."""
    return [
        ("triton_async_loop_lag_us", "gauge", "Longest delay of the event loop in the last 15 to 30 s, in microseconds",
         [({}, int(lag.worst_s() * 1e6))]),
        ("triton_async_loop_executions_total", "counter", "Executions that ran on the event loop's thread",
         [({}, reactor.n_here)]),
        ("triton_async_loop_execution_longest_us", "gauge", "Longest execution that ran there, in microseconds",
         [({}, reactor.longest_here_ns // 1000)]),
        ("triton_async_log_lines_dropped_total", "counter", "Lines of the log that nobody read in time",
         [({}, logs.dropped())]),
    ]  # fmt: skip
