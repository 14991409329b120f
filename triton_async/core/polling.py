"""Poll mode: looks at the repositories every so often, and makes what is served follow. Loop thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Container, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from triton_async.core.entries import ModelEntry
from triton_async.core.files import Fingerprint, Root
from triton_async.core.looks import Looks
from triton_async.core.namespaces import Namespaces
from triton_async.defines import REPOSITORY_ANSWER_S
from triton_async.errors import ServerError, Unavailable

log = logging.getLogger("triton_async.core")

T = TypeVar("T")

# The repositories that have a model, and what its directory was like.
Seen = tuple[Sequence[Root], Fingerprint]

# Of a model that is to be loaded again, whatever its directory is like.
UNKNOWN: Fingerprint = (object(),)


class Followed(Protocol):
    """What polling needs of the repository. `looks` ask a root on a thread; `keep` has a stop wait for work."""

    models: dict[str, ModelEntry]
    namespaces: Namespaces

    @property
    def roots(self) -> Sequence[Root]: ...

    @property
    def looks(self) -> Looks: ...

    def keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]: ...
    async def load_all(
        self, keys: Sequence[str], there: Mapping[str, Sequence[Root]], ended: Callable[[str], object]
    ) -> bool: ...
    async def unload_gone(self, keys: Iterable[str]) -> None: ...


class Poller:
    """A model is loaded when its directory has appeared or changed since it was last looked at, whether or not that
    could be loaded, and unloaded when its directory is gone, or several repositories have one. A repository that
    cannot be read, or does not answer, changes nothing of its models. A model that is being loaded is left alone until
    that has ended, and holds up no other.
    """

    def __init__(self, repository: Followed, period_s: float) -> None:
        self._repository = repository
        self._period_s = period_s
        self._stopped = asyncio.Event()
        # One look at a time: an older one must not undo what a newer one has done.
        self._looking = asyncio.Lock()
        # What was asked of the repositories, as long as they have not answered.
        self._asked: dict[Root, asyncio.Task[Mapping[str, Fingerprint]]] = {}
        # Of what was loaded, or tried; noted as it is begun, or has left, so that what fails in between is done again.
        self._seen: dict[str, Seen] = {}
        # What is being loaded, and the loads that looks have begun.
        self._loading: set[str] = set()
        self._loads: set[asyncio.Task[bool]] = set()

    async def run(self) -> None:
        """Follows the repositories until `stop`; a load that has begun comes to its end."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._period_s):
                    await self._stopped.wait()
                return
            try:
                async with self._looking:
                    await self._look(*await self._read())
            except Exception:
                log.exception("failed to poll model repositories")

    def stop(self) -> None:
        """No further look is taken."""
        self._stopped.set()

    async def begin(self, there: Mapping[str, Sequence[Root]]) -> bool:
        """Loads what a scan has found; whether all of it is READY. ServerError when a repository can not be read."""
        of_root: dict[Root, dict[str, str]] = {}
        for key, roots in there.items():
            of_root.setdefault(roots[0], {})[self._repository.namespaces.split(key)[1]] = key
        now: dict[str, Seen] = {}
        async with self._looking:
            for root, keys in of_root.items():
                found = await self._repository.looks.at(root, root.fingerprints, list(keys))
                now |= {key: (there[key], found[name]) for name, key in keys.items()}
            await self._look(now, ())
        return await self._loaded()

    async def follow(self) -> bool:
        """Looks once, at once; whether all that is being loaded then is READY. ServerError, when all else is done,
        where a repository can not be read.
        """
        async with self._looking:
            now, problems = await self._read()
            await self._look(now, problems)
        complete = await self._loaded()
        for problem in problems.values():
            raise problem
        return complete

    async def _loaded(self) -> bool:
        loads = set(self._loads)
        if loads:
            # Not given up with who waits.
            await asyncio.wait(loads)
        return all(load.result() for load in loads)

    async def _read(self) -> tuple[dict[str, Seen], dict[Root, ServerError]]:
        """What can be read, by keys, and the repositories that can not be."""
        roots = list(self._repository.roots)
        # One that did not answer in time is not waited for again: its answer counts when it is there.
        fresh = {root: self._repository.keep(self._ask(root)) for root in roots if root not in self._asked}
        self._asked |= fresh
        if fresh:
            await asyncio.wait(fresh.values(), timeout=REPOSITORY_ANSWER_S)
        self._asked = {root: asked for root, asked in self._asked.items() if root in roots}
        holds: dict[Root, Mapping[str, Fingerprint]] = {}
        problems: dict[Root, ServerError] = {}
        for root in roots:
            try:
                holds[root] = self._answer_of(root)
            except ServerError as error:
                problems[root] = error
                log.error("failed to poll model repositories: %s", error.message)
        found: dict[str, list[Root]] = {}
        for root, names in holds.items():
            for name in names:
                found.setdefault(name, []).append(root)
        there = self._repository.namespaces.by_key(found)
        split = self._repository.namespaces.split
        return {key: (having, holds[having[0]][split(key)[1]]) for key, having in there.items()}, problems

    async def _ask(self, root: Root) -> Mapping[str, Fingerprint]:
        # Before the models are read: what changes meanwhile is seen the next time.
        looks = self._repository.looks
        return await looks.at(root, root.fingerprints, list(await looks.at(root, root.names)))

    def _answer_of(self, root: Root) -> Mapping[str, Fingerprint]:
        if not self._asked[root].done():
            raise Unavailable("a model repository has not said yet what it holds")
        return self._asked.pop(root).result()

    async def _look(self, now: Mapping[str, Seen], unreadable: Container[Root]) -> None:
        """Unloads what is gone, and begins to load what has changed."""
        gone = self._seen.keys() - now.keys()
        if not unreadable:
            # Steps of ensembles are loaded when they are found, which may be before a look has seen them.
            gone |= {key for key, entry in self._repository.models.items() if entry.wanted()} - now.keys()
        for key in sorted(gone):
            if self._is_free(key, unreadable):
                await self._unload(key, "gone from the model repositories")
        changed = [key for key in sorted(now) if now[key] != self._seen.get(key) and self._is_free(key, unreadable)]
        if not changed:
            return
        for key in changed:
            # Nobody says which of them is meant: none is served, as in Triton. The load behind it says why.
            if len(now[key][0]) > 1:
                await self._unload(key, "in several model repositories")
        self._seen |= {key: now[key] for key in changed}
        self._loading.update(changed)
        load = self._repository.keep(self._load(changed, {key: roots for key, (roots, _) in now.items()}))
        self._loads.add(load)
        load.add_done_callback(self._loads.discard)

    def _is_free(self, key: str, unreadable: Container[Root]) -> bool:
        """Whether all that is known of it can be seen, and no load of it is on its way."""
        if key in self._loading or any(root in unreadable for root in self._seen.get(key, ((), ()))[0]):
            return False
        entry = self._repository.models.get(key)
        return entry is None or not entry.lock.locked()

    async def _unload(self, key: str, why: str) -> None:
        try:
            if key in self._repository.models:
                log.info("%s: %s", why, key)
                await self._repository.unload_gone([key])
        except Exception:
            log.exception("'%s' could not be unloaded, which is tried again", key)
        else:
            self._seen.pop(key, None)

    async def _load(self, keys: Sequence[str], there: Mapping[str, Sequence[Root]]) -> bool:
        try:
            return await self._repository.load_all(keys, there, self._loading.discard)
        except Exception:
            log.exception("the load of %s could not go on, which is tried again", ", ".join(keys))
            self._seen |= {key: (self._seen[key][0], UNKNOWN) for key in keys if key in self._seen}
            return False
        finally:
            self._loading.difference_update(keys)
