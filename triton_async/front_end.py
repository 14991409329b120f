"""A front-end process of a server with several: HTTP and gRPC on shared ports, for models that another process has.

`python -m triton_async.front_end DESCRIPTOR` is the process that they are forked from: it has everything imported and
one thread. Both end with the model process.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import os
import signal
import socket
import sys
from typing import Any

import uvloop

from triton_async import logs
from triton_async.backends.python.isolated.memory import SharedMemory
from triton_async.backends.python.worker import main as worker_main
from triton_async.config.processes import usable_cores
from triton_async.config.settings import Settings, parse
from triton_async.core.metrics import live_objects
from triton_async.core.reactor import Reactor
from triton_async.core.threads import for_bodies
from triton_async.defines import GIL_SWITCH_S, SEE_OFF_INTERVAL_S, SLAB_CACHE_NBYTES
from triton_async.endpoints import Endpoint, Security, open_certificates, start_services
from triton_async.errors import ServerError
from triton_async.frontends.gate import ApiKeys
from triton_async.frontends.renewal import Renewal
from triton_async.loop_lag import LoopLag
from triton_async.memory.binding import bind_process
from triton_async.memory.slab import SlabPool
from triton_async.processes.calls import encoded
from triton_async.processes.defines import INLINE_NBYTES, TELL_S
from triton_async.processes.lane import lease_rings
from triton_async.processes.remote import ModelsLane, RemoteServer
from triton_async.version import VERSION

log = logging.getLogger("triton_async.front_end")


class Prepared:
    """What all front-ends have in common, made before they are forked."""


class FrontEndProcess:
    """Does what the model process says."""

    def __init__(self, descriptors: tuple[int, ...]) -> None:
        sock, bodies, responses, own_bell, other_bell = descriptors
        self._loop = asyncio.get_running_loop()
        self._bodies = SharedMemory(0, True, fd=bodies, lends=True)
        lease_rings(self._bodies)
        connection = socket.socket(fileno=sock)
        connection.setblocking(False)
        self._link = ModelsLane(
            self._loop, connection, self._bodies, self._bodies, SharedMemory(0, False, fd=responses), own_bell,
            other_bell, self._on_told, self._on_over,
        )  # fmt: skip
        self._server: RemoteServer | None = None
        self._endpoints: dict[str, Endpoint] = {}
        self._connected = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lag = LoopLag(self._loop)
        self._renewal: Renewal | None = None
        self.ended = asyncio.Event()
        self.failed = False  # it could not begin

    def open(self) -> None:
        """Begins to listen to the model process."""
        self._lag.start()
        self._link.open()

    def _tell(self, **told: Any) -> None:
        self._link.tell(encoded(told))

    def _run(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what the model process says -------------------------------------------------------------------------------

    def _on_told(self, told: dict[str, Any]) -> None:
        if "arguments" in told:
            self._begin(told)
        elif "news" in told:
            self._take_over(told)
        elif told.get("order") == "leave":
            for endpoint in self._endpoints.values():
                endpoint.leave()
            self._run(self._see_off())
        elif told.get("order") == "stop_accepting":
            self._run(self._stop_accepting())
        elif told.get("order") == "close":
            self._run(self._close(told["deadline_s"]))

    def _on_over(self, problem: str | None) -> None:
        if problem is not None:
            log.error("the model process %s: this front-end ends", problem)
        else:
            log.error("the model process has ended: this front-end ends with it")
        logs.flush()
        os._exit(1)

    def _begin(self, told: dict[str, Any]) -> None:
        self._tell(pid=os.getpid())
        if told["version"] != VERSION:
            self._give_up(f"front-end processes are of version {VERSION}, the model process is of {told['version']}")
            return
        try:
            if told["cores"]:
                bind_process(told["cores"])
            self._loop.set_default_executor(for_bodies(usable_cores()))
            settings = parse(told["arguments"], told["environ"])
            settings = dataclasses.replace(settings, **told["ports"], reuse_http_port=True, reuse_grpc_port=True)
            _configure_logs(settings)
            pool = SlabPool(0, self._bodies.arena, SlabPool(SLAB_CACHE_NBYTES), INLINE_NBYTES + 1)
            reactor = Reactor()
            reactor.attach(self._loop)
            self._link.share(reactor.turn)
            self._server = RemoteServer(
                settings, reactor, self._loop, pool, self._link, settings.frontend_processes
            )
            security = Security(
                open_certificates(settings), ApiKeys(settings.api_key_file) if settings.api_key_file else None
            )
        except (ServerError, OSError) as error:
            self._give_up(error.message if isinstance(error, ServerError) else str(error))
            return
        self._run(self._listen(settings, security, self._server))

    # The model process tries again with another one, behind a pause.
    def _give_up(self, problem: str) -> None:
        self._tell(problem=problem)
        self.failed = True
        self._loop.call_soon(self.ended.set)  # behind the publication of that

    async def _listen(self, settings: Settings, security: Security, server: RemoteServer) -> None:
        try:
            await start_services(settings, security, server, self._endpoints, quiet=True)
        except OSError as error:
            self._give_up(str(error))
            return
        self._renewal = Renewal(security.renewable)
        self._renewal.start()
        gc.collect()
        gc.freeze()
        self._tell(listening=True)
        self._run(self._tell_now_and_then())

    def _take_over(self, told: dict[str, Any]) -> None:
        server = self._server
        if server is None:  # it could not begin
            return
        server.set_state(told["state"], told["max_held_nbytes"], told["reads_context"], told["models_asked"])
        server.set_models(told["models"])
        server.set_regions(told["regions"])
        settings = dict(told["logs"])
        settings.pop("log_file", None)
        logs.update(settings)
        server.wake_readiness()
        self._tell(settled=told["news"])

    # -- what it says ----------------------------------------------------------------------------------------------

    async def _tell_now_and_then(self) -> None:
        while True:
            self._tell_of_itself()
            await asyncio.sleep(TELL_S)

    def _tell_of_itself(self) -> None:
        self._connected = any(endpoint.connected for endpoint in self._endpoints.values())
        self._tell(
            connected=self._connected,
            metrics={
                "lag_us": int(self._lag.worst_s() * 1e6), "log_lines_dropped": logs.dropped(), "live": live_objects()
            },
        )

    async def _see_off(self) -> None:
        self._tell_of_itself()
        while self._connected:
            await asyncio.sleep(SEE_OFF_INTERVAL_S)
            if self._connected != any(endpoint.connected for endpoint in self._endpoints.values()):
                self._tell_of_itself()

    # -- the end ---------------------------------------------------------------------------------------------------

    async def _stop_accepting(self) -> None:
        await asyncio.gather(*(endpoint.stop_accepting() for endpoint in self._endpoints.values()))
        self._tell(done=True)

    async def _close(self, deadline_s: float) -> None:
        if self._renewal is not None:
            self._renewal.stop()
        await asyncio.gather(*(endpoint.close(deadline_s) for endpoint in self._endpoints.values()))
        self.ended.set()


def _configure_logs(settings: Settings) -> None:
    logs.configure(
        verbose=settings.log_verbose, info=settings.log_info, warning=settings.log_warning, error=settings.log_error,
        log_format=settings.log_format, file=settings.log_file, access_lines=settings.log_access,
    )  # fmt: skip


async def _serve(descriptors: tuple[int, ...]) -> None:
    process = FrontEndProcess(descriptors)
    process.open()
    await process.ended.wait()
    logs.flush()
    # What is still held, by threads too, ends with the process.
    os._exit(1 if process.failed else 0)


def main(prepared: Prepared, *descriptors: int) -> int:
    """One front-end, in a process that was just forked. `descriptors`: see FrontEnds."""
    # It ends when the model process says so, which waits for it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.setswitchinterval(GIL_SWITCH_S)
    uvloop.run(_serve(descriptors))
    return 1


def _prepare() -> None:
    """The process that front-ends are forked from."""
    control = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(control.fileno(), False)
    zygote = worker_main.Zygote(control, sys.modules[__name__])
    zygote.tell(op="ready")
    gc.collect()
    gc.freeze()
    zygote.run()


if __name__ == "__main__":
    _prepare()
