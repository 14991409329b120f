"""A server started as a command, whatever comes of it: its output, its exit status, requests to it."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from server_process import START_SECONDS, STOP_SECONDS, free_ports, package_root, poll

CONFIG = """
    backend: "identity"
    input { name: "INPUT0" data_type: TYPE_FP32 dims: -1 }
    output { name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }
"""
# Runs a command with its standard descriptors closed.
CLOSING = ("/bin/sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh")


class Started:
    """A command that was given, with its output in a file."""

    def __init__(self, folder: Path, argv: Sequence[str], closed: bool = False) -> None:
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        self.log = folder / f"output-{self.http_port}"
        self.argv = [
            *argv, f"--http-port={self.http_port}", f"--grpc-port={self.grpc_port}",
            f"--metrics-port={self.metrics_port}",
        ]  # fmt: skip
        if not any("--listen-while-loading" in argument for argument in argv):
            # So that a server that answers has loaded its models.
            self.argv.append("--listen-while-loading=false")
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*(CLOSING if closed else ()), sys.executable, "-m", "triton_async.cli", *self.argv],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(package_root())},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def get(self, path: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://{host}:{self.http_port}{path}", timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def wait_until_it_answers(self, host: str = "127.0.0.1", path: str = "/v2") -> None:
        def answers() -> bool:
            assert self.process.poll() is None, self.output()
            try:
                return self.get(path, host)[0] == 200
            except OSError:
                return False

        poll(answers, "an answer", START_SECONDS)

    def end(self) -> int:
        return self.process.wait(STOP_SECONDS)


@contextmanager
def started(folder: Path, *argv: str, closed: bool = False) -> Iterator[Started]:
    server = Started(folder, argv, closed)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
