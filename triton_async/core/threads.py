"""Threads for what blocks: a pool that makes up for those of its threads that wait for others, or hang. Any thread."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

from triton_async.core.defines import BODY_NICE
from triton_async.defines import POOL_WAITS
from triton_async.errors import Unavailable

log = logging.getLogger("triton_async.core")

P = ParamSpec("P")
T = TypeVar("T")

_here = threading.local()


def for_bodies(count: int) -> ThreadPoolExecutor:
    """Threads on which bodies are read, written and compressed, mostly without the GIL: for `count` processors. What
    they do is long, so where processors are few they give way to the loop and to models.
    """
    return ThreadPoolExecutor(max(2, min(count, 32)), "bodies", _give_way)


def _give_way() -> None:
    with suppress(OSError):  # a sandbox without priorities
        os.nice(BODY_NICE)


class _Job(NamedTuple):
    future: Future[Any]
    call: Callable[[], Any]
    since_s: float


class Threads(Executor):
    """Runs `count` jobs at a time, and one more for each that waits (`waiting`). With `patience_s` a job that has
    waited so long is begun beside those, as long as there are not `most`: what they do may hang. With `apart_s` a job
    is begun beside others only so long behind the one before, or once that has ended: short ones that need the GIL are
    done sooner one after the other, since they would take it from each other again and again. `place()` is called first
    on each thread.

    Invariants
      - a thread that is there runs a job, or is `idle`, or is about to end
      - while jobs wait, a job more may never begin, or a thread is idle and was woken, or knows when, or is on its way
    """

    def __init__(  # noqa: PLR0917
        self, count: int, name: str, place: Callable[[], object] | None = None, patience_s: float = 0.0,
        most: int = 0, apart_s: float = 0.0,
    ) -> None:  # fmt: skip
        self._count = count
        self._name = name
        self._place = place
        self._patience_s = patience_s
        self._most = max(most, count)
        self._apart_s = apart_s
        # Jobs that have begun, and when the next one may begin beside those that run, of time.monotonic().
        self._begun = 0
        self._next_s = 0.0
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._threads: set[threading.Thread] = set()
        self._started = 0
        self._idle = self._busy = self._waits = 0
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Has it run behind what waits."""
        return self._add(partial(fn, *args, **kwargs), self._jobs.append)

    def submit_first(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The same, before what waits."""
        return self._add(partial(fn, *args, **kwargs), self._jobs.appendleft)

    def _add(self, call: Callable[[], T], put: Callable[[_Job], object]) -> Future[T]:
        job = _Job(Future(), call, time.monotonic())
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            put(job)
            try:
                self._find_thread()
            except RuntimeError:  # a limit of the system
                if not self._threads:
                    self._jobs.remove(job)
                    raise
        return job.future

    # Under the lock: sees to it that somebody takes a job, if one may be taken.
    def _find_thread(self) -> None:
        if not self._jobs:
            return
        if self._idle:
            # One that waits for its time has seen the others.
            if len(self._jobs) == 1 or self._left_s() <= 0:
                self._changed.notify()
        elif self._has_room() or (self._patience_s and len(self._threads) < self._most):
            thread = threading.Thread(target=self._main, name=f"{self._name}_{self._started}", daemon=True)
            thread.start()
            self._started += 1
            self._threads.add(thread)
            self._idle += 1

    def _has_room(self) -> bool:
        return self._busy - self._waits < self._count

    def _main(self) -> None:
        _here.pool = self
        if self._place is not None:
            self._place()
        with self._changed:
            while (job := self._next()) is not None:
                self._idle -= 1
                self._busy += 1
                self._begun += 1
                number = self._begun
                self._next_s = time.monotonic() + self._apart_s
                with suppress(RuntimeError):  # no thread is to be had: whoever is done goes on
                    if self._jobs and self._idle:
                        self._changed.notify()  # it sees when the next one may begin
                    else:
                        self._find_thread()
                self._changed.release()
                try:
                    _run(job)
                    del job
                finally:
                    self._changed.acquire()
                    self._busy -= 1
                    self._idle += 1
                    if number == self._begun:
                        self._next_s = 0.0
            self._idle -= 1
            self._threads.discard(threading.current_thread())
            self._changed.notify_all()

    # Under the lock. None: the thread is not needed any more.
    def _next(self) -> _Job | None:
        while True:
            left_s = None
            if self._jobs:
                left_s = self._left_s()
                if left_s <= 0:
                    return self._jobs.popleft()
            elif self._closed or len(self._threads) > self._count:
                return None
            self._changed.wait(None if left_s == float("inf") else left_s)

    # Until the first job may begin.
    def _left_s(self) -> float:
        if self._has_room():
            return self._next_s - time.monotonic()
        if not self._patience_s or self._busy >= self._most:
            return float("inf")
        return self._jobs[0].since_s + self._patience_s - time.monotonic()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """One of its threads waits meanwhile: there is another in its place. Unavailable when too many do."""
        with self._changed:
            if self._waits >= POOL_WAITS:
                raise Unavailable(f"more than {POOL_WAITS} threads '{self._name}' wait for others, try again later")
            self._waits += 1
            self._next_s = 0.0
            self._find_thread()
        try:
            yield
        finally:
            with self._changed:
                self._waits -= 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more, and ends the threads when they have done what they have been given."""
        with self._changed:
            self._closed = True
            if cancel_futures:
                while self._jobs:
                    self._jobs.pop().future.cancel()
            threads = list(self._threads)
            self._changed.notify_all()
        if wait:
            with self._changed:
                self._changed.wait_for(lambda: not self._threads)
            for thread in threads:
                thread.join()


@contextmanager
def waiting(for_sake: Threads | None = None) -> Iterator[None]:
    """The calling thread may wait for long, for what others do: where it is one of a pool's, that has another one
    meanwhile. `for_sake`: the pool of whoever waits for a thread that is none's. Unavailable when too many do.
    """
    pool: Threads | None = getattr(_here, "pool", None) or for_sake
    if pool is None:
        yield
        return
    with pool.one_more():
        yield


def _run(job: _Job) -> None:
    if not job.future.set_running_or_notify_cancel():
        return
    try:
        result = job.call()
    except BaseException as error:
        job.future.set_exception(error)
        del job  # or it would be kept by the error, and keep it
    else:
        job.future.set_result(result)
