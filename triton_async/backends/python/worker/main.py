"""Program of the process that workers are forked from: run by path, by any CPython from 3.8 on, with NumPy.

It has NumPy and our code imported and one thread, and does what the server's messages on one socket say: fork a worker,
kill one. It tells the server of every worker's end. It ends with the server, and its workers with it.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from typing import Any

PACKAGE = "triton_async_worker"
COMPILED = "triton_async.backends.python.worker"
# Modules whose types others cimport (*.pxd), none of which needs another of them.
TYPED = ("wire", "outgoing")
PR_SET_PDEATHSIG = 1
LEAST_PYTHON = (3, 8)
# Bytes of one message of the server, and descriptors that come with it at most: for a worker socket, memory of
# requests, of responses, its version's files.
MESSAGE_NBYTES = 1 << 16
DESCRIPTORS = 8
# How much rather than other processes a worker is killed when the system has no memory left (proc(5)).
OOM_SCORE = 500


def import_package() -> Any:
    """This directory as a package under a name of its own: nothing in it can be mistaken for a model's module."""
    directory = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(
        PACKAGE, os.path.join(directory, "__init__.py"), submodule_search_locations=[directory]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != directory]
    # Compiled modules look for the types of each other under the names that they were compiled by.
    names = {f"{COMPILED}.{module}": importlib.import_module(f"{PACKAGE}.{module}") for module in TYPED}
    names[COMPILED.partition(".")[0]] = package
    sys.modules.update(names)
    try:
        return importlib.import_module(PACKAGE + ".instance")
    finally:
        for name in names:
            del sys.modules[name]


class Zygote:
    """Forks workers, tells of their ends. `control`: the socket to the server. `instance`, `host`: the modules of what
    runs in a worker, one instance or many.
    """

    def __init__(self, control: socket.socket, instance: Any, host: Any = None) -> None:
        self.control = control
        self.instance = instance
        self.host = host
        self.prepared = instance.Prepared()
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.workers: dict[int, int] = {}  # pid -> number that the server gave it
        self.own_pid = os.getpid()
        self.woken, self.wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends us
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        poller = select.poll()
        poller.register(self.control, select.POLLIN)
        poller.register(self.woken, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poller.poll()]
            if self.woken in ready:
                self.drain_wakeups()
                self.reap()
            if self.control.fileno() in ready and not self.obey():
                return

    def drain_wakeups(self) -> None:
        try:
            while os.read(self.woken, 4096):
                pass
        except BlockingIOError:
            pass

    def tell(self, **message: Any) -> None:
        self.control.sendall(json.dumps(message).encode())

    # One message of the server. False when it has gone.
    def obey(self) -> bool:
        data, descriptors = receive(self.control, DESCRIPTORS)
        if not data:
            return False
        try:
            order = json.loads(data)
            if order["op"] == "fork":
                self.fork(order, descriptors)
            elif order["op"] == "kill":
                self.kill(order["number"])
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def fork(self, order: dict[str, Any], descriptors: list[int]) -> None:
        number = order["number"]
        try:
            pid = os.fork()
        except OSError as error:
            self.tell(op="failed", number=number, error="fork: " + str(error.strerror))
            return
        if pid == 0:
            status = 1
            try:
                self.become_worker(order, descriptors)
                if "switch_s" in order:
                    status = self.host.main(*descriptors, receive, order["switch_s"])
                else:
                    status = self.instance.main(self.prepared, *descriptors)
            except BaseException:
                traceback.print_exc()
            finally:
                try:
                    sys.stdout.flush()
                    sys.stderr.flush()
                finally:
                    os._exit(status)
        with contextlib.suppress(OSError):  # it has done so itself, or has ended
            os.setpgid(pid, pid)
        self.workers[pid] = number
        self.tell(op="forked", number=number, pid=pid)

    def become_worker(self, order: dict[str, Any], descriptors: list[int]) -> None:
        os.setpgid(0, 0)
        self.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self.own_pid:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.control.close()
        close_others(descriptors)
        if order.get("cores"):
            os.sched_setaffinity(0, order["cores"])
        if order.get("memory_limit"):
            resource.setrlimit(resource.RLIMIT_DATA, (order["memory_limit"], order["memory_limit"]))
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write(str(OOM_SCORE))
        except OSError:
            pass  # no such file in some containers
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            # Each worker has numbers of its own; `random` sees to it by itself. Without a number NumPy would touch more
            # of the memory that is shared.
            numpy.random.seed(int.from_bytes(os.urandom(4), "little"))

    def kill(self, number: int) -> None:
        for pid, known in self.workers.items():
            if known == number:
                # Not reaped yet, so the id is still its own.
                kill_group(pid)

    # Collects workers that have ended, and ends what they have started and left.
    def reap(self) -> None:
        while self.workers:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            number = self.workers.pop(found.si_pid, None)
            if number is not None:
                kill_group(found.si_pid)
            _, status = os.waitpid(found.si_pid, 0)
            if number is not None:
                self.tell(op="ended", number=number, status=status)


def kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):  # the group is gone, or was never made
            kill(pid, signal.SIGKILL)


def close_others(kept: list[int]) -> None:
    """Closes every descriptor but standard ones and `kept`."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor not in kept:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(descriptor)


def receive(control: socket.socket, most: int) -> tuple[bytes, list[int]]:
    """A message and the descriptors that came with it; b"" at the end. Like socket.recv_fds of later Pythons."""
    descriptors: array.array[int] = array.array("i")
    data, ancillary, _, _ = control.recvmsg(
        MESSAGE_NBYTES, socket.CMSG_SPACE(most * descriptors.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return data, list(descriptors)


def what_is_missing(error: BaseException) -> str:
    """Why this environment is no good, and what to do about it."""
    if isinstance(error, ModuleNotFoundError) and error.name == "numpy":
        return "it has no NumPy, which every Python model needs: install it there, in an archive before it is packed"
    return str(error) if type(error) is RuntimeError else type(error).__name__ + ": " + str(error)


def main() -> None:
    """`main.py DESCRIPTOR`: of the socket to the server."""
    control = socket.socket(fileno=int(sys.argv.pop(1)))
    os.set_inheritable(control.fileno(), False)
    try:
        if sys.version_info < LEAST_PYTHON:
            raise RuntimeError("it has Python " + sys.version.split()[0] + ", make it with CPython 3.8 or newer")
        numpy = importlib.import_module("numpy")
        # NumPy imports this at its first use: that would be in each worker. So would be what its first seed makes.
        importlib.import_module("numpy.random").seed(0)
        instance = import_package()
        host = importlib.import_module(PACKAGE + ".host")
        rehearsal = importlib.import_module(PACKAGE + ".rehearsal")
        rehearsal.rehearse()
    except BaseException as error:
        control.sendall(json.dumps({"op": "unusable", "error": what_is_missing(error)}).encode())
        return
    zygote = Zygote(control, instance, host)
    with contextlib.suppress(ConnectionError):  # the server has gone, in the middle of a message to it
        zygote.tell(op="ready", python=sys.version.split()[0], numpy=numpy.__version__)
        filled = rehearsal.fill_holes()
        # Memory that the collector does not touch stays shared with the workers.
        gc.freeze()
        zygote.run()
        del filled


if __name__ == "__main__":
    main()
