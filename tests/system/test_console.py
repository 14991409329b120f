"""A log or a console that cannot be written holds up nobody: not the clients, and not the end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from server_process import STOP_SECONDS, ServerProcess, running_server

KINDS = ["full device", "no reader", "full pipe"]


class WithConsole(ServerProcess):
    """A server whose standard output, or standard error, goes where a test says."""

    name = "stdout"
    console: int | IO[bytes] = subprocess.DEVNULL

    def start(self, command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        more[self.name] = self.console
        if more["stderr"] is subprocess.STDOUT:
            more["stderr"] = subprocess.DEVNULL
        return super().start(command, **more)


@pytest.fixture
def console(request: pytest.FixtureRequest) -> Iterator[int]:
    """A descriptor that cannot be written, or not any more."""
    if request.param == "full device":
        fd = os.open("/dev/full", os.O_WRONLY)
        yield fd
        os.close(fd)
        return
    reader, writer = os.pipe()
    if request.param == "no reader":
        os.close(reader)
    else:
        os.set_blocking(writer, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writer, bytes(1 << 12))
        os.set_blocking(writer, True)
    yield writer
    os.close(writer)
    if request.param == "full pipe":
        os.close(reader)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("console", KINDS, indirect=True)
def test_a_server_serves_and_ends(console: int, name: str, extra_models: Path, tmp_path: Path) -> None:
    made = type("Made", (WithConsole,), {"name": name, "console": console})
    options = [f"--exit-timeout-secs={int(STOP_SECONDS) * 2}"]
    with running_server([extra_models], tmp_path, options, make=made) as server:
        assert server.metrics()["triton_async_loop_lag_us"] >= 0
        server.stop()


@pytest.mark.parametrize("console", ["no reader"], indirect=True)
def test_lines_that_were_lost_are_counted(console: int, extra_models: Path, tmp_path: Path) -> None:
    made = type("Made", (WithConsole,), {"name": "stderr", "console": console})
    with running_server([extra_models], tmp_path, make=made) as server:
        assert server.metrics()["triton_async_log_lines_dropped_total"] > 0
        server.stop()
