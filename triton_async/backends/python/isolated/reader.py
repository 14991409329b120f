"""The one thread that hears all workers of the process: their sockets, what is due, what other threads ask for."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from triton_async.backends.base import Watcher

log = logging.getLogger("triton_async.python")


class Timer:
    """Something that is due at `at_ns` of the monotonic clock, unless cancelled."""

    __slots__ = ("at_ns", "function")

    def __init__(self, at_ns: int, function: Callable[[], None]) -> None:
        self.at_ns = at_ns
        self.function: Callable[[], None] | None = function

    def cancel(self) -> None:
        self.function = None


class Reader:
    """Calls functions on its thread, which starts with the first of them and is a daemon. All methods: any thread. Is
    to be closed.

    `watcher`: what reads on the loop's thread in its stead where that pays, None for none.
    """

    def __init__(self, watcher: Watcher | None = None) -> None:
        self.watcher = watcher
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[int, int, Timer]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False

    def close(self, within_s: float) -> bool:
        """Ends the thread, once nothing is watched any more; waits so long for that. What is due is forgotten; whoever
        comes late still gets a thread, for as long. Not on the reader's thread.
        """
        self._closing = True
        thread = self._thread
        if thread is None:
            return True
        os.eventfd_write(self._wake_fd, 1)
        thread.join(within_s)
        return not thread.is_alive()

    # Whoever has it may still wake it.
    def __del__(self) -> None:
        os.close(self._wake_fd)

    @property
    def watched(self) -> int:
        """Descriptors that are watched."""
        return len(self._handlers)

    def is_current(self) -> bool:
        """Whether the calling thread is the reader's."""
        return threading.current_thread() is self._thread

    def watch(self, fd: int, handler: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Has `handler(epoll events)` called whenever the descriptor is ready for `events`, or has its end; none: like
        `forget`."""
        if not events:
            self.forget(fd)
        elif fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._handlers[fd] = handler
            self._epoll.register(fd, events)
            self._start()

    def forget(self, fd: int) -> None:
        """Not any more. The descriptor is still open."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call(self, function: Callable[[], None]) -> None:
        """Soon, on the reader's thread."""
        self._calls.append(function)
        self._start()
        os.eventfd_write(self._wake_fd, 1)

    def call_at(self, at_ns: int, function: Callable[[], None]) -> Timer:
        """At a time of `time.monotonic_ns`, or a little later."""
        timer = Timer(at_ns, function)
        with self._lock:
            first = not self._timers or at_ns < self._timers[0][0]
            heapq.heappush(self._timers, (at_ns, next(self._numbers), timer))
        if first and not self.is_current():
            self._start()
            os.eventfd_write(self._wake_fd, 1)
        return timer

    def _start(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="python workers", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        poll = self._epoll.poll
        handlers = self._handlers
        while not self._ends():
            for fd, events in poll(self._timeout_s()):
                handler = handlers.get(fd)
                if handler is not None:
                    self._guarded(handler, events)
                elif fd == self._wake_fd:
                    os.eventfd_read(fd)
            while self._calls:
                self._guarded(self._calls.popleft())
            if self._timers:
                self._run_due()

    def _ends(self) -> bool:
        if not self._closing or self._handlers:
            return False
        with self._lock:
            own, self._thread = self._thread, None  # from here on a call starts another one
            if self._calls:
                self._thread = own
            return self._thread is None

    def _timeout_s(self) -> float:
        if self._calls:
            return 0
        with self._lock:
            while self._timers and self._timers[0][2].function is None:
                heapq.heappop(self._timers)
            if not self._timers:
                return -1
            return max(self._timers[0][0] - time.monotonic_ns(), 0) / 1e9

    def _run_due(self) -> None:
        while True:
            with self._lock:
                if not self._timers or self._timers[0][0] > time.monotonic_ns():
                    return
                function = heapq.heappop(self._timers)[2].function
            if function is not None:
                self._guarded(function)

    # What one worker brings about must not cost the others their reader.
    def _guarded(self, function: Callable[..., None], *arguments: int) -> None:
        try:
            function(*arguments)
        except BaseException:
            log.exception("the reader of the Python workers could not deal with an event")
