"""How a model waits for what another model answers: awaited, blocking, and one after the other."""

from __future__ import annotations

import asyncio
import threading
import time

from triton_async.backends.python.worker.calls import Call


def test_blocking_behind_an_await_is_woken() -> None:
    """A coroutine awaits the first response and takes the others with a plain loop, which holds up its event loop."""
    call = Call(True)

    async def take() -> list[bool]:
        first = await call.next_async()
        others = [call.next(), call.next()]
        assert first is not None
        return [first[1], *(item[1] for item in others if item is not None)]

    def deliver() -> None:
        for final in (False, False, True):
            # Time for the one who takes to wait: the later it is, the likelier a delivery that wakes nobody.
            time.sleep(0.05)
            call.deliver(None, final)

    thread = threading.Thread(target=deliver)
    thread.start()
    assert asyncio.run(asyncio.wait_for(take(), 30)) == [False, False, True]
    thread.join()
    assert call.next() is None


def test_awaiting_behind_a_blocking_wait_is_woken() -> None:
    call = Call(True)

    def deliver() -> None:
        for final in (False, True):
            time.sleep(0.05)
            call.deliver(None, final)

    async def take() -> bool:
        item = await call.next_async()
        return item is not None and item[1]

    thread = threading.Thread(target=deliver)
    thread.start()
    assert call.next() == (None, False)
    assert asyncio.run(asyncio.wait_for(take(), 30))
    thread.join()
