"""Two replicas behind nginx or HAProxy, and clients that notice each request that is lost or runs twice.

The replicas are restarted one after the other while the clients ask. A model writes down each execution by the number
of its request, so that what ran twice is seen even where its answers were lost. Clients never ask again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import uvloop

from triton_async import protos

READY_S = 120.0
HTTP_CONNECTIONS = 16
GRPC_CHANNELS = 2
GRPC_CALLS = 16
# In which HAProxy sees that a replica is back, before the other one leaves.
NOTICED_S = 1.0

_CONFIG = """
    backend: "python"
    input { name: "X" data_type: TYPE_INT64 dims: 1 }
    output { name: "Y" data_type: TYPE_INT64 dims: 1 }
"""
_MODEL = """
import os
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.file = os.open(os.path.join(%r, str(os.getpid())), flags, 0o600)

    def execute(self, requests):
        answers = []
        for request in requests:
            number = request.inputs()[0].as_numpy()
            os.write(self.file, number.tobytes())
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", 2 * number + 1)]))
        return answers
"""

# A connection that is refused is asked of the other replica; nothing that was sent is asked again.
_NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream http_replicas {{ {http_servers} keepalive 64; keepalive_requests 100000000; }}
    upstream grpc_replicas {{ {grpc_servers} keepalive 64; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{http};
        location / {{
            proxy_pass http://http_replicas; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_next_upstream error; proxy_connect_timeout 5s;
        }}
    }}
    server {{
        listen 127.0.0.1:{grpc} http2;
        location / {{ grpc_pass grpc://grpc_replicas; grpc_next_upstream error; grpc_connect_timeout 5s; }}
    }}
}}
"""
_HAPROXY = """
global
    log stdout format raw local0 notice
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option redispatch
    retries 3
    default-server check inter 200ms fall 1 rise 1
    option httpchk GET /v2/health/ready
    http-check expect status 200
frontend http
    bind 127.0.0.1:{http}
    default_backend http_replicas
frontend grpc
    bind 127.0.0.1:{grpc} proto h2
    default_backend grpc_replicas
backend http_replicas
    balance roundrobin
{http_servers}
backend grpc_replicas
    balance roundrobin
{grpc_servers}
"""


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        bound = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in bound:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in bound]


@dataclass
class Found:
    """What became of the requests: answered rightly, by protocol; why others were not."""

    answered: dict[str, int] = field(default_factory=lambda: {"http": 0, "grpc": 0})
    lost: list[str] = field(default_factory=list)
    doubled: int = 0
    restarts: int = 0


class Replica:
    """One server, which is started again and again on the same ports."""

    def __init__(self, models: Path, log: Path, options: Sequence[str], environment: Mapping[str, str]) -> None:
        self.http, self.grpc = free_ports(2)
        self._log = log
        self._environment = dict(environment)
        self._command = [
            sys.executable, "-m", "triton_async.cli", f"--model-repository={models}", "--http-address=127.0.0.1",
            "--grpc-address=127.0.0.1", f"--http-port={self.http}", f"--grpc-port={self.grpc}",
            "--allow-metrics=false", "--log-info=false", *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it is ready."""
        with self._log.open("ab") as sink:
            self._process = subprocess.Popen(
                self._command, cwd=self._log.parent, env=self._environment, stdout=sink, stderr=sink
            )
        wait_until_ready(self.http, self._process, self._log)

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(READY_S)

    def kill(self) -> None:
        """At the end, whatever came."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when /v2/health/ready answers 200 at a port."""
    deadline = time.monotonic() + READY_S
    while True:
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5):
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"not ready:\n{log.read_text()[-2000:]}")
        time.sleep(0.02)


@contextlib.contextmanager
def proxy(name: str, replicas: Sequence[Replica], folder: Path) -> Iterator[tuple[int, int]]:
    """nginx or haproxy in front of the replicas; its HTTP and its gRPC port."""
    http, grpc_port = free_ports(2)
    file = folder / f"{name}.conf"
    if name == "nginx":
        file.write_text(_NGINX.format(
            folder=folder, http=http, grpc=grpc_port,
            http_servers=" ".join(f"server 127.0.0.1:{replica.http} max_fails=0;" for replica in replicas),
            grpc_servers=" ".join(f"server 127.0.0.1:{replica.grpc} max_fails=0;" for replica in replicas),
        ))  # fmt: skip
        command = ["-p", str(folder), "-c", str(file)]
    else:
        file.write_text(_HAPROXY.format(
            http=http, grpc=grpc_port,
            http_servers="\n".join(f"    server r{n} 127.0.0.1:{one.http}" for n, one in enumerate(replicas)),
            grpc_servers="\n".join(
                f"    server r{n} 127.0.0.1:{one.grpc} proto h2 check port {one.http} check-proto h1"
                for n, one in enumerate(replicas)
            ),
        ))  # fmt: skip
        command = ["-db", "-f", str(file)]
    program = installed(name)
    assert program is not None
    log = folder / f"{name}-output"
    with log.open("wb") as sink:
        process = subprocess.Popen([program, *command], cwd=folder, stdout=sink, stderr=sink)
    try:
        wait_until_ready(http, process, log)
        yield http, grpc_port
    finally:
        process.kill()
        process.wait()


