"""A model process (--model-processes) as its server sees it: workers of many instances in one process, which begin and
end one by one. It is forked with the first of them, and again when it has ended before them; it ends behind the last.
"""

from __future__ import annotations

import array
import itertools
import json
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from triton_async import forking
from triton_async.backends.python.defines import WORKER_FORK_TIMEOUT_S, WORKER_MESSAGE_NBYTES
from triton_async.backends.python.isolated.reader import Reader
from triton_async.backends.python.isolated.zygote import WorkerProcess, Zygote

log = logging.getLogger("triton_async.python")

# Characters that a process may say of the end of an instance.
HOW_LENGTH = 200


class Tenant:
    """The worker of one instance there: to its Supervisor what a WorkerProcess is. `on_end(what happened)` is called
    once, on the reader's thread.
    """

    def __init__(self, home: ModelProcess, number: int, on_end: Callable[[str], None]) -> None:
        self.ended = threading.Event()
        self.number = number
        self.reason: str | None = None
        # Its process has heard of it.
        self.begun = False
        self._home = home
        self._on_end = on_end

    @property
    def pid(self) -> int | None:
        """Of the process, once known."""
        return None if self.ended.is_set() else self._home.pid

    def kill(self, reason: str | None = None) -> None:
        """Ends the process, and all who are in it. `reason`: what to say instead of the signal. Any thread, returns at
        once.
        """
        self._home.kill(self, reason)

    def dismiss(self, reason: str, within_s: float) -> None:
        """It is of no use any more: it has so many seconds to end by itself, then it is forgotten, and its thread goes
        on for as long as it likes. Any thread, returns at once.
        """
        self._home.dismiss(self, reason, within_s)

    def end(self, how: str) -> None:
        """It is no more. On the reader's thread."""
        self.ended.set()
        self._on_end(self.reason or how)


