"""The composition root: makes the server, its front-ends and the event loop, and stops them in order."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import NamedTuple, Protocol

import uvloop

from triton_async import logs
from triton_async.addresses import shown
from triton_async.backends.registry import BackendRegistry
from triton_async.cgroup import quota_cpus
from triton_async.config.access import Restrictions
from triton_async.config.locations import has_scheme
from triton_async.config.settings import Settings
from triton_async.config.trace_config import OPENTELEMETRY
from triton_async.core.archives import Archives
from triton_async.core.caches import OpenCache, open_cache
from triton_async.core.families import Family
from triton_async.core.files import LocalRoot, Root
from triton_async.core.gpu_metrics import GpuMonitor, environment_visible
from triton_async.core.host import Host, Workers, held_schedulers
from triton_async.core.inner import InnerRequests
from triton_async.core.limiter import RateLimiter
from triton_async.core.reactor import Reactor
from triton_async.core.server import InferenceServer
from triton_async.core.stuck_watch import StuckWatch
from triton_async.core.trace_files import TraceFiles
from triton_async.core.tracing import TraceRecorder
from triton_async.defines import (
    EXIT_GIVE_UP_S,
    GIL_SWITCH_S,
    SECOND_SIGNAL_GRACE_S,
    SEE_OFF_INTERVAL_S,
    SLAB_CACHE_NBYTES,
    STOP_GRACE_S,
)
from triton_async.errors import InternalError, ServerError
from triton_async.frontends import metrics, sockets, tls
from triton_async.frontends.gate import ApiKeys, Gate
from triton_async.frontends.grpc import server as grpc
from triton_async.frontends.grpc.express.keepalive import PingOptions
from triton_async.frontends.http import clouds
from triton_async.frontends.http import server as http
from triton_async.frontends.page import document
from triton_async.frontends.renewal import Renewable, Renewal
from triton_async.loop_lag import LoopLag
from triton_async.memory.devices import open_devices
from triton_async.memory.pools import Pools
from triton_async.memory.regions import RegionRegistry
from triton_async.memory.slab import SlabPool
from triton_async.watchdog import watching

log = logging.getLogger("triton_async.app")


class Endpoint(Protocol):
    """A started front-end."""

    @property
    def address(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def connected(self) -> bool: ...

    def leave(self) -> None: ...

    async def stop_accepting(self) -> None: ...

    async def close(self, deadline_s: float) -> None: ...


class Certificates(NamedTuple):
    """TLS of each front-end; None: it serves in plain."""

    grpc: tls.Certificate | None
    http: tls.Certificate | None


class Security(NamedTuple):
    """What protects the front-ends; `keys`: None where clients need none."""

    certificates: Certificates
    keys: ApiKeys | None

    def gate(self, settings: Settings, restrictions: Restrictions) -> Gate:
        """What a front-end asks of calls."""
        return Gate(restrictions, self.keys, settings.api_key_exempt)

    @property
    def renewable(self) -> list[Renewable]:
        """What follows its files."""
        return [one for one in (*self.certificates, self.keys) if one is not None]


def run(settings: Settings) -> int:
    """Serves until SIGINT or SIGTERM. The exit status of the process."""
    sys.setswitchinterval(GIL_SWITCH_S)
    _raise_descriptor_limit()
    try:
        certificates = _certificates(settings)
        recorder = _trace_recorder(settings)
        keys = ApiKeys(settings.api_key_file) if settings.api_key_file else None
        _try_ports(settings)
        roots = {place: open_root(place) for place in settings.model_repository}
    except OSError as error:
        logs.say(logs.STDERR, f"error: creating server: {error}")
        logs.flush()
        return 1
    except ServerError as error:
        logs.say(logs.STDERR, f"error: creating server: Invalid argument - {error.message}")
        logs.flush()
        return 1
    try:
        return uvloop.run(_serve(settings, Security(certificates, keys), recorder, roots))
    finally:
        for root in roots.values():
            root.close()
        logs.flush()


def open_root(place: str) -> Root:
    """The repository that a --model-repository names. ServerError, OSError."""
    if not has_scheme(place):
        return LocalRoot(place)
    from triton_async.cloud.repository import CloudRoot

    return CloudRoot(place)


def _raise_descriptor_limit() -> None:
    """As many open files as the system allows: its soft limit, for programs that use select(), is far below."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.warning("the limit of open files could not be raised: %s", error)


