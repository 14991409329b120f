"""Processes that a model forks and leaves running: connections, ports and other processes of the server end without
them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from server_process import ServerProcess, poll, running_server

MODEL = """
import os, signal, time
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            child = os.fork() if request.inputs()[0].as_numpy()[0] else 0
            if not child and request.inputs()[0].as_numpy()[0]:
                os.setsid()
                time.sleep(600)
                os._exit(0)
            told = np.array([child, os.getpid()], np.int32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", told)]))
        return responses
"""
CONFIG = """
backend: "python"
input { name: "IN" data_type: TYPE_INT32 dims: -1 }
output { name: "OUT" data_type: TYPE_INT32 dims: -1 }
"""
ISOLATED = 'parameters { key: "ISOLATION" value { string_value: "process" } }'


@pytest.fixture
def children() -> Iterator[list[int]]:
    """Those that are to be ended."""
    found: list[int] = []
    yield found
    for child in found:
        os.kill(child, signal.SIGKILL)


@contextmanager
def forking_server(tmp_path: Path, options: Sequence[str] = ()) -> Iterator[ServerProcess]:
    for name, more in (("inside", ""), ("outside", ISOLATED)):
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        (tmp_path / "models" / name / "1" / "model.py").write_text(MODEL)
        (tmp_path / "models" / name / "config.pbtxt").write_text(CONFIG + more)
    with running_server([tmp_path / "models"], tmp_path, options) as server:
        yield server


def post(connection: socket.socket, model: str, forks: bool, *fields: str) -> None:
    content = {"inputs": [{"name": "IN", "datatype": "INT32", "shape": [1], "data": [int(forks)]}]}
    body = json.dumps(content).encode()
    head = [f"POST /v2/models/{model}/infer HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *fields]
    connection.sendall("\r\n".join([*head, "", ""]).encode() + body)


def answer(connection: socket.socket) -> list[int]:
    """What the model said: its child, and its process."""
    got = b""
    while b"\r\n\r\n" not in got or len(got.partition(b"\r\n\r\n")[2]) < length(got):
        received = connection.recv(1 << 16)
        assert received, got
        got += received
    found: list[int] = json.loads(got.partition(b"\r\n\r\n")[2])["outputs"][0]["data"]
    return found


def length(got: bytes) -> int:
    fields = dict(line.lower().split(b": ", 1) for line in got.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:])
    return int(fields[b"content-length"])


def connected(where: str | tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
    sock.settimeout(30)
    sock.connect(where)
    return sock


def address(url: str) -> tuple[str, int]:
    host, _, port = url.rpartition(":")
    return host, int(port)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("options", [(), ("--http-address=::",), ("--http-address=0.0.0.0",), ("--model-processes=2",)])
def test_ports_and_connections_end_without_the_children_of_models(
    tmp_path: Path, children: list[int], options: tuple[str, ...]
) -> None:
    with forking_server(tmp_path, options) as server:
        where = address(server.http_url)
        with closing(connected(where)) as other, closing(connected(where)) as asking:
            post(other, "inside", False)
            answer(other)  # accepted
            for model in ("inside", "outside"):
                post(asking, model, True)
                children.append(answer(asking)[0])
            post(asking, "inside", False, "Connection: close")
            assert answer(asking)[0] == 0
            assert asking.recv(1) == b""
            server.stop()
            assert other.recv(1) == b""
        assert all(map(is_alive, children))
        for url in (server.http_url, server.grpc_url, server.metrics_url):
            with closing(socket.socket()) as own:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                own.bind(address(url))
                own.listen()


def test_connections_to_a_socket_file_end_without_the_children_of_models(tmp_path: Path, children: list[int]) -> None:
    path = tmp_path / "http"
    with forking_server(tmp_path) as server:
        server.stop()
    with running_server([tmp_path / "models"], tmp_path, [f"--http-address=unix:{path}"], plain_http=False) as server:
        with closing(connected(str(path))) as asking:
            post(asking, "inside", True)
            children.append(answer(asking)[0])
            post(asking, "inside", False, "Connection: close")
            answer(asking)
            assert asking.recv(1) == b""


@pytest.mark.parametrize("model", ["inside", "outside"])
@pytest.mark.parametrize("options", [(), ("--model-processes=2",), ("--frontend-processes=2",)])
def test_processes_of_the_server_end_with_it_and_not_with_the_children_of_models(
    tmp_path: Path, children: list[int], options: tuple[str, ...], model: str
) -> None:
    with forking_server(tmp_path, options) as server:
        with closing(connected(address(server.http_url))) as asking:
            post(asking, model, True)
            children.append(answer(asking)[0])
            workers = []
            for other in ("inside", "outside"):
                post(asking, other, False)
                workers.append(answer(asking)[1])
        os.kill(server.pid, signal.SIGKILL)
        poll(lambda: not any(map(is_alive, workers)), "workers to end with the server")
        assert is_alive(children[0])
        with closing(socket.socket()) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            poll(lambda: own.connect_ex(address(server.http_url)) != 0, "front-ends to end with the server")


def test_a_worker_ends_though_its_child_goes_on(tmp_path: Path, children: list[int]) -> None:
    with forking_server(tmp_path) as server, closing(connected(address(server.http_url))) as asking:
        post(asking, "outside", True)
        child, worker = answer(asking)
        children.append(child)
        links = [os.readlink(link) for link in Path(f"/proc/{worker}/fd").iterdir() if link.is_symlink()]
        sockets = {link for link in links if link.startswith("socket:")}
        assert sockets

        def held() -> set[str]:
            return {os.readlink(link) for link in Path(f"/proc/{child}/fd").iterdir()}

        poll(lambda: not sockets & held(), "the child to let go of its parent's sockets")
