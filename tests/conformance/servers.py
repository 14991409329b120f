"""Starts and stops the two servers as child processes on free local ports."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .setup_oracle import Oracle

ROOT = Path(__file__).resolve().parents[2]
PORTS = (20000, 32000)
_LISTEN = "0A"
READY_SECONDS = 90.0
# In an option, the port of a cloud's front door.
CLOUD = "{cloud}"
# The real server waits 30 s for idle connections on SIGTERM; the runs do not need that.
STOP_SECONDS = 5.0


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on right now, below those that the kernel hands to connecting clients."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            port = random.SystemRandom().randrange(*PORTS)
            sock = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                sock.bind(("0.0.0.0", port))
                ports.append(port)
        return ports


def listens(pid: int, port: int) -> bool:
    """True when process `pid` itself listens on `port`, and not another server that took it first."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
            inodes.add(f"socket:[{fields[9]}]")
    try:
        return any(os.readlink(link) in inodes for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


class Server:
    """One running server. Owns the process and its children; `stop` ends them all."""

    def __init__(self, name: str, command: Sequence[str], env: dict[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        # Path of the model repository, where answers may hold it.
        self.repository = ""
        self.http_port, self.grpc_port, self.metrics_port, self.cloud_port = free_ports(4)
        command = [part.replace(CLOUD, str(self.cloud_port)) for part in command]
        ports = (
            f"--http-port={self.http_port}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-port={self.metrics_port}",
        )
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [*command, *ports], env=env, stdout=sink, stderr=sink, start_new_session=True
            )

    def port(self, protocol: str) -> int:
        """The port of "http", "grpc", "metrics" or "cloud"."""
        found: int = getattr(self, f"{protocol}_port")
        return found

    def alive(self) -> bool:
        """True while the process has not ended."""
        return self.process.poll() is None

    def ready(self) -> bool:
        """True when the server, and no other, answers the ready probe with 200."""
        if not listens(self.process.pid, self.http_port):
            return False
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=2)
        try:
            connection.request("GET", "/v2/health/ready", headers={"Connection": "close"})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def wait_ready(self) -> None:
        """Returns when the server is ready; raises with the end of its log when it never is."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.alive():
            if self.ready():
                return
            time.sleep(0.1)
        tail = self.log.read_text(errors="replace")[-4000:]
        self.stop()
        raise RuntimeError(f"{self.name} did not become ready; its log ends:\n{tail}")

    def stop(self) -> int:
        """Ends the server, politely first; returns its exit status."""
        if self.alive():
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        # What is left of the session: stub processes of the Python backend, or a server that hangs.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()


def triton_command(oracle: Oracle, repository: Path, *options: str) -> list[str]:
    """Command line of the real server, without ports."""
    return [
        str(oracle.tritonserver),
        f"--model-repository={repository}",
        f"--backend-directory={oracle.backends}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--allow-gpu-metrics=false",
        "--exit-timeout-secs=1",
        *options,
    ]


def ours_env() -> dict[str, str]:
    """Environment of triton-async: the installed package, unless the sources here are compiled in place."""
    env = dict(os.environ, PYTHONSAFEPATH="1")
    if list((ROOT / "triton_async").glob("datatypes.*.so")):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    return env


def ours_command(repository: Path, *options: str) -> list[str]:
    """Command line of triton-async, without ports."""
    return [sys.executable, "-m", "triton_async.cli", f"--model-repository={repository}", *options]


@contextlib.contextmanager
def running(name: str, command: Sequence[str], env: dict[str, str], log: Path) -> Iterator[Server]:
    """A server that is ready inside the block and gone after it."""
    server = Server(name, command, env, log)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()