def installed(name: str) -> str | None:
    """The program, where Debian's package is there."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


class _Asking(asyncio.Protocol):
    """One connection over HTTP, which asks without a pause and is opened again only when the proxy says so."""

    def __init__(self, port: int, numbers: Iterator[int], found: Found) -> None:
        self._port, self._numbers, self._found = port, numbers, found
        self._transport: asyncio.Transport | None = None
        self._number: int | None = None
        self._received = b""
        self._leaves = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._received, self._leaves = cast(asyncio.Transport, transport), b"", False
        self._ask()

    def _ask(self) -> None:
        assert self._transport is not None
        self._number = next(self._numbers, None)
        if self._number is None:
            self._transport.close()
            return
        body = b'{"inputs":[{"name":"X","datatype":"INT64","shape":[1],"data":[%d]}]}' % self._number
        self._transport.write(
            b"POST /v2/models/count/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        fields = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in fields if line.startswith(b"content-length:")), 0)
        if len(rest) < length:
            return
        number, self._number, self._received = self._number, None, b""
        if fields[0] == b"http/1.1 200 ok" and number is not None and b"[%d]" % (2 * number + 1) in rest:
            self._found.answered["http"] += 1
        else:
            self._found.lost.append(f"http: {number} got {head[:60]!r} {rest[:200]!r}")
        if b"connection: close" in fields:
            self._leaves = True
            assert self._transport is not None
            self._transport.close()
        else:
            self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if self._number is not None:
            self._found.lost.append(f"http: the connection of {self._number} was closed without an answer ({error})")
            self._leaves, self._number = True, None
        if self._leaves:
            asyncio.ensure_future(self.open())  # noqa: RUF006
        elif not self.done.done():
            self.done.set_result(None)

    async def open(self) -> None:
        """Begins, or goes on."""
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)


async def _ask_http(port: int, numbers: Iterator[int], found: Found) -> None:
    askers = [_Asking(port, numbers, found) for _ in range(HTTP_CONNECTIONS)]
    for asker in askers:
        await asker.open()
    await asyncio.gather(*(asker.done for asker in askers))


def _ask_grpc(port: int, numbers: Iterator[int], found: Found) -> None:
    request = protos.message("inference.ModelInferRequest")
    answer = protos.message("inference.ModelInferResponse")
    free = threading.Semaphore(GRPC_CALLS)
    guard = threading.Lock()

    def note(call: grpc.Future, number: int) -> None:
        try:
            right = call.result().raw_output_contents[0] == (2 * number + 1).to_bytes(8, "little")
            why = "" if right else "a wrong answer"
        except grpc.RpcError as error:
            why = f"{error.code()} {error.details()}"  # type: ignore[attr-defined]
        with guard:
            if why:
                found.lost.append(f"grpc: {number}: {why}")
            else:
                found.answered["grpc"] += 1
        free.release()

    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    with contextlib.ExitStack() as stack:
        channels = [
            stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options)) for _ in range(GRPC_CHANNELS)
        ]
        calls = itertools.cycle([
            channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer", request.SerializeToString, answer.FromString
            )
            for channel in channels
        ])  # fmt: skip
        for number, call in zip(numbers, calls, strict=False):
            message = request(model_name="count")
            message.inputs.add(name="X", datatype="INT64", shape=[1])
            message.raw_input_contents.append(number.to_bytes(8, "little"))
            free.acquire()
            call.future(message, timeout=60).add_done_callback(lambda done, number=number: note(done, number))
        for _ in range(GRPC_CALLS):
            free.acquire()


def write_model(models: Path, executions: Path) -> None:
    """The model, which notes its executions in a folder, a file for each process."""
    (models / "count" / "1").mkdir(parents=True)
    (models / "count" / "config.pbtxt").write_text(_CONFIG)
    (models / "count" / "1" / "model.py").write_text(_MODEL % str(executions))
    executions.mkdir()


def _executed(executions: Path) -> np.ndarray:
    parts = [np.frombuffer(file.read_bytes(), np.int64) for file in executions.iterdir()]
    return np.concatenate([np.empty(0, np.int64), *parts])


def roll(
    name: str, count: int, folder: Path, options: Sequence[str], environment: Mapping[str, str], *, limit_s: float = 600
) -> Found:
    """Asks `count` requests over each protocol through a proxy, while the replicas are restarted in turn."""
    end = time.monotonic() + limit_s
    executions = folder / "executions"
    write_model(folder / "models", executions)
    replicas = [Replica(folder / "models", folder / f"replica-{n}", options, environment) for n in range(2)]
    found = Found()
    try:
        for replica in replicas:
            replica.start()
        with proxy(name, replicas, folder) as (http, grpc_port):
            asking = [
                threading.Thread(
                    target=lambda: uvloop.run(_ask_http(http, iter(range(count)), found)), daemon=True
                ),
                threading.Thread(
                    target=_ask_grpc, args=(grpc_port, iter(range(count, 2 * count)), found), daemon=True
                ),
            ]
            for thread in asking:
                thread.start()
            for replica in itertools.cycle(replicas):
                if not any(thread.is_alive() for thread in asking):
                    break
                if time.monotonic() > end:
                    found.lost.append(f"the clients have not come to an end within {limit_s:g} s: {found.answered}")
                    break
                if (status := replica.stop()) != 0:
                    found.lost.append(f"a replica ended with {status}")
                replica.start()
                found.restarts += 1
                time.sleep(NOTICED_S)
            for thread in asking:
                thread.join(max(1.0, end - time.monotonic()))
    finally:
        for replica in replicas:
            replica.kill()
    numbers, times = np.unique(_executed(executions), return_counts=True)
    found.doubled = int((times > 1).sum())
    if len(numbers) != 2 * count:
        found.lost.append(f"{len(numbers)} of {2 * count} requests were executed")
    return found