def _try_ports(settings: Settings) -> None:
    """OSError for an address that is taken, or not to be had. Before models are loaded, which may take long."""
    front_ends = (
        (settings.allow_grpc, "GRPC", settings.grpc_address, settings.grpc_port, settings.reuse_grpc_port),
        (settings.allow_http, "HTTP", settings.http_address, settings.http_port, settings.reuse_http_port),
        *((True, *where, False) for where in _cloud_ports(settings)),
        (settings.allow_metrics, "Metrics", settings.metrics_address, settings.metrics_port, False),
    )
    for allowed, name, address, port, reuse_port in front_ends:
        if allowed:
            try:
                sockets.probe(address, port, reuse_port)
            except OSError as error:
                raise _not_listening(error, name, address, port) from None


def _certificates(settings: Settings) -> Certificates:
    """What each front-end has for TLS. Before models are loaded, so that a mistake shows at once."""
    grpc_tls = http_tls = None
    if settings.allow_grpc and (settings.grpc_use_ssl or settings.grpc_use_ssl_mutual):
        grpc_tls = tls.certificate(
            "grpc",
            cert=settings.grpc_server_cert,
            key=settings.grpc_server_key,
            root=settings.grpc_root_cert,
            mutual=settings.grpc_use_ssl_mutual,
            alpn=grpc.ALPN,
        )
    if settings.allow_http and (settings.http_use_ssl or settings.http_use_ssl_mutual):
        http_tls = tls.certificate(
            "http",
            cert=settings.http_server_cert,
            key=settings.http_server_key,
            root=settings.http_root_cert,
            mutual=settings.http_use_ssl_mutual,
            alpn=http.ALPN,
        )
    return Certificates(grpc_tls, http_tls)


def _trace_recorder(settings: Settings) -> TraceRecorder | None:
    """Where traces go; None where the options do not say. ServerError."""
    if settings.trace.mode == OPENTELEMETRY:
        from triton_async.core.telemetry import Telemetry

        return Telemetry(settings.trace, settings.id)
    return TraceFiles(settings.trace.file) if settings.trace.file else None


async def _serve(
    settings: Settings, security: Security, recorder: TraceRecorder | None, roots: Mapping[str, Root]
) -> int:
    loop = asyncio.get_running_loop()
    stop_requested = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, _on_signal, number, stop_requested)
    with watching(signals, settings.drain_secs + settings.exit_timeout_secs + STOP_GRACE_S, SECOND_SIGNAL_GRACE_S):
        return await _serve_watched(settings, security, recorder, roots, stop_requested)


async def _serve_watched(
    settings: Settings,
    security: Security,
    recorder: TraceRecorder | None,
    roots: Mapping[str, Root],
    stop_requested: asyncio.Event,
) -> int:
    # Bodies are read, written and compressed there, mostly without the GIL: one thread for each processor.
    cpus = min(os.cpu_count() or 1, quota_cpus() or 1 << 30)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max(2, min(cpus, 32)), "bodies"))
    for warning in settings.warnings:
        log.warning("%s", warning)
    async with AsyncExitStack() as stack:
        try:
            cache = await stack.enter_async_context(open_cache(settings, os.environ))
        except ServerError as error:
            logs.say(logs.STDERR, f"error: creating server: {error.as_status().replace(': ', ' - ', 1)}")
            return 1
        return await _serve_with(cache, settings, security, recorder, roots=roots, stop_requested=stop_requested)


