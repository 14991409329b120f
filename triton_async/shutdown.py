"""Stops a server with its front-ends in order, within the time that the options give. Loop thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from triton_async.config.settings import Settings
from triton_async.core.server import InferenceServer
from triton_async.defines import EXIT_GIVE_UP_S, SEE_OFF_INTERVAL_S
from triton_async.endpoints import Endpoint

log = logging.getLogger("triton_async.app")


async def drain(seconds: int, server: InferenceServer, endpoints: Collection[Endpoint]) -> None:
    """Serves on for as long as load balancers need to notice that the server is not ready."""
    if seconds > 0:
        log.info("draining for %d s: not ready any more", seconds)
        server.drain()
        for endpoint in endpoints:
            endpoint.leave()
        await asyncio.sleep(seconds)


async def shut_down(settings: Settings, server: InferenceServer, endpoints: Collection[Endpoint]) -> None:
    """Readiness off, no new connections, in-flight requests finish, models are freed; all in one time budget.
    TimeoutError behind that: engines still run.
    """
    deadline = asyncio.get_running_loop().time() + settings.exit_timeout_secs
    server.stop_accepting()
    giving_up = asyncio.ensure_future(_give_up_late(settings, server))
    try:
        async with asyncio.timeout_at(deadline):
            if endpoints:
                await _see_off(min(settings.exit_grace_secs, settings.exit_timeout_secs / 2), endpoints)
                await _finish_sequences(settings, server, deadline)
                await asyncio.gather(*(endpoint.stop_accepting() for endpoint in endpoints))
                # Who does not read is not waited for to the end: behind this the models are still to be freed.
                left_s = max(deadline - asyncio.get_running_loop().time() - _give_up_s(settings) / 2, 0)
                await asyncio.gather(*(endpoint.close(left_s) for endpoint in endpoints))
            await server.stop()
    finally:
        giving_up.cancel()


async def _see_off(seconds: float, endpoints: Collection[Endpoint]) -> None:
    """Lets clients hear with their next answer that they are to go elsewhere; returns early when none is left."""
    for endpoint in endpoints:
        endpoint.leave()
    end = asyncio.get_running_loop().time() + seconds
    while any(endpoint.connected for endpoint in endpoints) and (  # noqa: ASYNC110
        asyncio.get_running_loop().time() < end
    ):
        await asyncio.sleep(SEE_OFF_INTERVAL_S)


async def _finish_sequences(settings: Settings, server: InferenceServer, deadline: float) -> None:
    """Lets sequences that have begun come to their ends, or idle out: their clients connect again for each request."""
    end = deadline - _give_up_s(settings)
    if not server.sequences_left():
        return
    log.info("%d sequences go on to their ends, no other requests are taken", server.sequences_left())
    server.finish_sequences()
    while server.sequences_left() and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110
        await asyncio.sleep(SEE_OFF_INTERVAL_S)


def _give_up_s(settings: Settings) -> float:
    return min(EXIT_GIVE_UP_S, settings.exit_timeout_secs / 2)


async def _give_up_late(settings: Settings, server: InferenceServer) -> None:
    """Ends what still runs a moment before the time is up: its clients get an error instead of a closed connection."""
    await asyncio.sleep(settings.exit_timeout_secs - _give_up_s(settings))
    log.warning("the exit timeout is about to expire: executions that are still running are given up")
    while True:  # what waits behind them is begun, and given up in its turn
        server.interrupt()
        await asyncio.sleep(EXIT_GIVE_UP_S / 20)
