"""A server as a process of its own: started on free ports, watched, stopped by SIGTERM."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

# Generous bounds for a busy machine; nothing waits that long when all is well.
START_SECONDS = 120.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.02

LIVE_KINDS = ("request", "response", "batch", "lease")


def poll(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait until the condition holds; fails naming what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for: {what}")
        time.sleep(POLL_SECONDS)


def free_ports(count: int) -> list[int]:
    """Different ports that nothing listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


def package_root() -> Path:
    """The folder from which this process would import the server.

    The child runs in another folder, so that a source tree in the current one cannot hide the installed
    package.
    """
    spec = importlib.util.find_spec("triton_async")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parents[1]


class ServerProcess:
    """A running server. URLs are `host:port`, as the clients want them."""

    def __init__(self, repositories: Sequence[Path], folder: Path, options: Sequence[str]) -> None:
        http_port, grpc_port, metrics_port = free_ports(3)
        self.http_url = f"127.0.0.1:{http_port}"
        self.grpc_url = f"127.0.0.1:{grpc_port}"
        self.metrics_url = f"127.0.0.1:{metrics_port}"
        self.log = folder / f"server-{http_port}.log"
        command = [
            sys.executable,
            "-m",
            "triton_async.cli",
            *(f"--model-repository={repository}" for repository in repositories),
            f"--http-port={http_port}",
            f"--grpc-port={grpc_port}",
            f"--metrics-port={metrics_port}",
            # To run the same tests against a server that is started otherwise.
            *os.environ.get("TRITON_ASYNC_TEST_OPTIONS", "").split(),
            *options,
        ]
        paths = [str(package_root()), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        with self.log.open("wb") as output:
            self._process = self.start(
                command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        self.pid = self._process.pid
        self._terminated = False

    def start(self, command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        """Starts the process; `more`: of subprocess.Popen."""
        return subprocess.Popen(command, **more)

    def url(self, protocol: str) -> str:
        """The address for `http` or `grpc`."""
        return self.http_url if protocol == "http" else self.grpc_url

    def output(self) -> str:
        """What the server has printed so far."""
        return self.log.read_text(errors="replace")

    def wait_until_ready(self, plain_http: bool = True) -> None:
        """Returns when /v2/health/ready answers 200; prints the server's output when it does not.

        Without `plain_http`, when there are metrics: their port opens last, behind --listen-while-loading=false.
        """

        def ready() -> bool:
            code = self._process.poll()
            if code is not None:
                raise AssertionError(f"the server exited with {code} before it was ready:\n{self.output()}")
            try:
                return self._is_ready() if plain_http else bool(self.metrics())
            except (urllib.error.URLError, OSError):
                return False

        try:
            poll(ready, "the server to become ready", START_SECONDS)
        except AssertionError:
            print(self.output(), file=sys.stderr)
            raise

    def _is_ready(self) -> bool:
        with urllib.request.urlopen(f"http://{self.http_url}/v2/health/ready", timeout=5):
            return True

    def metrics_text(self) -> str:
        """What the metrics port answers."""
        with urllib.request.urlopen(f"http://{self.metrics_url}/metrics", timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def metrics(self) -> dict[str, float]:
        """Every series of the metrics port, by its name with labels."""
        lines = self.metrics_text().splitlines()
        series = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in series}

    def live_objects(self) -> dict[str, int]:
        """How many objects of each kind exist now; requests, responses, batches and leases at least."""
        found = {}
        for name, value in self.metrics().items():
            match = re.fullmatch(r'triton_async_live_objects\{kind="(\w+)"\}', name)
            if match:
                found[match[1]] = int(value)
        missing = set(LIVE_KINDS) - set(found)
        assert not missing, f"the metrics do not count {missing}"
        return found

    def wait_until_idle(self) -> None:
        """Returns when nothing of the request path is left."""
        state: dict[str, int] = {}

        def idle() -> bool:
            state.update(self.live_objects())
            return not any(state.values())

        try:
            poll(idle, "the live objects to go")
        except AssertionError as error:
            raise AssertionError(f"{error}: {state}") from None

    def exit_status(self) -> int:
        """Waits for a server that ends by itself."""
        return self._process.wait(START_SECONDS)

    def terminate(self) -> None:
        """Send SIGTERM and return at once. Only the first call does: a second signal means "give up now"."""
        if not self._terminated:
            self._terminated = True
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """SIGTERM must end the server with status 0."""
        self.terminate()
        code = self._process.wait(STOP_SECONDS)
        assert code == 0, f"the server exited with {code}:\n{self.output()}"

    def kill(self) -> None:
        """End it for good; for clean-up after a failure."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@contextmanager
def running_server(
    repositories: Sequence[Path],
    folder: Path,
    options: Sequence[str] = (),
    plain_http: bool = True,
    make: type[ServerProcess] = ServerProcess,
) -> Iterator[ServerProcess]:
    """A ready server; the caller stops it, or it is killed at the end. `plain_http`: whether it speaks that."""
    server = make(repositories, folder, options if plain_http else [*options, "--listen-while-loading=false"])
    try:
        server.wait_until_ready(plain_http)
        yield server
    finally:
        server.kill()
