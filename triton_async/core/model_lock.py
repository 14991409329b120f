"""One load or unload of a model at a time, and none that would wait for itself. Loop thread, but for `current`.

Whatever is asked for while a model is loaded, by the model itself, say, is taken to be waited for by that load. What
runs there, on whatever thread, is told apart by its context (contextvars), which `in_turn` hands on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar

from triton_async.errors import Unavailable

_TURN: ContextVar[Turn | None] = ContextVar("turn", default=None)


class Turn:
    """A load or an unload, from its wait for the lock of its model on. `asker`: the one that waits for it, None: no
    other does; `asked`: those that it waits for.
    """

    __slots__ = ("asked", "asker", "lock", "over")

    def __init__(self, lock: ModelLock, asker: Turn | None) -> None:
        self.lock = lock
        self.asker = asker
        self.asked: set[Turn] = set()
        self.over = False
        if asker is not None:
            asker.asked.add(self)

    def end(self) -> None:
        """Nobody waits for it any more."""
        self.over = True
        if self.asker is not None:
            self.asker.asked.discard(self)
            self.asker = None

    def askers(self) -> Iterator[Turn]:
        """Who waits for it, the nearest first."""
        turn = self.asker
        while turn is not None:
            yield turn
            turn = turn.asker


def current() -> Turn | None:
    """The load that what runs here is part of. Any thread."""
    turn = _TURN.get()
    return None if turn is None or turn.over else turn


def in_turn() -> Context:
    """A context with nothing but the load that what runs here is part of."""
    context = Context()
    context.run(_TURN.set, current())
    return context


class ModelLock:
    """`key`: the model's."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.owner: Turn | None = None
        self._lock = asyncio.Lock()

    def locked(self) -> bool:
        """Whether somebody has it."""
        return self._lock.locked()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Has it, behind those who wait. Unavailable for who would wait for itself."""
        turn = Turn(self, current())
        token = _TURN.set(turn)
        try:
            ring = _ring(turn)
            if ring:
                raise Unavailable(
                    f"model '{self.key}' can not be loaded or unloaded by what its own load waits for: "
                    f"{' -> '.join(ring)}"
                )
            async with self._lock:
                self.owner = turn
                try:
                    yield
                finally:
                    self.owner = None
        finally:
            _TURN.reset(token)
            turn.end()


# Keys of the models whose loads would wait for each other in a ring, the first one again at its end; (): there is none.
def _ring(turn: Turn) -> list[str]:
    askers = list(turn.askers())
    way = _way(turn.lock, set(askers), set())
    if not way:
        return []
    before = askers[: askers.index(way[-1]) + 1]
    return [one.lock.key for one in (*reversed(before), *way)]


# From who has a lock, by what that waits for, to one of the `goals`.
def _way(lock: ModelLock, goals: set[Turn], seen: set[Turn]) -> list[Turn]:
    owner = lock.owner
    if owner is None or owner in seen:
        return []
    seen.add(owner)
    if owner in goals:
        return [owner]
    for asked in owner.asked:
        way = _way(asked.lock, goals, seen)
        if way:
            return [owner, *way]
    return []
