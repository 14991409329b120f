"""Models that are loaded when they are asked for, at most so many at once. Loop thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import unquote

from triton_async.core.server import InferenceServer
from triton_async.errors import ServerError

log = logging.getLogger("triton_async.ray")

# Seconds that a model waits for its requests before it is unloaded; those that run then still end.
_LEAVE_S = 10.0
_MODELS = "/v2/models/"


class Lent:
    """A model that is loaded, as long as who keeps it keeps it."""

    def __init__(self, models: ModelsOnDemand, name: str) -> None:
        self.name = name
        self.users = 0
        self.unused = asyncio.Event()
        self.unused.set()
        self._models = models
        # Ray awaits it when it drops the model. Not a method: Python would call that too, and nobody await it.
        self.__del__ = self.leave

    async def leave(self) -> None:
        """Nobody keeps it any more."""
        await self._models.drop(self)


# Says which of them a replica keeps, and which leaves: Ray's multiplexing, the least recently used.
Keeper = Callable[[str], Awaitable[Lent]]


class ModelsOnDemand:
    """Of one server, in explicit mode."""

    def __init__(self, server: InferenceServer) -> None:
        self._server = server
        self._held: dict[str, Lent] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._known: set[str] = set()
        self.keeper: Keeper = self.load

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[None]:
        """The model is loaded meanwhile, if it can be; else the server says itself what is the matter with it."""
        lent = await self._lend(name) if name else None
        if lent is None:
            yield
            return
        lent.users += 1
        lent.unused.clear()
        try:
            yield
        finally:
            lent.users -= 1
            if not lent.users:
                lent.unused.set()

    async def _lend(self, name: str) -> Lent | None:
        # A name that nothing is behind must not cost a model its place.
        if name not in self._held and not await self._knows(name):
            return None
        try:
            return await self.keeper(name)
        except ServerError as error:
            log.warning("model '%s' could not be loaded: %s", name, error.message)
            return None

    async def _knows(self, name: str) -> bool:
        if name not in self._known:
            self._known = {str(row["name"]) for row in await self._server.repository_index()}
        return name in self._known

    async def load(self, name: str) -> Lent:
        """Loads it, or takes over what is still loaded. ServerError."""
        async with self._lock(name):
            if name not in self._held:
                await self._server.load_model(name)
            lent = self._held[name] = Lent(self, name)
            return lent

    async def drop(self, lent: Lent) -> None:
        """Unloads it once nobody uses it, unless it was lent anew."""
        try:
            async with asyncio.timeout(_LEAVE_S):
                await lent.unused.wait()
        except TimeoutError:
            log.warning("model '%s' is unloaded while requests to it run: they end first", lent.name)
        async with self._lock(lent.name):
            if self._held.get(lent.name) is not lent:
                return
            del self._held[lent.name]
            try:
                await self._server.unload_model(lent.name)
            except ServerError as error:
                log.warning("model '%s' could not be unloaded: %s", lent.name, error.message)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())


def model_of_path(path: str) -> str:
    """The model that an HTTP path names; empty for none."""
    if not path.startswith(_MODELS):
        return ""
    name, _, _ = path[len(_MODELS) :].partition("/")
    return "" if name == "stats" else unquote(name)