async def _serve_with(
    cache: OpenCache,
    settings: Settings,
    security: Security,
    recorder: TraceRecorder | None,
    *,
    roots: Mapping[str, Root],
    stop_requested: asyncio.Event,
) -> int:
    loop = asyncio.get_running_loop()
    reactor = Reactor()
    reactor.attach(loop)
    lag = LoopLag(loop)
    lag.start()
    pools = make_pools(settings)
    backends = BackendRegistry(settings.backend_config, pools, settings.backend_directory)
    with Workers(settings.model_load_thread_count) as workers:
        regions = RegionRegistry((lambda: pools.devices) if settings.allow_client_shm else None)
        with watching_gpus(settings, pools) as monitor:
            stuck = StuckWatch(loop)
            host = Host(
                loop, reactor, pools, backends, workers, settings.backend_config, regions=regions,
                gpu_limits=settings.model_load_gpu_limit, gpu_uuid=monitor.uuid, measured=settings.metrics,
                metric_sources=(
                    monitor.families, partial(_own_families, lag, reactor), backends.families, stuck.families,
                    *cache.metric_sources,
                ),
                loop_executions=settings.allow_loop_execution,
                auto_queue_delay=settings.auto_queue_delay,
                cache=cache.cache,
                held_schedulers=held_schedulers(os.environ),
                limiter=_limiter(settings, reactor),
                open_root=roots.__getitem__,
            )  # fmt: skip
            server = InferenceServer(settings, host, recorder)
            backends.inference = inner = InnerRequests(server)
            backends.watcher = reactor
            stuck.start(server.repository.held_models)
            status = await _run_server(settings, security, server, backends, stop_requested)
            lag.stop()
            stuck.stop()
            inner.close()
            await loop.run_in_executor(None, server.close_traces)
        reactor.detach()
        pools.close()
    return status


def _limiter(settings: Settings, reactor: Reactor) -> RateLimiter | None:
    return None if settings.rate_limit == "off" else RateLimiter(reactor, settings.rate_limit_resource)