class ModelProcess:
    """One of them, by its number. `zygote`: that it is forked from. Any thread, unless a method says otherwise.

    Invariants
      - whoever is in `_tenants` has not ended, and is told of its end once, by whoever takes it out
      - there is a process, or one is on its way, while there are tenants
    """

    def __init__(self, number: int, reader: Reader, zygote: Zygote) -> None:
        self.number = number
        self.restarts = 0
        self._reader = reader
        self._zygote = zygote
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: WorkerProcess | None = None
        self._tenants: dict[int, Tenant] = {}
        self._numbers = itertools.count(1)
        self._killed_by: Tenant | None = None
        self._heard_s = 0.0  # by the monotonic clock, when it last said something of its instances, or began
        # Orders, with descriptors of our own, that the socket had no room for.
        self._unsent: deque[tuple[bytes, list[int]]] = deque()

    @property
    def pid(self) -> int | None:
        """Once known."""
        process = self._process
        return None if process is None else process.pid

    @property
    def tenants(self) -> int:
        """Instances that are there, or on their way."""
        return len(self._tenants)

    def start(self) -> None:
        """Waits until it can be forked. ServerError with the reason. Not on the reader's thread."""
        self._zygote.start()

    def fork(
        self, descriptors: Sequence[int], memory_limit: int, on_end: Callable[[str], None], cores: Sequence[int] = ()
    ) -> Tenant:
        """A new worker in it, which gets `descriptors`. `cores`: that its threads run on, () for any. Does not wait:
        whatever goes wrong is told by `on_end`.
        """
        assert not memory_limit, "a limit is of a whole process"
        tenant = Tenant(self, next(self._numbers), on_end)
        order = json.dumps({"number": tenant.number, "cores": list(cores)}).encode()
        with self._lock:
            try:
                control = self._control or self._launch(cores)
                if self._unsent or not _send(control, order, descriptors):
                    self._unsent.append((order, list(map(os.dup, descriptors))))
                    self._watch(control)
            except ConnectionError:
                pass  # it has just ended, which it is told as all others there are
            except OSError as error:
                reason = f"could not be started: {error.strerror}"
                self._reader.call(lambda: tenant.end(reason))
                self._end_if_empty()
                return tenant
            self._tenants[tenant.number] = tenant
        self._check_later(tenant, WORKER_FORK_TIMEOUT_S)
        return tenant

    # Under the lock.
    def _launch(self, cores: Sequence[int]) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        forking.hold(ours)
        with theirs:
            self._process = self._zygote.fork(
                [theirs.fileno()], 0, lambda how: self._process_ended(ours, how), cores, host=True
            )
        self._control = ours
        self._killed_by = None
        self._heard_s = time.monotonic()
        self._watch(ours)
        return ours

    # Under the lock.
    def _watch(self, control: socket.socket) -> None:
        events = select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0)
        self._reader.watch(control.fileno(), lambda events: self._on_events(control, events), events)

    def kill(self, tenant: Tenant, reason: str | None) -> None:
        """Ends the process, for the sake of one that is in it."""
        with self._lock:
            if tenant.number not in self._tenants or self._process is None:
                return
            tenant.reason = tenant.reason or reason
            self._killed_by = self._killed_by or tenant
            self._process.kill()

    def dismiss(self, tenant: Tenant, reason: str, within_s: float) -> None:
        """See Tenant."""
        tenant.reason = tenant.reason or reason
        self._reader.call_at(time.monotonic_ns() + int(within_s * 1e9), lambda: self._forget(tenant))

    # -- on the reader's thread ------------------------------------------------------------------------------------

    def _forget(self, tenant: Tenant) -> None:
        if tenant.number in self._tenants:
            log.warning("a thread of a model instance that %s is left behind in model process %d", tenant.reason,
                        self.number)  # fmt: skip
            self._tenant_ended(tenant.number, "was given up")

    def _check_later(self, tenant: Tenant, in_s: float) -> None:
        self._reader.call_at(time.monotonic_ns() + int(in_s * 1e9), lambda: self._check_begun(tenant))

    # Others may be ahead of it, as long as they begin.
    def _check_begun(self, tenant: Tenant) -> None:
        if tenant.begun or tenant.number not in self._tenants:
            return
        left_s = self._heard_s + WORKER_FORK_TIMEOUT_S - time.monotonic()
        if left_s > 0:
            self._check_later(tenant, left_s)
        else:
            self.kill(tenant, f"was killed because no instance began there for {WORKER_FORK_TIMEOUT_S:g} s")

    def _on_events(self, control: socket.socket, events: int) -> None:
        if events & select.EPOLLOUT:
            with self._lock:
                if control is self._control:
                    self._send_more(control)
        if events & ~select.EPOLLOUT:
            self._on_readable(control)

    # Under the lock.
    def _send_more(self, control: socket.socket) -> None:
        with suppress(OSError):  # its end is told by others
            while self._unsent and _send(control, *self._unsent[0]):
                _close(self._unsent.popleft()[1])
            self._watch(control)

    def _on_readable(self, control: socket.socket) -> None:
        try:
            data = control.recv(WORKER_MESSAGE_NBYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # the zygote tells how it has ended
            self._reader.forget(control.fileno())
            return
        try:
            message = json.loads(data)
            number, how = int(message["number"]), message["how"]
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            with self._lock:
                if control is self._control and self._process is not None:
                    self._process.kill("was killed because it sent nonsense about its instances")
            return
        self._heard_s = time.monotonic()
        if how is not None:
            self._tenant_ended(number, str(how)[:HOW_LENGTH])
        elif (tenant := self._tenants.get(number)) is not None:
            tenant.begun = True

    def _tenant_ended(self, number: int, how: str) -> None:
        with self._lock:
            tenant = self._tenants.pop(number, None)
        if tenant is not None:
            tenant.end(how)
        with self._lock:
            self._end_if_empty()

    # Under the lock. What models have started there ends with it.
    def _end_if_empty(self) -> None:
        if not self._tenants and self._control is not None:
            self._let_go(self._control)
            assert self._process is not None
            self._process.kill()
            self._process = None

    # Under the lock.
    def _let_go(self, control: socket.socket) -> None:
        self._reader.forget(control.fileno())
        control.close()
        self._control = None
        while self._unsent:
            _close(self._unsent.popleft()[1])

    # `control`: of the process that has ended, which need not be the one that there is now.
    def _process_ended(self, control: socket.socket, how: str) -> None:
        with self._lock:
            if control is not self._control:
                return
            self._let_go(control)
            self._process = None
            tenants, self._tenants = self._tenants, {}
            by = self._killed_by
            self.restarts += bool(tenants)
        if by is not None and by.reason:
            how = f"ended with model process {self.number}, where another one {by.reason}"
        log.error("model process %d, with %d instances, %s", self.number, len(tenants),
                  how if by is None or not by.reason else by.reason)  # fmt: skip
        for tenant in tenants.values():
            tenant.end(how)


def _send(control: socket.socket, order: bytes, descriptors: Sequence[int]) -> bool:
    """False: there is no room just now. OSError."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    try:
        control.sendmsg([order], rights, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    return True


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
