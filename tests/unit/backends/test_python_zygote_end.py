"""The process that Python models' workers are forked from, and their backend, at the end of the server."""

from __future__ import annotations

import queue
import select
import socket
import subprocess
import sys

import pytest

from triton_async.backends.python.backend import PythonBackend
from triton_async.backends.python.isolated import zygote
from triton_async.backends.python.isolated.reader import Reader
from triton_async.backends.registry import BackendRegistry
from triton_async.errors import Unavailable


def test_it_ends_quietly_with_a_server_that_has_not_heard_it() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, str(zygote.MAIN), str(theirs.fileno())], stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
        )  # fmt: skip
    with process, ours:
        assert select.select([ours], [], [], 60)[0]
        ours.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0


# Of a start that was cancelled, loads may still be on their threads.
def test_nothing_is_started_behind_the_end() -> None:
    reader = Reader()
    process = zygote.Zygote(reader, sys.executable)
    process.close(for_good=True)
    with pytest.raises(Unavailable):
        process.start()
    told: queue.Queue[str] = queue.Queue()
    assert reader.close(0)
    process.fork([], 0, told.put)
    assert "Server exiting" in told.get(timeout=20)
    assert reader.close(20)
    backend = PythonBackend()
    backend.close()
    with pytest.raises(Unavailable):
        backend._workers()
    registry = BackendRegistry(processes=2)
    assert registry.get("python") is registry.get("python")
    registry.close()
    with pytest.raises(Unavailable):
        registry.get("python")
