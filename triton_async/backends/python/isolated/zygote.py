"""Processes that workers are forked from: one for each interpreter, started with its first worker, kept a while after
the last one. A worker takes milliseconds that way: NumPy and our code are imported already, and their memory is shared.
"""

from __future__ import annotations

import array
import itertools
import json
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from triton_async import forking
from triton_async.backends.python.defines import (
    WORKER_FORK_TIMEOUT_S,
    WORKER_MESSAGE_NBYTES,
    WORKER_ZYGOTE_LINGER_S,
    WORKER_ZYGOTE_TIMEOUT_S,
)
from triton_async.backends.python.isolated.activation import activated
from triton_async.backends.python.isolated.reader import Reader, Timer
from triton_async.defines import GIL_SWITCH_S
from triton_async.errors import InternalError, InvalidArg, ServerError, Unavailable

log = logging.getLogger("triton_async.python")

MAIN = Path(__file__).resolve().parent.parent / "worker" / "main.py"

# Variables of the server's environment that would change what an interpreter is or loads.
_NOT_HANDED_ON = ("PYTHON", "LD_PRELOAD", "LD_AUDIT", "VIRTUAL_ENV", "CONDA_", "__PYVENV")


def worker_environment(own: Mapping[str, str], home: Path | None) -> dict[str, str]:
    """Environment variables of workers: those of the server, but for what steers an interpreter. `home`: directory of
    the environment whose interpreter it is, if it is not the server's own.
    """
    found = {name: value for name, value in own.items() if not name.startswith(_NOT_HANDED_ON)}
    if home is not None:
        found["PATH"] = os.pathsep.join([str(home / "bin"), found.get("PATH", os.defpath)])
        name = "VIRTUAL_ENV" if (home / "pyvenv.cfg").exists() else "CONDA_PREFIX"
        found[name] = str(home)
        found = activated(found, home)
    return found


class WorkerProcess:
    """One worker. `on_end(what happened)` is called once, on the reader's thread, when it is gone or never came to be;
    what happened is Triton's kind of phrase: `was killed by signal 9`.
    """

    def __init__(self, zygote: Zygote, number: int, on_end: Callable[[str], None]) -> None:
        self.pid: int | None = None
        self.ended = threading.Event()
        self._zygote = zygote
        self._number = number
        self._on_end = on_end
        self._reason: str | None = None

    def kill(self, reason: str | None = None) -> None:
        """Ends it and what it has started. `reason`: what to say instead of the signal. Any thread, returns at once."""
        if self._reason is None:
            self._reason = reason
        if not self.ended.is_set():
            self._zygote.kill(self._number)

    def dismiss(self, reason: str, within_s: float) -> None:
        """The same for one that is of no use any more. `within_s`: seconds for it to end by itself, where others share
        its process.
        """
        self.kill(reason)

    def _end(self, how: str) -> None:
        self.ended.set()
        self._on_end(self._reason or how)


