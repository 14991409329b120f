"""The front-end processes of a server, seen from its model process: started, told what changes, replaced, stopped.

They are forked from one process that has imported everything, so that one that has died is back at once. Loop thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from triton_async import forking
from triton_async.backends.python.isolated.memory import SharedMemory
from triton_async.backends.python.isolated.reader import Reader
from triton_async.backends.python.isolated.zygote import WorkerProcess, Zygote
from triton_async.core.families import Family
from triton_async.core.server import InferenceServer
from triton_async.errors import ServerError
from triton_async.processes import defines
from triton_async.processes.calls import Answering, encoded
from triton_async.processes.lane import rings_nbytes
from triton_async.processes.news import News
from triton_async.processes.peer import FrontEnd
from triton_async.version import VERSION

log = logging.getLogger("triton_async.processes")

MAIN = ("-m", "triton_async.front_end")


class _Place:
    """One of the N front-ends: the process that is it now, and the next one."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.link: FrontEnd | None = None
        self.process: WorkerProcess | None = None
        self.listening = False
        self.connected = False
        self.started_s = 0.0
        self.pause_s = 0.0
        self.problem = ""
        self.settled = 0  # the last news that it has taken over
        self.version = 0  # of its process: what is late of an earlier one is not believed
        self.done = asyncio.Event()  # it has done what it was asked for last, or is gone


