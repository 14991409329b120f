"""TLS on both ports of a real server: clients that are let in, clients that are not, large tensors, the end."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import certificates
import gevent.ssl
import numpy as np
import pytest
from certificates import Certificates, Pair
from server_process import STOP_SECONDS, ServerProcess, poll, running_server
from triton_clients import PROTOCOLS, add_sub_rows, assert_add_sub, client_module, make_inputs
from tritonclient.utils import InferenceServerException

SECONDS = 60


def options(certs: Certificates, switch: str = "use-ssl") -> list[str]:
    return [
        option
        for protocol in PROTOCOLS
        for option in (
            f"--{protocol}-{switch}=true",
            f"--{protocol}-server-cert={certs.server.cert}",
            f"--{protocol}-server-key={certs.server.key}",
            f"--{protocol}-root-cert={certs.authority.cert}",
        )
    ]


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("certificates"))


def serving(
    name: str, switch: str, certs: Certificates, models: list[Path], factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    with running_server(models, factory.mktemp(name), options(certs, switch), plain_http=False) as process:
        yield process
        process.stop()
        # What clients do wrong is no event for the log.
        assert "Traceback" not in process.output()
        assert not re.search(r"^E\d{4} ", process.output(), re.MULTILINE)


@pytest.fixture(scope="module")
def tls_server(
    certs: Certificates, example_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """Shows its certificate and asks for none."""
    yield from serving("tls", "use-ssl", certs, [example_models], tmp_path_factory)


@pytest.fixture(scope="module")
def mutual_server(
    certs: Certificates, example_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """Asks clients for theirs."""
    yield from serving("mutual", "use-ssl-mutual", certs, [example_models], tmp_path_factory)


@pytest.fixture(autouse=True)
def leaves_tls_servers_idle(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in ("tls_server", "mutual_server"):
        if name in request.fixturenames:
            request.getfixturevalue(name).wait_until_idle()


def http_client(server: ServerProcess, authority: Pair, own: Pair | None = None, **more: Any) -> Any:
    def context() -> Any:
        made = gevent.ssl.create_default_context(cafile=str(authority.cert))
        # The client compares the name by itself.
        made.check_hostname = False
        if own is not None:
            made.load_cert_chain(own.cert, own.key)
        return made

    return client_module("http").InferenceServerClient(
        server.http_url, ssl=True, ssl_context_factory=context, **more
    )


def grpc_client(server: ServerProcess, authority: Pair, own: Pair | None = None) -> Any:
    return client_module("grpc").InferenceServerClient(
        server.grpc_url,
        ssl=True,
        root_certificates=str(authority.cert),
        private_key=None if own is None else str(own.key),
        certificate_chain=None if own is None else str(own.cert),
    )


def tls_client(server: ServerProcess, protocol: str, authority: Pair, own: Pair | None = None) -> Any:
    return (http_client if protocol == "http" else grpc_client)(server, authority, own)


def raw_context(certs: Certificates, *alpn: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certs.authority.cert))
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def plain(url: str) -> socket.socket:
    host, port = url.split(":")
    return socket.create_connection((host, int(port)), timeout=SECONDS)


def raw(url: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(plain(url), server_hostname="localhost")


def https(server: ServerProcess, certs: Certificates) -> http.client.HTTPSConnection:
    host, port = server.http_url.split(":")
    return http.client.HTTPSConnection(host, int(port), context=raw_context(certs), timeout=SECONDS)


def assert_serves(client: Any, protocol: str, number: int = 1) -> None:
    arrays, expected = add_sub_rows(number, 2)
    assert client.is_server_ready()
    assert_add_sub(client.infer("simple", make_inputs(client_module(protocol), arrays)), expected)
    assert client.is_model_ready("simple")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_clients_are_served(tls_server: ServerProcess, certs: Certificates, protocol: str) -> None:
    with tls_client(tls_server, protocol, certs.authority) as client:
        for number in range(5):
            assert_serves(client, protocol, number)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_large_tensors_come_back_as_they_were(
    tls_server: ServerProcess, certs: Certificates, protocol: str
) -> None:
    values = np.random.default_rng(3).random((4, 3_000_000), dtype=np.float32)
    module = client_module(protocol)
    with tls_client(tls_server, protocol, certs.authority) as client:
        for rows in (4, 1):
            asked = values[:rows]
            result = client.infer("identity_fp32", make_inputs(module, {"INPUT0": asked}))
            assert np.array_equal(result.as_numpy("OUTPUT0"), asked)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_many_clients_at_once(tls_server: ServerProcess, certs: Certificates, protocol: str) -> None:
    module = client_module(protocol)

    def work(worker: int) -> None:
        with tls_client(tls_server, protocol, certs.authority) as client:
            for turn in range(20):
                shape = (1 + turn % 3, [3, 5_000, 70_000][(turn + worker) % 3])
                values = np.full(shape, worker * 100 + turn, dtype=np.float32)
                result = client.infer("identity_fp32", make_inputs(module, {"INPUT0": values}))
                assert np.array_equal(result.as_numpy("OUTPUT0"), values)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))


def test_grpc_stream(tls_server: ServerProcess, certs: Certificates) -> None:
    module = client_module("grpc")
    with grpc_client(tls_server, certs.authority) as client, ThreadPoolExecutor(1) as pool:
        answers: list[Any] = []
        client.start_stream(callback=lambda result, error: answers.append((result, error)))
        expected = []
        for number in range(20):
            arrays, wanted = add_sub_rows(number)
            expected.append(wanted)
            client.async_stream_infer("simple", make_inputs(module, arrays))
        pool.submit(client.stop_stream).result(SECONDS)
    for (result, error), wanted in zip(answers, expected, strict=True):
        assert error is None
        assert_add_sub(result, wanted)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("wrong", ["other authority", "other name"])
def test_clients_refuse_a_certificate_that_is_not_ours(
    tls_server: ServerProcess, certs: Certificates, protocol: str, wrong: str
) -> None:
    with ExitStack() as stack:
        if wrong == "other authority":
            client = stack.enter_context(tls_client(tls_server, protocol, certs.other))
            with pytest.raises((InferenceServerException, ssl.SSLError)):
                client.is_server_live()
        else:
            context = raw_context(certs)
            url = tls_server.url(protocol)
            with pytest.raises(ssl.SSLCertVerificationError):
                context.wrap_socket(stack.enter_context(plain(url)), server_hostname="elsewhere")
    with tls_client(tls_server, protocol, certs.authority) as client:
        assert_serves(client, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mutual_lets_in_who_shows_a_certificate(
    mutual_server: ServerProcess, certs: Certificates, protocol: str
) -> None:
    with tls_client(mutual_server, protocol, certs.authority, certs.client) as client:
        assert_serves(client, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("shown", [None, "stranger", "server"])
def test_mutual_refuses_all_others(
    mutual_server: ServerProcess, certs: Certificates, protocol: str, shown: str | None
) -> None:
    own = None if shown is None else getattr(certs, shown)
    with tls_client(mutual_server, protocol, certs.authority, own) as client:
        if shown == "server":
            # Ours, and not restricted to servers.
            assert_serves(client, protocol)
        else:
            with pytest.raises((InferenceServerException, OSError, http.client.HTTPException)):
                client.get_server_metadata()


@pytest.mark.parametrize("shown", [None, "stranger"])
def test_the_alert_says_why_a_client_is_refused(
    mutual_server: ServerProcess, certs: Certificates, shown: str | None
) -> None:
    context = raw_context(certs)
    if shown is not None:
        pair = getattr(certs, shown)
        context.load_cert_chain(pair.cert, pair.key)
    reasons = {None: "CERTIFICATE_REQUIRED", "stranger": "UNKNOWN_CA"}
    with raw(mutual_server.http_url, context) as connection:
        with pytest.raises(ssl.SSLError) as caught:
            connection.recv(1)
    assert reasons[shown] in str(caught.value)


PLAIN = (
    b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    b"\x16\x03\x01\x40\x00" + b"\x55" * 3000,
    b"\0" * 100,
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("data", PLAIN)
def test_what_is_not_tls_is_hung_up_on(
    tls_server: ServerProcess, certs: Certificates, protocol: str, data: bytes
) -> None:
    with plain(tls_server.url(protocol)) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := connection.recv(4096):
                answer += piece
        except ConnectionResetError:
            pass
    # At most an alert, type 21.
    assert answer[:1] in (b"", b"\x15")
    with tls_client(tls_server, protocol, certs.authority) as client:
        assert_serves(client, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_clients_that_leave_in_the_handshake(
    tls_server: ServerProcess, certs: Certificates, protocol: str
) -> None:
    hello, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    shy = raw_context(certs, "h2").wrap_bio(hello, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        shy.do_handshake()
    whole = outgoing.read()
    for length in (0, 1, len(whole) // 2, len(whole)):
        with plain(tls_server.url(protocol)) as connection:
            connection.sendall(whole[:length])
    with tls_client(tls_server, protocol, certs.authority) as client:
        assert_serves(client, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("version", "accepted"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_versions(
    tls_server: ServerProcess, certs: Certificates, protocol: str, version: ssl.TLSVersion, accepted: bool
) -> None:
    context = raw_context(certs, "h2", "http/1.1")
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    if not accepted:
        with pytest.raises(ssl.SSLError), plain(tls_server.url(protocol)) as connection:
            context.wrap_socket(connection, server_hostname="localhost")
        return
    with raw(tls_server.url(protocol), context) as secure:
        assert secure.selected_alpn_protocol() == ("http/1.1" if protocol == "http" else "h2")


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
def test_grpc_demands_http2_in_the_handshake(
    tls_server: ServerProcess, certs: Certificates, alpn: tuple[str, ...]
) -> None:
    with raw(tls_server.grpc_url, raw_context(certs, *alpn)) as connection:
        assert connection.recv(1) == b""


def infer_request(rows: int, columns: int) -> tuple[bytes, bytes]:
    """A request for an echo, and the bytes that come back in it."""
    data = np.random.default_rng(rows).random((rows, columns), dtype=np.float32).tobytes()
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "INPUT0",
                    "shape": [rows, columns],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": len(data)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    head = (
        f"POST /v2/models/identity_fp32/infer HTTP/1.1\r\nHost: here\r\n"
        f"Inference-Header-Content-Length: {len(header)}\r\nContent-Length: {len(header) + len(data)}\r\n\r\n"
    )
    return head.encode() + header + data, data


def test_both_lanes_share_a_connection(tls_server: ServerProcess, certs: Certificates) -> None:
    """Pipelined: an infer request, one for aiohttp, one more of the first kind."""
    first, first_data = infer_request(1, 1000)
    second, second_data = infer_request(2, 50_000)
    middle = b"GET /v2/models/simple HTTP/1.1\r\nHost: here\r\n\r\n"
    with raw(tls_server.http_url, raw_context(certs)) as connection:
        connection.sendall(first + middle + second)
        for wanted in (first_data, b'{"name":"simple"', second_data):
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert response.status == 200
            assert wanted in response.read()


def test_an_answer_waits_for_a_client_that_does_not_read(
    tls_server: ServerProcess, certs: Certificates
) -> None:
    request, data = infer_request(1, 6_000_000)
    host, port = tls_server.http_url.split(":")
    with socket.socket() as small:
        # Else the kernel may take all of it.
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        small.settimeout(SECONDS)
        small.connect((host, int(port)))
        connection = raw_context(certs).wrap_socket(small, server_hostname="localhost")
        connection.sendall(request)
        # Computed, and neither encrypted nor given up.
        poll(
            lambda: tls_server.live_objects()["lease"] == 1 and not tls_server.live_objects()["request"],
            "the answer to wait as a tensor",
        )
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.read().endswith(data)
        connection.close()


def test_a_client_leaves_with_its_answer_unread(tls_server: ServerProcess, certs: Certificates) -> None:
    request, _ = infer_request(1, 6_000_000)
    with raw(tls_server.http_url, raw_context(certs)) as connection:
        connection.sendall(request)
        assert connection.recv(1)
    tls_server.wait_until_idle()


def test_connection_close_sends_all_of_a_large_answer(tls_server: ServerProcess, certs: Certificates) -> None:
    request, data = infer_request(1, 4_000_000)
    closing_request = request.replace(b"Host: here\r\n", b"Host: here\r\nConnection: close\r\n", 1)
    with raw(tls_server.http_url, raw_context(certs)) as connection:
        connection.sendall(closing_request)
        pieces = []
        # An end without a close_notify would raise.
        while piece := connection.recv(1 << 20):
            pieces.append(piece)
    assert b"".join(pieces).endswith(data)


def test_sigterm_with_idle_and_half_made_connections(
    certs: Certificates, example_models: Path, tmp_path: Path
) -> None:
    """None of these clients answers the close_notify; the server does not wait for that."""
    patience = f"--exit-timeout-secs={int(STOP_SECONDS) * 2}"
    with ExitStack() as stack:
        server = stack.enter_context(
            running_server([example_models], tmp_path, [*options(certs), patience], plain_http=False)
        )
        for url, alpn in ((server.http_url, "http/1.1"), (server.grpc_url, "h2")):
            stack.enter_context(raw(url, raw_context(certs, alpn)))
            stack.enter_context(plain(url))
        connection = stack.enter_context(closing(https(server, certs)))
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().read() == b""
        client = stack.enter_context(grpc_client(server, certs.authority))
        assert client.is_server_live()
        server.stop()


def refusal(folder: Path, arguments: list[str]) -> str:
    process = ServerProcess([folder], folder, arguments)
    try:
        assert process.exit_status() == 1
        return process.output()
    finally:
        process.kill()


def test_a_server_with_a_wrong_key_does_not_start(certs: Certificates, tmp_path: Path) -> None:
    arguments = [
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={certs.server.cert}",
        f"--grpc-server-key={certs.client.key}",
    ]
    output = refusal(tmp_path, arguments)
    assert "--grpc-server-key" in output
    assert "is not the key of the certificate" in output
    assert "Traceback" not in output
