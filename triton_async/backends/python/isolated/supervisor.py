"""The worker of one instance, a process or a part of one: started, watched, started again after its end, stopped.

    NEW --start--> STARTING --model is there--> RUNNING --close--> CLOSING --worker gone--> CLOSED
                      |  ^                         |
                      |  +--- in due time --- DOWN <+ worker gone, or said what none of ours says
                      +--- worker gone: FAILED for the first one, DOWN for a later one

A worker that has run a while is replaced at once, others after a pause that doubles, and stays short for one that has
executed a batch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from triton_async import forking
from triton_async.backends.python.defines import (
    WORKER_CLOSE_TIMEOUT_S,
    WORKER_END_TIMEOUT_S,
    WORKER_MEMORY_NBYTES,
    WORKER_RESTART_MAX_S,
    WORKER_RESTART_S,
    WORKER_RESTART_SERVED_S,
    WORKER_SHORT_PAUSE_S,
    WORKER_STEADY_S,
)
from triton_async.backends.python.isolated.host import ModelProcess, Tenant
from triton_async.backends.python.isolated.instance import WorkerInstance
from triton_async.backends.python.isolated.link import Link
from triton_async.backends.python.isolated.memory import SharedMemory
from triton_async.backends.python.isolated.owner import LinkOwner
from triton_async.backends.python.isolated.reader import Reader, Timer
from triton_async.backends.python.isolated.zygote import WorkerProcess, Zygote
from triton_async.defines import MODEL_READY_TIMEOUT_S
from triton_async.errors import InternalError, ServerError
from triton_async.memory.slab import SlabPool

log = logging.getLogger("triton_async.python")

# Until the loop is through with a message.
_MOMENT_NS = 200_000


class State(Enum):
    """See above."""

    NEW = auto()
    STARTING = auto()
    RUNNING = auto()
    DOWN = auto()
    FAILED = auto()
    CLOSING = auto()
    CLOSED = auto()


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker is told (`start`, for worker/process.py), runs (`code`, its files as worker/kept.py packs
    them) and is allowed. `memory_limit`: bytes, 0 for any.
    `finalize_s`: seconds for `finalize`. `cores`: that it runs on, () for any.
    """

    start: Mapping[str, Any]
    code: bytes
    memory_limit: int = 0
    finalize_s: float = WORKER_CLOSE_TIMEOUT_S
    shared_nbytes: int = field(default=WORKER_MEMORY_NBYTES)
    cores: tuple[int, ...] = ()


class _Question:
    """Whether the model is ready; somebody waits."""

    def __init__(self) -> None:
        self.answered = threading.Event()
        self.answer = 0
        self.text = ""