class FrontEnds:
    """So many, `count`, for `server`. An Endpoint of the app: to be left, closed. `start`: what they are started with,
    beside its version. `responses`: SharedMemory that the server's host pool is cut from. `shown`: address and port.
    """

    def __init__(  # noqa: PLR0917
        self, server: InferenceServer, responses: SharedMemory, count: int, start: Mapping[str, Any], news: News,
        shown: tuple[str, int],
    ) -> None:  # fmt: skip
        self._server = server
        self._responses = responses
        self._start = start
        self._news = news
        self.address, self.port = shown
        self._loop = asyncio.get_running_loop()
        self._reader = Reader()
        self._zygote = Zygote(self._reader, sys.executable, command=MAIN)
        # A thread that is not nice, as those for bodies are: processes are as nice as who starts them.
        self._starter = ThreadPoolExecutor(1, "front-end processes")
        self._answering = Answering(server, self._settle)
        self._places = [_Place(index) for index in range(count)]
        self._by_link: dict[FrontEnd, _Place] = {}
        self._changed = asyncio.Event()  # of any place
        self._stopping = False
        self._watching: asyncio.Task[None] | None = None
        self.restarts = 0

    # -- start -----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Starts the process that they are forked from, which takes a moment: before models are loaded."""
        self._loop.run_in_executor(self._starter, self._zygote.start).add_done_callback(_ignore)

    async def start(self) -> None:
        """Returns when all of them listen. OSError with the reason why one does not."""
        try:
            await self._loop.run_in_executor(self._starter, self._zygote.start)
        except ServerError as error:
            raise OSError(f"failed to start front-end processes: {error.message}") from None
        for place in self._places:
            self._spawn(place)
        end = self._loop.time() + defines.START_S
        while not all(place.listening for place in self._places):
            for place in self._places:
                if place.problem:
                    raise OSError(place.problem)
            self._changed.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._changed.wait()
            except TimeoutError:
                raise OSError(f"front-end processes do not listen within {defines.START_S:g} s") from None
        self._watching = asyncio.ensure_future(self._watch())

    def _spawn(self, place: _Place) -> None:
        if self._stopping:
            return
        place.version += 1
        place.started_s = self._loop.time()
        place.listening = place.connected = False
        try:
            self._make(place, place.version)
        except OSError as error:
            self._gone(place, place.version, f"could not be started: {error.strerror or error}")

    def _make(self, place: _Place, version: int) -> None:
        with ExitStack() as stack:
            failed = stack.enter_context(ExitStack())
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            forking.hold(ours)
            stack.callback(theirs.close)
            failed.callback(ours.close)
            ours.setblocking(False)
            bells = []
            for _ in range(2):
                bells.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
                failed.callback(os.close, bells[-1])
            bodies = SharedMemory(defines.FRONTEND_MEMORY_NBYTES, True, lends=False)
            link = FrontEnd(
                self._loop, ours, bodies, self._responses, bodies, bells[0], bells[1], self._server, self._answering,
                self._on_told, self._on_over,
            )  # fmt: skip
            failed.pop_all()
            self._publish()  # so that it and the others know the same
            self._by_link[link] = place
            place.link = link
            link.tell(encoded({**self._start, "index": place.index, "version": VERSION}))
            self._publish_to(link, self._news.everything())
            link.open()
            place.process = self._zygote.fork(
                [theirs.fileno(), bodies.fd, self._responses.fd, bells[1], bells[0]], 0,
                lambda how: self._call(self._gone, place, version, how),
            )  # fmt: skip
            bodies.close()

    # From the reader's thread.
    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return  # the loop is over

    # -- what they say ---------------------------------------------------------------------------------------------

    def _on_told(self, link: FrontEnd, told: dict[str, Any]) -> None:
        place = self._by_link.get(link)
        if place is None:
            return
        if "settled" in told:
            place.settled = told["settled"]
            link.forget(self._news.forgotten(link.known(), place.settled))
        if "connected" in told:
            place.connected = told["connected"]
        if "problem" in told:
            place.problem = told["problem"]
        if told.get("listening"):
            place.listening = True
            place.problem = ""
        if told.get("done"):
            place.done.set()
        self._changed.set()

    def _on_over(self, link: FrontEnd, problem: str | None) -> None:
        place = self._by_link.pop(link, None)
        if place is None or place.process is None:
            return
        if problem is not None:
            place.process.kill(f"was killed because it {problem}")
        elif not self._stopping:
            # It has lost its socket, and so its use.
            self._loop.call_later(defines.END_S, place.process.kill, "closed its connection to the model process")

    # It is no more. Others are told nothing: its requests are cancelled, its memory is given back.
    def _gone(self, place: _Place, version: int, how: str) -> None:
        if version != place.version:
            return
        if place.link is not None:
            place.link.hear_out()  # why, maybe
        link, place.link, place.process = place.link, None, None
        if link is not None:
            self._by_link.pop(link, None)
            link.close()
            link.take_back()
        place.connected = False
        place.done.set()
        if self._stopping:
            self._changed.set()
            return
        was_listening, place.listening = place.listening, False
        steady = was_listening and self._loop.time() - place.started_s >= defines.STEADY_S
        if steady or (was_listening and place.pause_s == 0):
            pause_s, place.pause_s = 0.0, 0.0 if steady else defines.RESTART_S
        else:
            most_s = defines.RESTART_SERVED_S if was_listening else defines.RESTART_MAX_S
            pause_s = place.pause_s = min(max(2 * place.pause_s, defines.RESTART_S), most_s)
        if self._watching is None:
            place.problem = place.problem or f"a front-end process {how}"
            self._changed.set()
            return
        why = f": {place.problem}" if place.problem else ""
        log.error("front-end process %d %s%s; another one is started in %g s", place.index, how, why, pause_s)
        place.problem = ""
        self.restarts += 1
        self._changed.set()
        self._loop.call_later(pause_s, self._spawn, place)

    # -- news ------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Tells them what has changed of its own accord: models that were polled, that fail, that come back."""
        while True:
            change = asyncio.ensure_future(self._server.readiness_change())
            await asyncio.sleep(0)  # until it listens, or a change behind what is told now would be missed
            self._publish()
            await change

    def _publish(self) -> None:
        told = self._news.changes()
        for link in list(self._by_link):
            self._publish_to(link, told)

    def _publish_to(self, link: FrontEnd, told: tuple[Mapping[str, Any], Sequence[Any]]) -> None:
        message, models = told
        link.know(models)
        try:
            link.tell(encoded(message))
        except ServerError:
            self._end(link, "has no room for what it is told")

    async def _settle(self, changed: bool) -> None:
        """Returns when all front-ends know what is in force. One that does not listen is ended. `changed`: something
        was; else they may know already."""
        if changed or self._news.are_old():
            self._publish()
        number = self._news.number
        end = self._loop.time() + defines.SETTLE_S
        while True:
            late = [link for link, place in self._by_link.items() if place.listening and place.settled < number]
            if not late:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._changed.wait()
            except TimeoutError:
                for link in late:
                    self._end(link, f"does not listen to the model process for {defines.SETTLE_S:g} s")
                return

    def _end(self, link: FrontEnd, problem: str) -> None:
        self._on_over(link, problem)
        link.close()

    # -- the end -------------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether any client is."""
        return any(place.connected for place in self._places)

    def leave(self) -> None:
        """Has clients go elsewhere."""
        self._order("leave")

    async def stop_accepting(self) -> None:
        """Closes the ports."""
        await self._ordered("stop_accepting")

    async def close(self, deadline_s: float) -> None:
        """Lets requests in work end within the deadline, and all front-ends behind them."""
        self._stopping = True
        if self._watching is not None:
            self._watching.cancel()
        started = time.monotonic()
        self._order("close", deadline_s=deadline_s)
        while any(place.process is not None for place in self._places):
            left = deadline_s + defines.END_S - (time.monotonic() - started)
            self._changed.clear()
            try:
                async with asyncio.timeout(max(left, 0)):
                    await self._changed.wait()
            except TimeoutError:
                break
        for link in list(self._by_link):
            link.close()
        self._zygote.close()
        self._starter.shutdown(wait=False)

    def _order(self, what: str, **more: Any) -> None:
        for link, place in self._by_link.items():
            place.done.clear()
            link.tell(encoded({"order": what, **more}))

    async def _ordered(self, what: str) -> None:
        self._order(what)
        await asyncio.gather(*(place.done.wait() for place in self._by_link.values()))

    # -- metrics -------------------------------------------------------------------------------------------------------

    def families(self) -> list[Family]:
        """What is known of them, for the metrics."""
        rows = [
            ({"process": str(place.index)}, place.link, place.link.told or {})
            for place in self._places
            if place.link is not None
        ]
        text = "of front-end processes"
        return [
            ("triton_async_frontend_processes", "gauge", "Front-end processes that listen",
             [({}, sum(place.listening for place in self._places))]),
            ("triton_async_frontend_restarts_total", "counter", "Front-end processes that were started again",
             [({}, self.restarts)]),
            ("triton_async_frontend_requests", "gauge", f"Requests {text} that are not over",
             [(labels, link.in_flight) for labels, link, _ in rows]),
            ("triton_async_frontend_messages_total", "counter", f"Messages {text} to the model process",
             [(labels, link.n_received) for labels, link, _ in rows]),
            ("triton_async_frontend_loop_lag_us", "gauge", "Longest delay of the event loop in the last 15 to 30 s, "
             f"in microseconds, {text}", [(labels, told.get("lag_us", 0)) for labels, _, told in rows]),
            ("triton_async_frontend_log_lines_dropped_total", "counter", f"Lines of the log {text} that nobody read in "
             "time", [(labels, told.get("log_lines_dropped", 0)) for labels, _, told in rows]),
            ("triton_async_frontend_live_objects", "gauge", f"Objects of the request path {text} that are alive",
             [({**labels, "kind": kind}, count)
              for labels, _, told in rows for kind, count in told.get("live", {}).items()]),
        ]  # fmt: skip


def _ignore(future: Any) -> None:
    # `start` finds it again.
    if not future.cancelled():
        future.exception()


def needed_nbytes() -> int:
    """Bytes of shared memory without which there is no front-end."""
    return rings_nbytes()
