"""Loads of several models at once, as at the start and behind a look at the repositories. Loop thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from triton_async.core.ensembles import Ensembles
from triton_async.core.entries import ModelEntry
from triton_async.core.files import Root
from triton_async.core.namespaces import There

T = TypeVar("T")


class Models(Protocol):
    """What loads need of the repository. `keep` has a stop wait for work; `load_logged` tells why a load fails by the
    log, and else whether it does.
    """

    models: dict[str, ModelEntry]
    ensembles: Ensembles

    def keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]: ...

    async def load_logged(self, key: str, roots: Sequence[Root] | None = None) -> bool: ...


class LoadsTogether:
    """Of the models `keys` of a scan, `there`. An ensemble is joined as soon as all that it asks, or may mean, was
    loaded or tried, whatever the others do. `ended(key)`: the load of one has come to its end, but for the models that
    an ensemble asks.
    """

    def __init__(self, models: Models, keys: Sequence[str], there: There, ended: Callable[[str], object]) -> None:
        self._models = models
        self._keys = keys
        self._there = there
        self._ended = ended
        # Done when a load was tried: of `keys`, and of what ensembles among them ask beside.
        loop = asyncio.get_running_loop()
        self._tried: dict[str, asyncio.Future[Any]] = {key: loop.create_future() for key in keys}
        self._joins: list[asyncio.Task[bool]] = []

    async def run(self, several: int) -> bool:
        """Has so many loads under way at a time: more than there are threads for them, since some start their instances
        while others use the threads; all at once would only take memory. Returns when the last one is over: whether all
        models are READY.
        """
        waiting = iter(self._keys)
        try:
            loaded = all(await asyncio.gather(*(self._load_some(waiting) for _ in range(several))))
        finally:
            # What was given up is not waited for either.
            for key in self._keys:
                self._note(key)
        joined = await asyncio.gather(*self._joins, return_exceptions=True)
        for problem in joined:
            if isinstance(problem, BaseException):
                raise problem
        return loaded and all(joined)

    async def _load_some(self, waiting: Iterator[str]) -> bool:
        complete = True
        for key in waiting:
            complete = await self._models.load_logged(key, self._there.get(key, ())) and complete
            entry = self._models.models.get(key)
            if entry is not None:
                entry.asked_for = True
            self._note(key)
            if entry is not None and entry.joining:
                self._joins.append(self._models.keep(self._join(key)))
            self._ended(key)
        return complete

    def _note(self, key: str) -> None:
        if not self._tried[key].done():
            self._tried[key].set_result(None)

    async def _join(self, key: str) -> bool:
        ensembles = self._models.ensembles
        asked = {key}
        new: Iterable[str] = asked
        while new:
            steps = {step for one in new for step in ensembles.steps_of(one, self._there)}
            meant = {one for user in new for one in ensembles.candidates_of(user, self._there) if one in self._tried}
            new = (steps | meant) - asked
            asked |= new
            if new:
                await asyncio.wait({self._load_of(step) for step in sorted(new)})
        return ensembles.join_all(asked)

    def _load_of(self, key: str) -> asyncio.Future[Any]:
        if key not in self._tried:
            self._tried[key] = self._models.keep(self._models.load_logged(key))
        return self._tried[key]
