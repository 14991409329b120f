"""Lines on their way to a file descriptor, written by a thread of their own: whoever has one to say never waits.

A log or a console can stand still for ever: a pipe that nobody empties, a device that is full. Then lines are dropped,
counted, and the number is told once lines can be written again.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
from collections.abc import Callable

from triton_async.defines import LOG_QUEUE_LINES

# Lines that are written at once.
_MOST = 64


class Lines:
    """A queue for one descriptor and its thread, which starts with the first line. Any thread may call every method.

    `told`: makes the line that says how many were lost.
    """

    def __init__(
        self, fd: int, most: int = LOG_QUEUE_LINES, told: Callable[[int], str] = "{} lines were lost".format
    ) -> None:
        self._fd = fd
        self._most = most
        self._told = told
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        # Its `put` may be called again inside itself, as by a finalizer that logs.
        self._waiting: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        self._noted = 0
        #: Lines that were lost, because too many waited or because they could not be written.
        self.dropped = 0

    def put(self, text: str) -> None:
        """A line, or several, without the last line break. Never waits and never raises."""
        if self._waiting.qsize() >= self._most:
            self.dropped += 1
            return
        self._waiting.put(text.encode("utf-8", "backslashreplace") + b"\n")
        if self._thread is None:
            self._start()

    def flush(self, timeout_s: float) -> bool:
        """Waits until all lines put so far are written or lost, at most so long. Whether they are."""
        if self._thread is None:
            return True
        done = threading.Event()
        self._waiting.put(done)
        return done.wait(timeout_s)

    def _start(self) -> None:
        # A finalizer that logs while this thread is in here leaves its line to the thread that is being made.
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                thread = threading.Thread(target=self._main, name="log lines", daemon=True)
                thread.start()
                self._thread = thread
        except RuntimeError:  # no thread is to be had now; the next line tries again
            pass
        finally:
            self._starting.release()

    def _main(self) -> None:
        while True:
            flushed = None
            item = self._waiting.get()
            parts: list[bytes] = []
            while True:
                if isinstance(item, threading.Event):
                    flushed = item
                    break
                parts.append(item)
                if len(parts) == _MOST:
                    break
                try:
                    item = self._waiting.get_nowait()
                except queue.Empty:
                    break
            if parts and self._write(b"".join(parts)):
                self._tell()
            else:
                self.dropped += len(parts)
            if flushed is not None:
                flushed.set()

    def _tell(self) -> None:
        lost = self.dropped - self._noted
        if lost and self._write(self._told(lost).encode() + b"\n"):
            self._noted += lost

    def _write(self, data: bytes) -> bool:
        # Blocks as long as the reader lets it; False when it cannot be written.
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # somebody made it non-blocking
                with contextlib.suppress(OSError):
                    select.select((), (self._fd,), ())
            except OSError:
                return False
        return True
