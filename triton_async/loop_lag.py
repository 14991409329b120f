"""How late the event loop is: what one client's step costs all others."""

from __future__ import annotations

import asyncio

from triton_async.defines import LOOP_LAG_INTERVAL_S, LOOP_LAG_PERIOD_S


class LoopLag:
    """Looks every so often. Loop thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due = self._begun = loop.time()
        self._worst_s = [0.0, 0.0]  # of this period, and of the one before
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Looks from here on."""
        self._due = self._begun = self._loop.time()
        self._again()

    def stop(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def worst_s(self) -> float:
        """The longest delay of the last one to two periods (LOOP_LAG_PERIOD_S), in seconds."""
        return max(self._worst_s)

    def _again(self) -> None:
        self._due = self._loop.time() + LOOP_LAG_INTERVAL_S
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if now - self._begun >= LOOP_LAG_PERIOD_S:
            self._worst_s = [0.0, self._worst_s[0]]
            self._begun = now
        # Timers of the loop are whole milliseconds: one of those is no delay.
        self._worst_s[0] = max(self._worst_s[0], now - self._due - 0.001)
        self._again()
