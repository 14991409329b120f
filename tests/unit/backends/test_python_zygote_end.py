"""The process that Python models' workers are forked from, at the end of its server."""

from __future__ import annotations

import select
import socket
import subprocess
import sys

from triton_async.backends.python.isolated import zygote


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