def make_pools(settings: Settings) -> Pools:
    """The server's memory. No GPU is touched before something asks for one."""
    return Pools(
        SlabPool(SLAB_CACHE_NBYTES),
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


def _on_signal(number: int, stop_requested: asyncio.Event) -> None:
    if stop_requested.is_set():
        log.error("signal (%d) received again, exiting immediately", number)
        _exit_now()
    stop_requested.set()
    logs.say(logs.STDOUT, f"Signal ({number}) received.")


async def _run_server(
    settings: Settings,
    security: Security,
    server: InferenceServer,
    backends: BackendRegistry,
    stop_requested: asyncio.Event,
) -> int:
    endpoints: list[Endpoint] = []
    stopping = asyncio.ensure_future(stop_requested.wait())
    try:
        # A port that is shared brings requests that another server could answer.
        early = settings.listen_while_loading and not (settings.reuse_http_port or settings.reuse_grpc_port)
        if early:
            await _start_endpoints(settings, security, server, endpoints)
        starting = asyncio.ensure_future(server.start())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            # A load in a backend cannot be interrupted; nobody is served yet, so nothing is lost.
            server.repository.close_roots()
            _exit_now(0)
        complete = _outcome(starting, settings)
        _log_tables(settings, server, backends)
        if not complete and settings.exit_on_error:
            raise InternalError("Internal - failed to load all models")
        if not early:
            await _start_endpoints(settings, security, server, endpoints)
        _settle()
    except (ServerError, OSError) as error:
        text = error.message if isinstance(error, ServerError) else str(error)
        logs.say(logs.STDERR, f"error: creating server: {text}")
        await _shut_down(settings, server, endpoints)
        return 1
    renewal = Renewal(security.renewable)
    renewal.start()
    await stopping
    renewal.stop()
    await _drain(settings.drain_secs, server, endpoints)
    return await _shut_down(settings, server, endpoints)


def _outcome(starting: asyncio.Future[bool], settings: Settings) -> bool:
    """Whether all models were loaded. A repository that cannot be read ends the server only with --exit-on-error."""
    try:
        return starting.result()
    except ServerError as error:
        if settings.exit_on_error:
            raise
        log.error("the server is neither live nor ready: %s", error.message)
        return False


def _settle() -> None:
    """Leaves what stays for the life of the process out of garbage collection: models are loaded, ports are open.

    Both express lanes make no cyclic garbage (tests/unit/frontends), the slow lanes make some. So collection stays on
    with Python's thresholds, over a heap that holds the requests and connections of the moment only: 53,000 objects of
    imports and loaded models cost 5 ms of standstill in each full collection before this, nothing after it. Nothing of
    glibc's allocator is set, because nothing gave anything (bench/results/memory.md).
    """
    gc.collect()
    gc.freeze()


async def _start_endpoints(
    settings: Settings, security: Security, server: InferenceServer, endpoints: list[Endpoint]
) -> None:
    """gRPC, HTTP, metrics, as Triton starts them. OSError naming the service that found its port taken."""
    if settings.allow_grpc:
        service = "GRPCInferenceService"
        endpoint: Endpoint = await _listening(
            grpc.start(
                server,
                address=settings.grpc_address,
                port=settings.grpc_port,
                reuse_port=settings.reuse_grpc_port,
                response_compression=settings.grpc_infer_response_compression_level,
                max_waiting=settings.grpc_max_response_pool_size,
                pings=ping_options(settings),
                tls=security.certificates.grpc,
                gate=security.gate(settings, settings.grpc_restricted_protocol),
                forwarded=settings.grpc_header_forward_pattern,
            ),
            "GRPC", settings.grpc_address, settings.grpc_port,
        )  # fmt: skip
        _started(service, endpoint, endpoints)
    if settings.allow_http:
        endpoint = await _listening(
            http.start(
                server,
                address=settings.http_address,
                port=settings.http_port,
                reuse_port=settings.reuse_http_port,
                max_input_nbytes=settings.http_max_input_size,
                tls=security.certificates.http,
                gate=security.gate(settings, settings.http_restricted_api),
                forwarded=settings.http_header_forward_pattern,
                page=document.read() if settings.allow_page else None,
            ),
            "HTTP", settings.http_address, settings.http_port,
        )  # fmt: skip
        _started("HTTPService", endpoint, endpoints)
    await _start_clouds(settings, security, server, endpoints)
    if settings.allow_metrics:
        endpoint = await _listening(
            metrics.start(
                server,
                address=settings.metrics_address,
                port=settings.metrics_port,
                gate=security.gate(settings, {}),
            ),
            "Metrics", settings.metrics_address, settings.metrics_port,
        )  # fmt: skip
        _started("Metrics Service", endpoint, endpoints)


def _cloud_ports(settings: Settings) -> Iterator[tuple[str, str, int]]:
    for name, cloud in (("Sagemaker", settings.sagemaker), ("Vertex AI", settings.vertex_ai)):
        if cloud is not None:
            yield name, clouds.ADDRESS, cloud.port


async def _start_clouds(
    settings: Settings, security: Security, server: InferenceServer, endpoints: list[Endpoint]
) -> None:
    gate = security.gate(settings, settings.http_restricted_api)
    limit = settings.http_max_input_size
    for name, address, port in _cloud_ports(settings):
        if name == "Sagemaker" and settings.sagemaker is not None:
            archives = Archives(server.repository, settings.sagemaker.models)
            starting = clouds.start_sagemaker(server, settings.sagemaker, archives, max_input_nbytes=limit, gate=gate)
        elif settings.vertex_ai is not None:
            starting = clouds.start_vertex_ai(server, settings.vertex_ai, max_input_nbytes=limit, gate=gate)
        _started(f"{name} HTTPService", await _listening(starting, name, address, port), endpoints)


def ping_options(settings: Settings) -> PingOptions:
    """What the options say about keep-alive and the age of gRPC connections."""
    return PingOptions(
        time_ms=settings.grpc_keepalive_time,
        timeout_ms=settings.grpc_keepalive_timeout,
        permit_without_calls=settings.grpc_keepalive_permit_without_calls,
        max_pings_without_data=settings.grpc_http2_max_pings_without_data,
        min_recv_interval_ms=settings.grpc_http2_min_recv_ping_interval_without_data,
        max_strikes=settings.grpc_http2_max_ping_strikes,
        max_age_ms=settings.grpc_max_connection_age,
        age_grace_ms=settings.grpc_max_connection_age_grace,
    )


async def _listening(starting, name: str, address: str, port: int) -> Endpoint:  # type: ignore[no-untyped-def]
    try:
        endpoint: Endpoint = await starting
    except OSError as error:
        raise _not_listening(error, name, address, port) from None
    return endpoint


def _not_listening(error: OSError, name: str, address: str, port: int) -> OSError:
    what = "already in use" if error.errno == errno.EADDRINUSE else "cannot be used"
    return OSError(
        f"failed to start {name} service: Unavailable - Socket '{shown(address, port)}' {what} "
        f"({error.strerror or error})"
    )


def _started(service: str, endpoint: Endpoint, endpoints: list[Endpoint]) -> None:
    endpoints.append(endpoint)
    log.info("Started %s at %s", service, shown(endpoint.address, endpoint.port), extra={"table": True})


async def _shut_down(settings: Settings, server: InferenceServer, endpoints: list[Endpoint]) -> int:
    """Readiness off, no new connections, in-flight requests finish, models are freed; all in one time budget."""
    deadline = asyncio.get_running_loop().time() + settings.exit_timeout_secs
    server.stop_accepting()
    giving_up = asyncio.ensure_future(_give_up_late(settings, server))
    try:
        async with asyncio.timeout_at(deadline):
            await _see_off(min(settings.exit_grace_secs, settings.exit_timeout_secs / 2), endpoints)
            await asyncio.gather(*(endpoint.stop_accepting() for endpoint in endpoints))
            await asyncio.gather(*(endpoint.close(settings.exit_timeout_secs) for endpoint in endpoints))
            await server.stop()
    except TimeoutError:
        logs.say(logs.STDERR, "error: failed to stop server: Internal - Exit timeout expired. Exiting immediately.")
        server.repository.close_roots()
        _exit_now()
    finally:
        giving_up.cancel()
    return 0


async def _drain(seconds: int, server: InferenceServer, endpoints: list[Endpoint]) -> None:
    """Serves on for as long as load balancers need to notice that the server is not ready."""
    if seconds > 0:
        log.info("draining for %d s: not ready any more", seconds)
        server.drain()
        for endpoint in endpoints:
            endpoint.leave()
        await asyncio.sleep(seconds)


async def _see_off(seconds: float, endpoints: list[Endpoint]) -> None:
    """Lets clients hear with their next answer that they are to go elsewhere; returns early when none is left."""
    for endpoint in endpoints:
        endpoint.leave()
    end = asyncio.get_running_loop().time() + seconds
    while any(endpoint.connected for endpoint in endpoints) and (  # noqa: ASYNC110
        asyncio.get_running_loop().time() < end
    ):
        await asyncio.sleep(SEE_OFF_INTERVAL_S)


async def _give_up_late(settings: Settings, server: InferenceServer) -> None:
    """Ends what still runs a moment before the time is up: its clients get an error instead of a closed connection."""
    await asyncio.sleep(settings.exit_timeout_secs - min(EXIT_GIVE_UP_S, settings.exit_timeout_secs / 2))
    log.warning("the exit timeout is about to expire: executions that are still running are given up")
    while True:  # what waits behind them is begun, and given up in its turn
        server.interrupt()
        await asyncio.sleep(EXIT_GIVE_UP_S / 20)


def _exit_now(status: int = 1) -> None:
    """Ends the process although engine threads are busy: they cannot be interrupted."""
    logs.flush(SECOND_SIGNAL_GRACE_S / 4)
    os._exit(status)


def _log_tables(settings: Settings, server: InferenceServer, backends: BackendRegistry) -> None:
    plain = {"table": True}
    rows = [(name, "built in", "{}") for name in backends.in_use()]
    log.info("%s", logs.table(("Backend", "Path", "Config"), rows), extra=plain)
    models = [
        (
            row["name"],
            row.get("version", "-"),
            row["state"] + (f": {_one_line(row['reason'])}" if row.get("reason") else ""),
        )
        for row in server.repository.index(ready_only=False)
        if "state" in row
    ]
    log.info("%s", logs.table(("Model", "Version", "Status"), models), extra=plain)
    log.info("%s", logs.table(("Option", "Value"), _option_rows(settings, server)), extra=plain)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _option_rows(settings: Settings, server: InferenceServer) -> list[tuple[str, str]]:
    return [
        ("server_id", server.id),
        ("server_version", server.version),
        ("server_extensions", " ".join(server.extensions)),
        *((f"model_repository_path[{i}]", path) for i, path in enumerate(settings.model_repository)),
        ("model_control_mode", f"MODE_{settings.model_control_mode.upper()}"),
        ("strict_model_config", str(int(settings.disable_auto_complete_config))),
        ("model_config_name", settings.model_config_name),
        ("rate_limit", settings.rate_limit.upper()),
        ("pinned_memory_pool_byte_size", str(settings.pinned_memory_pool_byte_size)),
        *(
            (f"cuda_memory_pool_byte_size{{{gpu}}}", str(nbytes))
            for gpu, nbytes in sorted(settings.cuda_memory_pool_byte_size.items())
        ),
        ("min_supported_compute_capability", str(settings.min_supported_compute_capability)),
        ("strict_readiness", str(int(settings.strict_readiness))),
        ("exit_timeout", str(settings.exit_timeout_secs)),
    ]