class Supervisor(LinkOwner):
    """`place`: where workers come from: each a process of its own, or all a part of one. `make_services(link)`:
    LinkOwner of what the worker asks for beyond its answers; its `close` is called at the link's end. `once`: the
    worker says something, `answer`, and ends. `left`: called once, when no worker comes from `place` any more. State
    changes happen on the reader's thread.
    """

    def __init__(  # noqa: PLR0917
        self, name: str, place: Zygote | ModelProcess, reader: Reader, pool: SlabPool, options: WorkerOptions,
        make_services: Callable[[Link], Any], once: bool = False, left: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.name = name
        self.state = State.NEW
        self.restarts = 0
        self.answer = ""  # what the worker said when its model was there
        self._once = once
        self._left = left
        self._questions: dict[int, _Question] = {}
        self._last_question = 0
        self._lock = threading.Lock()
        self._place = place
        self._reader = reader
        self._pool = pool
        self._options = options
        self._make_services = make_services
        self._instance: WorkerInstance | None = None
        self._link: Link | None = None
        self._process: WorkerProcess | Tenant | None = None
        self._services: Any = None
        self._settled = threading.Event()  # RUNNING or FAILED for the first time
        self._gone = threading.Event()  # CLOSED
        self._problem: ServerError | None = None
        self._how = ""  # of the last worker's end
        self._running_since = 0.0
        self._pause_s = 0.0
        self._served = False  # the worker has executed a batch
        self._due = 0.0
        self._given_up = False
        self._close_by: float | None = None
        self._timer: Timer | None = None

    @property
    def pid(self) -> int | None:
        """Of the worker, once known."""
        return None if self._process is None else self._process.pid

    # -- the instance's thread, or a load thread -------------------------------------------------------------------

    def start(self, instance: WorkerInstance | None = None) -> None:
        """Starts the first worker and waits until it is RUNNING. ServerError with the reason."""
        self._instance = instance
        try:
            self._place.start()
            self._reader.call(self._spawn)
            self._settled.wait()
            if self._problem is not None:
                raise self._problem
        except BaseException:
            self._left()
            raise

    def begin_to_close(self) -> None:
        """Has the model finalized and the worker ended, for `close` to wait for. Not on the reader's thread."""
        if self._close_by is None:
            self._close_by = time.monotonic() + self._options.finalize_s
            self._reader.call(self._begin_to_close)

    def close(self) -> None:
        """Has the model finalized and the worker ended, by force where it must be. Blocks until it is gone."""
        self.begin_to_close()
        assert self._close_by is not None
        if not self._gone.wait(max(self._close_by - time.monotonic(), 0)):
            log.warning("the worker of instance '%s' did not end within %g s", self.name, self._options.finalize_s)
            if (process := self._process) is not None:
                process.dismiss("did not finalize in time", 0)
            if not self._gone.wait(WORKER_CLOSE_TIMEOUT_S):
                log.error("the worker of instance '%s' can not be ended", self.name)
        self._left()

    def give_up(self, reason: str) -> None:
        """Ends the worker, or leaves it behind where others are in its process, for good: no other one is started. Any
        thread, at once. May be repeated, for one that was just being started.
        """
        self._given_up = True
        if (process := self._process) is not None:
            process.dismiss(f"was ended because {reason}", 0)

    def kill(self, reason: str) -> None:
        """Ends the worker, with the process that it is in; `reason` says in its stead how it ended. Any thread."""
        if self._process is not None:
            self._process.kill(reason)

    def is_stopped(self) -> bool:
        """Whether the worker's process was stopped, as by SIGSTOP. One that is debugged is not."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rsplit(b")", 1)[1].split()[0] == b"T"
        except OSError:
            return False

    def is_restarting(self) -> bool:
        """Whether a worker is on its way, and no long pause before it."""
        if self._given_up:
            return False
        return self.state is State.STARTING or (
            self.state is State.DOWN and self._due <= time.monotonic() + WORKER_SHORT_PAUSE_S
        )

    def absence(self) -> str:
        """Why there is no worker."""
        if self._given_up:
            return f"the worker of model instance '{self.name}' {self._how}"
        if self.state is State.STARTING:
            return f"the worker of model instance '{self.name}' {self._how}, and a new one is not ready yet"
        wait_s = max(self._due - time.monotonic(), 0)
        return f"the worker of model instance '{self.name}' {self._how}; another one is started in {wait_s:.1f} s"

    def asks_ready(self) -> bool:
        """Whether the model says itself if it is ready, as its worker says."""
        try:
            said = json.loads(self.answer)
        except ValueError:
            return False
        return isinstance(said, dict) and said.get("is_ready") is True

    def is_ready(self) -> bool:
        """What the model says; False without a worker, or where it does not answer in time. InternalError with the
        reason why it could not say. Not on the reader's thread."""
        link = self._link
        if link is None or self.state is not State.RUNNING:
            return False
        question = _Question()
        with self._lock:
            self._last_question += 1
            number = self._last_question
            self._questions[number] = question
        try:
            link.ask_ready(number)
            if not question.answered.wait(MODEL_READY_TIMEOUT_S):
                return False
        finally:
            self._questions.pop(number, None)
        if question.answer == 2:
            raise InternalError(question.text)
        return question.answer == 1

    # -- the reader's thread ---------------------------------------------------------------------------------------

    def _spawn(self) -> None:
        self._timer = None
        if self._given_up or self.state in (State.CLOSING, State.CLOSED):
            return
        self.state = State.STARTING
        try:
            self._make_worker()
        except OSError as error:
            self._worker_gone(f"could not be started: {error.strerror or error}")
        except (ServerError, MemoryError) as error:  # somebody waits for it
            self._worker_gone(f"could not be started: {str(error) or 'no memory'}")

    def _make_worker(self) -> None:
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            forking.hold(ours)
            stack.callback(theirs.close)
            failed = stack.enter_context(contextlib.ExitStack())
            failed.callback(ours.close)
            requests = SharedMemory(self._options.shared_nbytes, True)
            responses = SharedMemory(self._options.shared_nbytes, False)
            link = Link(ours, requests, responses, self._pool, self._reader, self)
            link.reschedules = bool(self._options.start["reschedules"])
            failed.pop_all()
            self._link = link
            self._services = self._make_services(link)
            link.start(self._options.start)
            code = stack.enter_context(open(os.memfd_create("triton-async code", os.MFD_CLOEXEC), "wb", buffering=0))
            code.write(self._options.code)
            self._process = self._place.fork(
                [theirs.fileno(), requests.fd, responses.fd, code.fileno()], self._options.memory_limit,
                lambda how: self._process_ended(link, how), self._options.cores,
            )  # fmt: skip
            for memory in (requests, responses):  # mapped here, handed over there
                memory.close()

    def _process_ended(self, link: Link, how: str) -> None:
        if link is not self._link:
            return
        if not link.claim():
            self._reader.call_at(time.monotonic_ns() + _MOMENT_NS, lambda: self._process_ended(link, how))
            return
        while not link.failed and self._link is link and link.pending():  # what it said before it ended
            link.on_events(select.EPOLLIN)
        self._worker_gone(how)

    # The worker is no more: answers what it had, and sees to the next one.
    def _worker_gone(self, how: str) -> None:
        self._how = how
        before, served = self.state, self._served
        if self._settled.is_set() and before in (State.RUNNING, State.STARTING) and not self._once:
            self.state, self._due = State.DOWN, time.monotonic()  # before anybody hears that it is gone
        link, self._link = self._link, None
        services, self._services = self._services, None
        self._process = None
        if self._instance is not None:
            self._instance.connect(None)
        if link is not None:
            batches = link.fail(InternalError(f"the worker of model instance '{self.name}' {how}"))
            for batch in batches:
                self.batch_done(batch)
        if self._instance is not None:
            self._instance.notify()
        if services is not None:
            services.close()
        for question in list(self._questions.values()):
            question.answered.set()
        if self.state is State.CLOSING or (self._once and self.state is State.RUNNING):
            self.state = State.CLOSED
            self._gone.set()
        elif not self._settled.is_set():
            self.state = State.FAILED
            if self._problem is None:
                self._problem = InternalError(f"the worker of model instance '{self.name}' {how}")
            self._settled.set()
        elif self.state is State.DOWN:
            self._restart(how, before, served)

    def _restart(self, how: str, before: State, served: bool) -> None:
        if self._given_up:
            log.warning("the worker of instance '%s' %s", self.name, how)
            self._due = math.inf
            return
        now = time.monotonic()
        steady = before is State.RUNNING and now - self._running_since >= WORKER_STEADY_S
        most_s = WORKER_RESTART_SERVED_S if served else WORKER_RESTART_MAX_S
        self._pause_s = 0 if steady else min(max(2 * self._pause_s, WORKER_RESTART_S), most_s)
        if self._problem is not None:
            how, self._problem = f"could not load the model: {self._problem.message}", None
            self._how = how
        log.error("the worker of instance '%s' %s; another one is started in %g s", self.name, how, self._pause_s)
        self._due = now + self._pause_s
        self.restarts += 1
        if self._pause_s == 0:
            self._spawn()
        else:
            self._timer = self._reader.call_at(time.monotonic_ns() + int(self._pause_s * 1e9), self._spawn)

    def _begin_to_close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._link is None or self._process is None:
            self.state = State.CLOSED
            self._gone.set()
            return
        if self._once:
            return  # it ends by itself
        self.state = State.CLOSING
        self._link.finalize()

    # -- LinkOwner -------------------------------------------------------------------------------------------------

    def batch_done(self, batch: Any) -> None:
        assert self._instance is not None
        self._served = True
        self._instance.batch_done(batch)

    def ended(self, problem: str | None) -> None:
        link, process = self._link, self._process
        if link is None or process is None:
            return
        link.stop_reading(problem is not None)
        if problem is not None:
            process.kill(f"was killed because it {problem}")
        elif not process.ended.is_set():
            # Word of how it ended is on its way, unless it goes on without its socket.
            self._reader.call_at(
                time.monotonic_ns() + int(WORKER_END_TIMEOUT_S * 1e9),
                lambda: process.kill("closed its connection to the server"),
            )

    def started(self, failed: bool, text: str) -> None:
        if self.state is not State.STARTING:
            return
        if failed:
            self._problem = InternalError(text)
            if self._process is not None:
                self._process.dismiss("could not load the model", WORKER_CLOSE_TIMEOUT_S)
            return
        self.answer = text
        self._served = False
        self.state = State.RUNNING
        self._running_since = time.monotonic()
        if self._instance is not None:
            self._instance.connect(self._link)
            if self._link is not None and self._reader.watcher is not None:
                self._link.follow_loop(self._reader.watcher)
        self._settled.set()

    def finalized(self) -> None:
        if self.state is not State.CLOSING:
            self.ended("ended without being asked to")

    def called(self, call: int, content: dict[str, Any]) -> None:
        self._services.called(call, content)

    def executes(self, call: int, fields: dict[str, Any]) -> None:
        self._services.executes(call, fields)

    def cancels(self, call: int) -> None:
        self._services.cancels(call)

    def told_ready(self, question: int, answer: int, text: str) -> None:
        asked = self._questions.get(question)
        if asked is not None:
            asked.answer, asked.text = answer, text
            asked.answered.set()

    def takes(self, call: int, count: int) -> None:
        self._services.takes(call, count)

    def logs(self, level: int, line: int, file: str, text: str) -> None:
        self._services.logs(level, line, file, text)
