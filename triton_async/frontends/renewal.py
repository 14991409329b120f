"""Files that may be replaced while the server runs: certificates, API keys. Looked at on a thread, used on the loop."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from triton_async.defines import RENEWAL_S
from triton_async.errors import ServerError

log = logging.getLogger("triton_async.app")


class Renewable(Protocol):
    """What is made of files."""

    @property
    def paths(self) -> tuple[Path, ...]: ...

    def renew(self) -> Callable[[], None]:
        """Reads the files; what is returned, called on the loop, puts them in force. ServerError. Blocks."""


class Renewal:
    """Looks at the files of each every RENEWAL_S, and renews what has changed; what cannot be used changes nothing, and
    is told to the log once. `stop` at the end.
    """

    def __init__(self, what: Sequence[Renewable], period_s: float = RENEWAL_S) -> None:
        self._what = what
        self._period_s = period_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look, on the running loop. What the files are now counts as in force."""
        if self._what:
            self._task = asyncio.ensure_future(self._run([_state(one.paths) for one in self._what]))

    def stop(self) -> None:
        """Looks no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self, seen: list[object]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._period_s)
            for index, one in enumerate(self._what):
                state = await loop.run_in_executor(None, _state, one.paths)
                if state == seen[index]:
                    continue
                seen[index] = state
                names = ", ".join(f"'{path}'" for path in one.paths)
                try:
                    (await loop.run_in_executor(None, one.renew))()
                    log.info("%s changed and is in force", names)
                except ServerError as error:
                    log.error("%s changed and can not be used, what was in force stays: %s", names, error.message)
                except Exception:
                    log.exception("%s changed and can not be used, what was in force stays", names)


def _state(paths: Sequence[Path]) -> object:
    """Changes when a file does; links, as Kubernetes mounts secrets, are followed."""
    found: list[object] = []
    for path in paths:
        try:
            status = os.stat(path)
            found.append((status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev))
        except OSError:
            found.append(None)
    return tuple(found)
