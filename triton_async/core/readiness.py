"""Asks models that say themselves whether they are ready (Triton's is_ready of Python models). Loop thread; each model
is asked on a thread of its own, since nobody knows how long it takes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Protocol

from triton_async.defines import MODEL_READY_TIMEOUT_S
from triton_async.errors import ServerError

log = logging.getLogger("triton_async.core")


class Asked(Protocol):
    """An instance whose model says so itself."""

    name: str

    def is_ready(self) -> bool:
        """Blocks. ServerError with the reason why it cannot say."""


class Readiness:
    """Who is being asked. An instance is asked by one at a time, and all that come meanwhile get its answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asking: dict[Asked, asyncio.Future[bool]] = {}

    async def of(self, instances: list[Asked]) -> bool:
        """Whether all of them are ready: say so, in time."""
        answers = await asyncio.gather(*(self._ask(instance) for instance in instances))
        return all(answers)

    async def _ask(self, instance: Asked) -> bool:
        answer = self._asking.get(instance)
        if answer is None:
            answer = self._asking[instance] = self._loop.create_future()
            threading.Thread(target=self._run, args=(instance,), name=f"ready {instance.name}", daemon=True).start()
        try:
            async with asyncio.timeout(MODEL_READY_TIMEOUT_S):
                return await asyncio.shield(answer)
        except TimeoutError:
            log.error("instance '%s' did not say within %g s whether it is ready", instance.name, MODEL_READY_TIMEOUT_S)
            return False

    def _run(self, instance: Asked) -> None:
        ready = False
        try:
            ready = instance.is_ready()
        except ServerError as error:
            log.error("instance '%s' could not say whether it is ready: %s", instance.name, error.message)
        except Exception:
            log.exception("instance '%s' could not say whether it is ready", instance.name)
        try:
            self._loop.call_soon_threadsafe(self._settle, instance, ready)
        except RuntimeError:  # the server has ended meanwhile
            return

    def _settle(self, instance: Asked, ready: bool) -> None:
        self._asking.pop(instance).set_result(ready)
