"""The server as a process: makes it, its front-ends and the event loop, and stops them in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import uvloop

from triton_async import logs
from triton_async.backends.registry import BackendRegistry
from triton_async.composition import composed, open_root, trace_recorder
from triton_async.config.affinity import division, own_cores
from triton_async.config.processes import usable_cores
from triton_async.config.settings import Settings
from triton_async.core.caches import OpenCache, open_cache
from triton_async.core.files import Root
from triton_async.core.server import InferenceServer
from triton_async.core.threads import for_bodies
from triton_async.core.tracing import TraceRecorder
from triton_async.defines import GIL_SWITCH_S, SECOND_SIGNAL_GRACE_S, STOP_GRACE_S
from triton_async.endpoints import (
    Endpoint,
    Security,
    open_certificates,
    start_behind_models,
    start_endpoints,
    start_others,
    try_ports,
)
from triton_async.errors import InternalError, ServerError
from triton_async.frontends.gate import ApiKeys
from triton_async.frontends.renewal import Renewal
from triton_async.memory.binding import bind_process
from triton_async.shutdown import drain, shut_down
from triton_async.watchdog import watching

if TYPE_CHECKING:
    from triton_async.fronts import Fronts

log = logging.getLogger("triton_async.app")

# Objects made, less those freed, between two collections while models load; Python's own is 700.
_LOADING_GC_THRESHOLD = 50_000
# Seconds after which one load thread leaves the GIL to another one.
_LOADING_SWITCH_S = 0.005


def run(settings: Settings) -> int:
    """Serves until SIGINT or SIGTERM. The exit status of the process."""
    sys.setswitchinterval(GIL_SWITCH_S)
    _raise_descriptor_limit()
    try:
        certificates = open_certificates(settings)
        recorder = trace_recorder(settings)
        keys = ApiKeys(settings.api_key_file) if settings.api_key_file else None
        try_ports(settings)
        if cores := own_cores(settings):
            bind_process(cores)
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


def _raise_descriptor_limit() -> None:
    """As many open files as the system allows: its soft limit, for programs that use select(), is far below."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.warning("the limit of open files could not be raised: %s", error)


async def _serve(
    settings: Settings, security: Security, recorder: TraceRecorder | None, roots: Mapping[str, Root]
) -> int:
    loop = asyncio.get_running_loop()
    stop_requested = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, _on_signal, number, stop_requested)
    os.register_at_fork(after_in_child=partial(_leave_signals, signals))
    with watching(signals, settings.drain_secs + settings.exit_timeout_secs + STOP_GRACE_S, SECOND_SIGNAL_GRACE_S):
        return await _serve_watched(settings, security, recorder, roots, stop_requested)


def _leave_signals(signals: Sequence[int]) -> None:
    """In a process that a model has forked: what ends it, as `multiprocessing` does, is not said to the server."""
    signal.set_wakeup_fd(-1)
    for number in signals:
        signal.signal(number, signal.SIG_DFL)


async def _serve_watched(
    settings: Settings,
    security: Security,
    recorder: TraceRecorder | None,
    roots: Mapping[str, Root],
    stop_requested: asyncio.Event,
) -> int:
    asyncio.get_running_loop().set_default_executor(for_bodies(usable_cores()))
    for warning in settings.warnings:
        log.warning("%s", warning)
    log.info("%s", division(settings))
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
    try:
        fronts = _open_fronts(settings)
    except OSError as error:
        logs.say(logs.STDERR, f"error: creating server: {error}")
        return 1
    async with composed(settings, cache, recorder, roots, fronts) as made:
        if fronts is not None:
            fronts.attach(made.server)
        return await _run_server(settings, security, made.server, made.backends, stop_requested, fronts=fronts)


def _open_fronts(settings: Settings) -> Fronts | None:
    """None where the models' own process is the only front-end; what others take is not even imported. OSError."""
    if settings.frontend_processes < 2:
        return None
    from triton_async.fronts import Fronts

    return Fronts(settings)


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
    *,
    fronts: Fronts | None,
) -> int:
    endpoints: dict[str, Endpoint] = {}
    stopping = asyncio.ensure_future(stop_requested.wait())
    try:
        # A port that is shared brings requests that another server could answer.
        early = settings.listen_while_loading and not (settings.reuse_http_port or settings.reuse_grpc_port)
        if early:
            await _start_endpoints(settings, security, server, endpoints, fronts, loaded=False)
        starting = asyncio.ensure_future(server.start())
        with _made_for_loads(alone=not early):
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            # A load in a backend cannot be interrupted; nobody is served yet, so nothing is lost.
            server.repository.close_roots()
            _exit_now(0)
        complete = _outcome(starting, settings)
        _log_tables(settings, server, backends)
        if not complete and settings.exit_on_error:
            raise InternalError("Internal - failed to load all models")
        if early:
            await start_behind_models(settings, security, server, endpoints)
        else:
            await _start_endpoints(settings, security, server, endpoints, fronts)
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
    await drain(settings.drain_secs, server, endpoints.values())
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


@contextmanager
def _made_for_loads(alone: bool) -> Iterator[None]:
    """While models load, which makes much that stays and little cyclic garbage: looking for that again and again took a
    tenth of the time until 1,000 models were ready. What imports made is not looked at any more. `alone`: nobody is
    served meanwhile, whom a load thread could keep from the GIL.
    """
    thresholds, switch_s = gc.get_threshold(), sys.getswitchinterval()
    gc.freeze()
    gc.set_threshold(_LOADING_GC_THRESHOLD, *thresholds[1:])
    if alone:
        sys.setswitchinterval(_LOADING_SWITCH_S)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(switch_s)


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
    settings: Settings, security: Security, server: InferenceServer, endpoints: dict[str, Endpoint],
    fronts: Fronts | None, *, loaded: bool = True,
) -> None:  # fmt: skip
    """What the server listens with, in this process or in others. OSError."""
    if fronts is None:
        await start_endpoints(settings, security, server, endpoints, loaded)
        return
    endpoints["front-end processes"] = fronts.front_ends
    await fronts.start()
    await start_others(settings, security, server, endpoints, loaded)


async def _shut_down(settings: Settings, server: InferenceServer, endpoints: Mapping[str, Endpoint]) -> int:
    log.info("Waiting for in-flight requests to complete.")
    try:
        await shut_down(settings, server, endpoints.values())
    except TimeoutError:
        logs.say(logs.STDERR, "error: failed to stop server: Internal - Exit timeout expired. Exiting immediately.")
        server.repository.close_roots()
        _exit_now()
    return 0


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