class Zygote:
    """The process for one interpreter. `home`: its environment's directory, None for the server's own. `command`: what
    the interpreter runs; by default the program of Python models' workers, which shares nothing with the server's own
    environment.
    """

    def __init__(
        self, reader: Reader, interpreter: str, home: Path | None = None, command: Sequence[str] | None = None
    ) -> None:
        self.interpreter = interpreter
        self._command = command
        self._reader = reader
        self._home = home
        self._whose = f"the Python environment of {'the server' if home is None else 'EXECUTION_ENV_PATH'}"
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._workers: dict[int, WorkerProcess] = {}
        self._numbers = itertools.count(1)
        self._started = threading.Event()
        self._problem: ServerError | None = None
        self._linger: Timer | None = None
        self._closed = False

    def start(self) -> None:
        """Starts it, if it is not, and waits until it can fork. ServerError with the reason. Not on the reader's
        thread."""
        with self._lock:
            if self._control is None:
                self._launch()
            started = self._started
        if not started.wait(WORKER_ZYGOTE_TIMEOUT_S):
            self.close()
            raise InternalError(
                f"the Python interpreter of worker processes did not start within {WORKER_ZYGOTE_TIMEOUT_S:g} s"
            )
        if self._problem is not None:
            raise self._problem

    def fork(
        self, descriptors: Sequence[int], memory_limit: int, on_end: Callable[[str], None], cores: Sequence[int] = (),
        host: bool = False,
    ) -> WorkerProcess:  # fmt: skip
        """A new worker, which gets `descriptors`. `memory_limit`: bytes of its own memory, 0 for any; `cores`: that it
        runs on, () for any; `host`: it is a model process. Any thread, does not wait: whatever goes wrong is told by
        `on_end`.
        """
        order: dict[str, Any] = {"op": "fork", "number": next(self._numbers), "cores": list(cores)}
        if memory_limit:
            order["memory_limit"] = memory_limit
        if host:
            order["switch_s"] = GIL_SWITCH_S
        worker = WorkerProcess(self, order["number"], on_end)
        with self._lock:
            if self._linger is not None:
                self._linger.cancel()
                self._linger = None
            try:
                if self._control is None:
                    self._launch()
                assert self._control is not None
                rights = array.array("i", descriptors)
                self._control.sendmsg(
                    [json.dumps(order).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_DONTWAIT
                )
            except (OSError, ServerError) as error:
                reason = f"could not be started: {error}"
                self._reader.call(lambda: worker._end(reason))
                return worker
            self._workers[order["number"]] = worker
        self._reader.call_at(
            time.monotonic_ns() + int(WORKER_FORK_TIMEOUT_S * 1e9), lambda: self._check_forked(worker)
        )
        return worker

    def kill(self, number: int) -> None:
        """Kills a worker, if it still runs."""
        with self._lock:
            if self._control is None or number not in self._workers:
                return
            try:
                self._control.send(json.dumps({"op": "kill", "number": number}).encode(), socket.MSG_DONTWAIT)
            except OSError:  # it does not listen: then they all end
                self._kill_process()

    def close(self, for_good: bool = False) -> None:
        """Ends it, and with it whatever workers it has. `for_good`: it is not started again, whoever asks."""
        with self._lock:
            self._closed = self._closed or for_good
            self._kill_process()

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None else process.pid

    # Under the lock.
    def _launch(self) -> None:
        if self._closed:
            raise Unavailable("Server exiting")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        forking.hold(ours)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [self.interpreter, *(self._command or (str(MAIN),)), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    env=worker_environment(os.environ, self._home) if self._command is None else None,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise InvalidArg(
                    f"the Python interpreter of worker processes can not be run: {error.strerror}"
                ) from None
        self._control = ours
        self._problem = None
        self._started = threading.Event()
        self._reader.watch(ours.fileno(), self._on_readable)

    def _kill_process(self) -> None:
        if self._process is not None:
            self._process.kill()

    # -- on the reader's thread ------------------------------------------------------------------------------------

    def _on_readable(self, events: int) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(WORKER_MESSAGE_NBYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._on_gone()
            return
        message = json.loads(data)
        if message["op"] == "ready":
            self._started.set()
        elif message["op"] == "unusable":
            text = message["error"]
            self._problem = InvalidArg(f"{self._whose} can not run models: {text}")
        elif message["op"] == "forked":
            if (worker := self._workers.get(message["number"])) is not None:
                worker.pid = message["pid"]
        else:
            how = message.get("error") or describe_status(message["status"])
            self._forget(message["number"], how)

    def _forget(self, number: int, how: str) -> None:
        with self._lock:
            worker = self._workers.pop(number, None)
            if not self._workers and self._linger is None:
                at_ns = time.monotonic_ns() + int(WORKER_ZYGOTE_LINGER_S * 1e9)
                self._linger = self._reader.call_at(at_ns, self._close_idle)
        if worker is not None:
            worker._end(how)

    def _close_idle(self) -> None:
        with self._lock:
            self._linger = None
            if not self._workers:
                self._kill_process()

    # The process has ended, or closed its socket: its workers end with it.
    def _on_gone(self) -> None:
        with self._lock:
            control, process = self._control, self._process
            assert control is not None and process is not None
            self._reader.forget(control.fileno())
            control.close()
            process.kill()
            process.wait()
            self._control = self._process = None
            workers, self._workers = self._workers, {}
            if self._problem is None and not self._started.is_set():
                self._problem = InvalidArg(
                    f"{self._whose} can not run models: its interpreter {describe_exit(process.returncode)} while it "
                    "started; it must be CPython 3.8 or newer, made for this machine"
                )
            self._started.set()
        for worker in workers.values():
            worker._end("ended with the process that it was forked from")

    def _check_forked(self, worker: WorkerProcess) -> None:
        if worker.pid is None and not worker.ended.is_set():
            log.error("the process that Python workers are forked from does not answer and is ended")
            self.close()


def describe_status(status: int) -> str:
    """What `waitpid` said of a worker's end."""
    return describe_exit(os.waitstatus_to_exitcode(status))


def describe_exit(code: int) -> str:
    """The same for an exit code as of `subprocess`."""
    return f"was killed by signal {-code}" if code < 0 else f"exited with status {code}"
