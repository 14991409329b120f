"""Gives back what is free once the server is idle. Loop thread; the work is done on another one."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

from triton_async.core.host import Host
from triton_async.defines import IDLE_CPU_SHARE, IDLE_S


class IdleMemory:
    """The server is idle when it holds no request and has used next to no CPU for IDLE_S. While it works nothing is
    given back: what the next request needs would only be fetched again.
    """

    def __init__(self, host: Host, cpu_s: Callable[[], float] = time.process_time) -> None:
        self._host = host
        self._cpu_s = cpu_s
        self._used_s = cpu_s()
        self._worked = False
        self._timer: Any = None
        # Not all C libraries have it.
        self._trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def start(self) -> None:
        """Looks every IDLE_S until `stop`."""
        self._timer = self._host.loop.call_later(IDLE_S, self._look)

    def stop(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self.start()
        self.look()

    def look(self) -> None:
        """One look: has memory given back if the server has become idle since the last one."""
        before, self._used_s = self._used_s, self._cpu_s()
        if self._host.reactor.held_nbytes or self._used_s - before > IDLE_CPU_SHARE * IDLE_S:
            self._worked = True
        elif self._worked:
            self._worked = False
            # Beside what frees models; a file system that hangs keeps no memory.
            self._host.loop.run_in_executor(self._host.workers.unloads, self._give_back)

    def _give_back(self) -> None:
        self._host.pool.trim()
        if self._trim is not None:
            self._trim(0)
