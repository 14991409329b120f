"""Unix-domain sockets instead of ports: both protocols and metrics, TLS on top, the socket file's life."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import ssl
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import certificates
import numpy as np
import pytest
from server_process import ServerProcess, poll, running_server
from triton_clients import add_sub_rows, assert_add_sub, client_module, make_inputs

SECONDS = 60


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a socket file; `context`: TLS on it."""

    def __init__(self, path: Path, context: ssl.SSLContext | None = None) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path
        self._context = context

    def connect(self) -> None:
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        plain.settimeout(SECONDS)
        plain.connect(str(self._path))
        self.sock = plain if self._context is None else self._context.wrap_socket(plain, server_hostname="localhost")


def get(path: Path, target: str, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    connection = UnixConnection(path, context)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def infer_http(path: Path, values: np.ndarray[Any, Any], context: ssl.SSLContext | None = None) -> None:
    """An echo through tritonclient's own encoding, over a socket file, which it cannot open itself."""
    module = client_module("http")
    tensor = module.InferInput("INPUT0", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    body, length = module.InferenceServerClient.generate_request_body([tensor])
    connection = UnixConnection(path, context)
    try:
        for _ in range(2):
            connection.request(
                "POST", "/v2/models/identity_fp32/infer", body, {"Inference-Header-Content-Length": str(length)}
            )
            response = connection.getresponse()
            answer = response.read()
            assert response.status == 200
            result = module.InferenceServerClient.parse_response_body(
                answer, header_length=int(response.headers["Inference-Header-Content-Length"])
            )
            assert np.array_equal(result.as_numpy("OUTPUT0"), values)
    finally:
        connection.close()


class Sockets:
    """Where one server listens."""

    def __init__(self, folder: Path) -> None:
        self.http = folder / "http.sock"
        self.grpc = folder / "grpc.sock"
        self.metrics = folder / "metrics.sock"
        self.options = [
            f"--http-address=unix:{self.http}",
            f"--grpc-address=unix:{self.grpc}",
            f"--metrics-address=unix:{self.metrics}",
        ]

    def all(self) -> list[Path]:
        return [self.http, self.grpc, self.metrics]


class UnixServer(ServerProcess):
    """A server without any port; its folder has the socket files."""

    def __init__(self, repositories: Sequence[Path], folder: Path, options: Sequence[str]) -> None:
        self.sockets = Sockets(folder)
        super().__init__(repositories, folder, [*self.sockets.options, *options])

    def metrics_text(self) -> str:
        status, body = get(self.sockets.metrics, "/metrics")
        assert status == 200
        return body.decode()


@pytest.fixture(scope="module")
def unix_server(example_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnixServer]:
    folder = tmp_path_factory.mktemp("unix")
    with running_server([example_models], folder, make=UnixServer, plain_http=False) as server:
        assert isinstance(server, UnixServer)
        yield server
        server.wait_until_idle()
        server.stop()
        assert not [path for path in server.sockets.all() if path.exists()]


def test_http(unix_server: UnixServer) -> None:
    assert get(unix_server.sockets.http, "/v2/health/ready") == (200, b"")
    infer_http(unix_server.sockets.http, np.random.default_rng(1).random((2, 16), dtype=np.float32))
    infer_http(unix_server.sockets.http, np.random.default_rng(2).random((2, 2_000_000), dtype=np.float32))


def test_curl(unix_server: UnixServer) -> None:
    curl = shutil.which("curl")
    assert curl is not None
    command = [curl, "-sf", "--unix-socket", str(unix_server.sockets.http), "http://localhost/v2/models/simple"]
    assert b'"name":"simple"' in subprocess.run(command, check=True, capture_output=True, timeout=SECONDS).stdout


@pytest.mark.parametrize("prefix", ["unix:", "unix://"])
def test_grpc(unix_server: UnixServer, prefix: str) -> None:
    module = client_module("grpc")
    values = np.random.default_rng(3).random((2, 2_000_000), dtype=np.float32)
    with module.InferenceServerClient(f"{prefix}{unix_server.sockets.grpc}") as client:
        assert client.is_server_ready()
        arrays, expected = add_sub_rows(1)
        assert_add_sub(client.infer("simple", make_inputs(module, arrays)), expected)
        result = client.infer("identity_fp32", make_inputs(module, {"INPUT0": values}))
        assert np.array_equal(result.as_numpy("OUTPUT0"), values)


def test_log_lines_name_the_files(unix_server: UnixServer) -> None:
    output = unix_server.output()
    for service, path in (
        ("GRPCInferenceService", unix_server.sockets.grpc),
        ("HTTPService", unix_server.sockets.http),
        ("Metrics Service", unix_server.sockets.metrics),
    ):
        assert f'"Started {service} at unix:{path}"\n' in output


def test_others_may_not_connect(unix_server: UnixServer) -> None:
    for path in unix_server.sockets.all():
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) & 0o007 == 0
        assert path.stat().st_uid == os.getuid()


def test_a_second_server_does_not_take_the_file(unix_server: UnixServer, tmp_path: Path) -> None:
    second = UnixServer([tmp_path], tmp_path, [f"--grpc-address=unix:{unix_server.sockets.grpc}"])
    try:
        assert second.exit_status() == 1
        assert f"Socket 'unix:{unix_server.sockets.grpc}' already in use" in second.output()
    finally:
        second.kill()
    test_grpc(unix_server, "unix:")


def test_a_killed_server_leaves_a_file_that_the_next_one_replaces(example_models: Path, tmp_path: Path) -> None:
    sockets = Sockets(tmp_path)
    with running_server([example_models], tmp_path, make=UnixServer, plain_http=False) as first:
        first.kill()
        assert all(path.is_socket() for path in sockets.all())
    with running_server([example_models], tmp_path, make=UnixServer, plain_http=False) as second:
        infer_http(sockets.http, np.ones((1, 4), np.float32))
        second.stop()
    assert not [path for path in sockets.all() if path.exists()]


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    process = UnixServer([tmp_path], tmp_path, [f"--http-address=unix:{path}"])
    try:
        assert process.exit_status() == 1
        assert "the path exists and is not a socket" in process.output()
    finally:
        process.kill()
    assert path.read_text() == "data"


def test_tls_on_a_socket_file(example_models: Path, tmp_path: Path) -> None:
    certs = certificates.make(tmp_path)
    sockets = Sockets(tmp_path)
    options = [
        *sockets.options[:2],
        *(f"--{protocol}-use-ssl=true" for protocol in ("http", "grpc")),
        *(f"--{protocol}-server-cert={certs.server.cert}" for protocol in ("http", "grpc")),
        *(f"--{protocol}-server-key={certs.server.key}" for protocol in ("http", "grpc")),
    ]
    values = np.random.default_rng(4).random((1, 500_000), dtype=np.float32)
    context = ssl.create_default_context(cafile=str(certs.authority.cert))
    module = client_module("grpc")
    with running_server([example_models], tmp_path, options, plain_http=False) as server:
        infer_http(sockets.http, values, context)
        client = module.InferenceServerClient(
            f"unix:{sockets.grpc}",
            ssl=True,
            root_certificates=str(certs.authority.cert),
            # A path is no name that a certificate could be for.
            channel_args=[("grpc.ssl_target_name_override", "localhost")],
        )
        with client:
            result = client.infer("identity_fp32", make_inputs(module, {"INPUT0": values}))
            assert np.array_equal(result.as_numpy("OUTPUT0"), values)
        poll(lambda: not any(server.live_objects().values()), "the live objects to go")
        server.stop()
