"""Looks at the model repositories, each on threads of its own: one that hangs holds up no other. Loop thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from triton_async.core import files
from triton_async.core.files import Root
from triton_async.defines import REPOSITORY_ANSWER_S
from triton_async.errors import Unavailable

log = logging.getLogger("triton_async.core")

T = TypeVar("T")


class Threads(Protocol):
    """What asks a root on a thread of its own."""

    async def looking_at(self, root: Root, function: Callable[..., T], *arguments: Any) -> T: ...


class Looks:
    """`keep` has a stop wait for a look. A repository that has not answered within REPOSITORY_ANSWER_S counts as silent
    until it does: who asks it hears so at once, so that no more and more wait for it.
    """

    def __init__(self, threads: Threads, keep: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]) -> None:
        self._threads = threads
        self._keep = keep
        self._silent: WeakKeyDictionary[Root, asyncio.Task[Any]] = WeakKeyDictionary()

    async def at(self, root: Root, function: Callable[..., T], *arguments: Any) -> T:
        """Asks one, for as long as it takes. ServerError."""
        # Not given up with its caller, so that a stop can wait for the thread.
        answer: T = await asyncio.shield(self._begin(root, function, arguments))
        return answer

    def _begin(self, root: Root, function: Callable[..., T], arguments: Iterable[Any]) -> asyncio.Task[T]:
        return self._keep(self._threads.looking_at(root, function, *arguments))

    async def _soon(self, root: Root, function: Callable[..., T], *arguments: Any) -> T:
        """`at`, and Unavailable for one that is silent."""
        silent = self._silent.get(root)
        if silent is None or silent.done():
            look = self._begin(root, function, arguments)
            await asyncio.wait({look}, timeout=REPOSITORY_ANSWER_S)
            if look.done():
                answer: T = look.result()
                return answer
            log.error("model repository '%s' does not answer", root)
            self._silent[root] = look
        raise Unavailable("a model repository has not said yet what it holds")

    async def scan(self, roots: Sequence[Root], patient: bool = False) -> dict[str, list[Root]]:
        """All models: name -> the repositories that have one of it. ServerError when one can not be read, or is silent,
        which the `patient` wait for.
        """
        ask = self.at if patient else self._soon
        found: dict[str, list[Root]] = {}
        for one in await asyncio.gather(*(ask(root, files.scan, [root]) for root in roots)):
            for name, having in one.items():
                found.setdefault(name, []).extend(having)
        return found

    async def survey(self, roots: Sequence[Root]) -> list[str]:
        """Lines for the log about what in the repositories can hardly be meant."""
        surveys = await asyncio.gather(*(self.at(root, root.survey) for root in roots))
        return [line for lines in surveys for line in lines]

    async def find(self, roots: Sequence[Root], name: str) -> list[Root]:
        """The repositories that have a model of this name. Unavailable when none has that answers, and one is silent.
        """
        answers = await asyncio.gather(
            *(self._soon(root, files.find, [root], name) for root in roots), return_exceptions=True
        )
        found: list[Root] = []
        problems: list[BaseException] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                problems.append(answer)
            else:
                found += answer
        problems = [problem for problem in problems if not found or not isinstance(problem, Unavailable)]
        if problems:
            raise problems[0]
        return found
