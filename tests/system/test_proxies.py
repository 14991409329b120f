"""nginx and HAProxy in front, as their documents configure them: both protocols, small and large, errors, streams."""

from __future__ import annotations

import json
import queue
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from server_process import ServerProcess, free_ports, poll
from triton_clients import add_sub_rows, assert_add_sub, client_module, make_inputs
from tritonclient.utils import InferenceServerException

NGINX = """
daemon off; master_process off; pid nginx.pid; error_log error.log; events {{ }}
http {{
  access_log off; client_max_body_size 0;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  upstream http_port {{ server {http}; keepalive 8; }}
  upstream grpc_port {{ server {grpc}; keepalive 8; }}
  server {{
    listen 127.0.0.1:{http_front};
    location / {{ proxy_pass http://http_port; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
  server {{
    listen 127.0.0.1:{grpc_front} http2;
    location / {{ grpc_pass grpc://grpc_port; }}
  }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 10s
  timeout client 1m
  timeout server 1m
frontend http_front
  bind 127.0.0.1:{http_front}
  default_backend http_back
backend http_back
  server one {http}
frontend grpc_front
  bind 127.0.0.1:{grpc_front} proto h2
  default_backend grpc_back
backend grpc_back
  server one {grpc} proto h2
"""
ANSWER_SECONDS = 60


class Proxy:
    """Addresses of a proxy that is before the server, as `ServerProcess` has its own."""

    def __init__(self, http_url: str, grpc_url: str) -> None:
        self.http_url = http_url
        self.grpc_url = grpc_url

    def url(self, protocol: str) -> str:
        return self.http_url if protocol == "http" else self.grpc_url


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture(params=["nginx", "haproxy"])
def proxy(request: pytest.FixtureRequest, server: ServerProcess, tmp_path: Path) -> Iterator[Proxy]:
    name = request.param
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if program is None:
        pytest.skip(f"there is no {name} here")
    http_front, grpc_front = free_ports(2)
    text = NGINX if name == "nginx" else HAPROXY
    config = tmp_path / "proxy.conf"
    config.write_text(text.format(
        http=server.http_url, grpc=server.grpc_url, http_front=http_front, grpc_front=grpc_front
    ))  # fmt: skip
    options = ["-p", str(tmp_path), "-c"] if name == "nginx" else ["-db", "-f"]
    process = subprocess.Popen(
        [program, *options, str(config)], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        poll(lambda: is_open(http_front) and is_open(grpc_front), f"{name} to listen")
        yield Proxy(f"127.0.0.1:{http_front}", f"127.0.0.1:{grpc_front}")
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritonclient(proxy: Proxy, protocol: str) -> None:
    module = client_module(protocol)
    values = np.random.default_rng(2).random((1, 900_000), dtype=np.float32)
    with module.InferenceServerClient(proxy.url(protocol)) as client:
        assert client.is_server_ready()
        for number in range(30):
            arrays, expected = add_sub_rows(number, 1 + number % 8)
            assert_add_sub(client.infer("simple", make_inputs(module, arrays)), expected)
        answer = client.infer("identity_fp32", make_inputs(module, {"INPUT0": values}))
        assert np.array_equal(answer.as_numpy("OUTPUT0"), values)
        with pytest.raises(InferenceServerException, match="Request for unknown model: 'nobody' is not found"):
            client.infer("nobody", make_inputs(module, arrays))

    def ask(number: int) -> None:
        with module.InferenceServerClient(proxy.url(protocol)) as client:
            arrays, expected = add_sub_rows(number, 2)
            for _ in range(5):
                assert_add_sub(client.infer("simple", make_inputs(module, arrays)), expected)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(12)))


def test_a_grpc_stream(proxy: Proxy) -> None:
    module = client_module("grpc")
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    expected = {}
    with module.InferenceServerClient(proxy.grpc_url) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        for number in range(30):
            arrays, expected[str(number)] = add_sub_rows(number)
            client.async_stream_infer("simple", make_inputs(module, arrays), request_id=str(number))
        while expected:
            result, error = answers.get(timeout=ANSWER_SECONDS)
            assert error is None
            assert_add_sub(result, expected.pop(result.get_response().id))
        client.stop_stream()


def test_other_http_calls(proxy: Proxy) -> None:
    base = f"http://{proxy.http_url}"
    row = {"shape": [1, 16], "datatype": "INT32", "data": list(range(16))}
    body = json.dumps({"inputs": [{"name": "INPUT0", **row}, {"name": "INPUT1", **row}]}).encode()
    for data in (body, iter([body[:20], body[20:]])):
        answer = requests.post(f"{base}/v2/models/simple/infer", data=data, timeout=60)
        assert answer.json()["outputs"][0]["data"] == [2 * each for each in range(16)]
    wrong = requests.post(f"{base}/v2/models/simple/infer", data=b"{}", timeout=60)
    assert (wrong.status_code, wrong.headers["Content-Type"]) == (400, "application/json")
    words = {"prompt": "The old sailor", "max_words": 5, "temperature": 0.5, "seed": 1}
    stream = f"{base}/v2/models/text_generator/generate_stream"
    with requests.post(stream, json=words, stream=True, timeout=60) as events:
        assert events.headers["Content-Type"].startswith("text/event-stream")
        assert sum(line.startswith(b"data: ") for line in events.iter_lines()) == 5
    assert b"<script>" in requests.get(f"{base}/", timeout=60).content
