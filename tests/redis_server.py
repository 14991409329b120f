"""A Redis server of the test's own, as a process: on a free port, without files. Skips where Debian's is missing."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SECONDS = 20.0


class RedisServer:
    """`port`, or `path` of its socket file; `run` asks it something with redis-cli."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port: int = listener.getsockname()[1]
        self.path = str(folder / "redis.sock")
        self._folder = folder
        self._options = options
        self.start()

    def start(self) -> None:
        """As a new process, with nothing in it."""
        self._process = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", self.path,
             "--save", "", "--appendonly", "no", "--dir", str(self._folder), *self._options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + SECONDS
        while subprocess.run(["redis-cli", "-s", self.path, "ping"], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.02)

    def run(self, *arguments: str, data: bytes | None = None) -> bytes:
        """What redis-cli prints, without the last newline. `data`: the last argument."""
        command = ["redis-cli", "-s", self.path, *(("-x",) if data is not None else ()), *arguments]
        done = subprocess.run(command, input=data, capture_output=True, check=True, timeout=SECONDS)
        return done.stdout.removesuffix(b"\n")

    def names(self) -> list[str]:
        """Of all that it keeps."""
        return sorted(self.run("keys", "*").decode().split())

    def hang(self) -> None:
        """It takes connections, and says nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """The end of `hang`."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """It is gone."""
        self._process.kill()
        self._process.wait()


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """One that ends with the block."""
    if shutil.which("redis-server") is None or shutil.which("redis-cli") is None:
        pytest.skip("needs redis-server (Debian package of that name)")
    pytest.importorskip("redis")
    server = RedisServer(folder, *options)
    try:
        yield server
    finally:
        server.kill()
