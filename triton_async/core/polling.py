"""Poll mode: looks at the repositories every so often, and makes what is served follow. Loop thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from triton_async.core.files import Fingerprint, Root
from triton_async.errors import ServerError

log = logging.getLogger("triton_async.core")


class Followed(Protocol):
    """What polling needs of the repository."""

    @property
    def models(self) -> Mapping[str, Any]: ...

    async def scan(self) -> Mapping[str, list[Root]]: ...
    async def fingerprints(self, roots: Mapping[str, Root]) -> Mapping[str, Fingerprint]: ...
    async def load_all(self, names: Iterable[str], there: Mapping[str, list[Root]]) -> bool: ...
    async def unload_gone(self, names: Iterable[str]) -> None: ...


class Poller:
    """A model is loaded when its directory has appeared or changed since it was last looked at, whether or not that
    could be loaded, and unloaded when its directory is gone. A repository that cannot be read changes nothing.
    """

    def __init__(self, repository: Followed, period_s: float) -> None:
        self._repository = repository
        self._period_s = period_s
        self._stopped = asyncio.Event()
        # Of what was loaded, or tried: the repositories that have it, and what its directory was like.
        self._seen: dict[str, tuple[list[Root], Fingerprint]] = {}

    async def run(self) -> None:
        """Follows the repositories until `stop`; a load that has begun comes to its end."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._period_s):
                    await self._stopped.wait()
                return
            try:
                await self.follow(await self._repository.scan())
            except ServerError as error:
                log.error("failed to poll model repositories: %s", error.message)
            except Exception:
                log.exception("failed to poll model repositories")

    def stop(self) -> None:
        """No further look is taken."""
        self._stopped.set()

    async def follow(self, there: Mapping[str, list[Root]]) -> bool:
        """Loads and unloads what has changed since the last time; whether all that was to be loaded is READY."""
        # Before they are read: what changes meanwhile is seen the next time.
        fingerprints = await self._repository.fingerprints({name: roots[0] for name, roots in there.items()})
        now = {name: (roots, fingerprints[name]) for name, roots in there.items()}
        changed = sorted(name for name in now if now[name] != self._seen.get(name))
        gone = sorted(name for name in self._seen if name not in now and name in self._repository.models)
        self._seen = now
        if gone:
            log.info("gone from the model repositories: %s", ", ".join(gone))
            await self._repository.unload_gone(gone)
        return await self._repository.load_all(changed, there)
