# cython: annotation_typing=False, wraparound=True
"""One inference request of a model to another (BLS), seen from the model: what blocks, what is awaited, cancellation.

Whoever runs it delivers responses from any thread; one thread or one coroutine of the model takes them.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable, Optional, Tuple

if TYPE_CHECKING:
    from .messages import InferenceResponse

Item = Tuple[Optional["InferenceResponse"], bool]


class Call:
    """The responses of one inner request, in order.

    `decoupled`: any number of them is expected, one otherwise. `waits`: whoever makes the request goes on with the
    response, and with nothing else. The functions are set by a channel that has a use for
    them. `cancel_function`: called at most once, from any thread. `wait_function(there)`: blocks until `there()` is
    true, in place of waiting for a delivery. `await_function`: called before a coroutine waits for one.
    `taken_function`: called when a response that is not final was taken.
    """

    __slots__ = (
        "_cancelled", "_ended", "_items", "_lock", "_loop", "_waiter", "await_function", "cancel_function", "decoupled",
        "taken_function", "wait_function", "waits",
    )  # fmt: skip

    def __init__(self, decoupled: bool, waits: bool = False) -> None:
        self.decoupled = decoupled
        self.waits = waits
        self.cancel_function: Callable[[], None] | None = None
        self.wait_function: Callable[[Callable[[], object]], None] | None = None
        self.await_function: Callable[[], None] | None = None
        self.taken_function: Callable[[], None] | None = None
        self._items: deque[Item] = deque()
        # A semaphore by hand: held while nothing is there, or while the one who waits has not come yet.
        self._lock = threading.Lock()
        self._lock.acquire()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._cancelled = False
        self._ended = False

    def deliver(self, response: InferenceResponse | None, final: bool) -> None:
        """Any thread, one at a time; nothing behind the final one. Wakes who waits."""
        wake = self.put(response, final)
        if wake is not None:
            wake()

    def put(self, response: InferenceResponse | None, final: bool) -> Callable[[], None] | None:
        """The same, but returns a function that wakes who waits, None for nobody."""
        self._items.append((response, final))
        return self._wake_loop if self._loop is not None else self._release

    # There may be nobody, or somebody who finds all taken: then it waits again.
    def _release(self) -> None:
        if self._lock.locked():
            with suppress(RuntimeError):  # by another one
                self._lock.release()

    def _wake_loop(self) -> None:
        loop = self._loop
        if loop is None:  # a thread waits by now
            self._release()
            return
        with suppress(RuntimeError):  # the model has closed its loop: nobody waits there any more
            loop.call_soon_threadsafe(self._wake)

    def next(self) -> Item | None:
        """Blocks for the next response: (response or None, final). None behind the final one."""
        # A coroutine may have waited before: from here on a delivery is to release the lock, not to wake that loop.
        self._loop = None
        while not self._items:
            if self._ended:
                return None
            if self.wait_function is not None:
                self.wait_function(lambda: self._items)
            else:
                self._lock.acquire()
        return self._take()

    async def next_async(self) -> Item | None:
        """The same for a coroutine."""
        while not self._items:
            if self._ended:
                return None
            if self.await_function is not None:
                self.await_function()
            self._loop = asyncio.get_running_loop()
            self._waiter = self._loop.create_future()
            if self._items:  # delivered before the loop was known
                break
            await self._waiter
        return self._take()

    def cancel(self) -> None:
        """Asks the server to give the request up: a final response still comes. Any thread."""
        function = self.cancel_function
        if not self._cancelled and not self._ended:
            self._cancelled = True
            if function is not None:
                function()

    def _take(self) -> Item:
        item = self._items.popleft()
        self._ended = item[1]
        if self.taken_function is not None and not item[1]:
            self.taken_function()
        return item

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def refusal(model: str, text: str) -> str:
    """How the server's refusal of an inner request reads."""
    return f"Model {model} - Error when running inference: {text}"


def decoupled_refusal(model: Any) -> str:
    """The refusal of a plain call of a decoupled model."""
    return refusal(
        model,
        f"Model {model} is using the decoupled. The current BLS request call doesn't support models using the "
        "decoupled transaction policy. Please use 'decoupled=True' argument to the 'exec' or 'async_exec' calls for "
        "decoupled models.'",
    )
