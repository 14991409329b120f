"""Servers that share a response cache in a real Redis server, with real clients."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from server_process import ServerProcess, poll, running_server

sys.path.append(str(Path(__file__).resolve().parents[1]))

import certificates
from redis_server import RedisServer, redis_server

CONFIG = """
    backend: "identity"
    max_batch_size: 4
    input { name: "INPUT0" data_type: TYPE_STRING dims: -1 }
    output { name: "OUTPUT0" data_type: TYPE_STRING dims: -1 }
    response_cache { enable: true }
"""
HITS, MISSES = (f'nv_cache_num_{what}_per_model{{model="m",version="1"}}' for what in ("hits", "misses"))
# A busy machine is no slow Redis.
PATIENT = ("--cache-config=redis,socket_timeout=10000", "--cache-config=redis,connect_timeout=10000")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "config.pbtxt").write_text(CONFIG)
    return tmp_path / "models"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, "--requirepass", "top,secret=1") as server:
        yield server


def infer(server: ServerProcess, protocol: str, text: str) -> bytes:
    module = http_client if protocol == "http" else grpc_client
    with module.InferenceServerClient(server.url(protocol)) as client:
        tensor = module.InferInput("INPUT0", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[text]], object))
        answer: bytes = client.infer("m", [tensor]).as_numpy("OUTPUT0")[0, 0]
        return answer


def is_up(server: ServerProcess) -> bool:
    return server.metrics()["triton_async_cache_up"] == 1


@pytest.mark.parametrize("place", ["port", "socket file"])
def test_servers_share_answers(
    repository: Path, redis: RedisServer, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"host=unix:{redis.path}" if place == "socket file" else f"host=127.0.0.1,port={redis.port}"
    options = [f"--cache-config=redis,{where}", "--cache-config=redis,user=default", *PATIENT]
    if place == "port":
        options.append("--cache-config=redis,password=top,secret=1,db=3")
    else:
        monkeypatch.setenv("TRITONCACHE_REDIS_PASSWORD", "top,secret=1")
    monkeypatch.setenv("REDISCLI_AUTH", "top,secret=1")
    for number, protocol in enumerate(("http", "grpc")):
        with running_server([repository], tmp_path, options) as server:
            poll(lambda: is_up(server), "the connection to Redis")
            assert infer(server, protocol, "shared") == b"shared"
            metrics = server.metrics()
            assert (metrics[HITS], metrics[MISSES]) == (number, 1 - number)
            poll(lambda: b"db" in redis.run("info", "keyspace"), "the answer to be kept")
            assert "secret" not in server.output()
            server.stop()


def test_redis_that_dies_and_comes_back_loses_no_request(
    repository: Path, redis: RedisServer, tmp_path: Path
) -> None:
    options = [f"--cache-config=redis,host=127.0.0.1,port={redis.port},password=top,secret=1", *PATIENT]
    with running_server([repository], tmp_path, options) as server:
        poll(lambda: is_up(server), "the connection to Redis")
        for number in range(5):
            assert infer(server, "http", str(number)) == b"%d" % number
        redis.kill()
        for number in range(5):
            assert infer(server, "grpc", str(number)) == b"%d" % number
        assert not is_up(server)
        redis.start()
        poll(lambda: is_up(server), "Redis to be found again")
        assert server.output().count("is away") == 1
        server.wait_until_idle()
        server.stop()


def test_a_password_that_is_wrong_ends_the_start(repository: Path, redis: RedisServer, tmp_path: Path) -> None:
    where = f"--cache-config=redis,host=127.0.0.1,port={redis.port}"
    for more, text in (("", "Authentication required"), (",password=wrong", "invalid username-password pair")):
        server = ServerProcess([repository], tmp_path, [where + more, *PATIENT])
        assert server.exit_status() == 1
        assert "error: creating server: Internal - Failed to initialize RedisCache: " in server.output()
        assert text in server.output()


def test_redis_that_is_not_there_is_no_reason_not_to_start(
    repository: Path, redis: RedisServer, tmp_path: Path
) -> None:
    redis.kill()
    options = [f"--cache-config=redis,host=127.0.0.1,port={redis.port}"]
    with running_server([repository], tmp_path, options) as server:
        assert infer(server, "http", "alone") == b"alone"
        assert "is away: " in server.output()
        assert server.metrics()['triton_async_cache_failures_total{operation="lookup",reason="away"}'] == 1
        server.stop()


def test_tls(repository: Path, tmp_path: Path) -> None:
    made = certificates.make(tmp_path)
    tls = [
        "--tls-port", "{port}", "--port", "0", "--tls-cert-file", str(made.server.cert), "--tls-key-file",
        str(made.server.key), "--tls-ca-cert-file", str(made.authority.cert), "--tls-auth-clients", "yes",
    ]  # fmt: skip
    with redis_server(tmp_path) as plain:
        port = str(plain.port)
        plain.kill()
        with redis_server(tmp_path, *(port if text == "{port}" else text for text in tls)):
            good = f"--cache-config=redis,host=127.0.0.1,port={port},cacert={made.authority.cert}"
            client = f",cert={made.client.cert},key={made.client.key}"
            with running_server([repository], tmp_path, [good + client, *PATIENT]) as server:
                poll(lambda: is_up(server), "the connection to Redis")
                for _ in range(2):
                    assert infer(server, "http", "encrypted") == b"encrypted"
                server.stop()
            other = f"--cache-config=redis,host=127.0.0.1,port={port},cacert={made.other.cert}"
            with running_server([repository], tmp_path, [other + client, *PATIENT]) as server:
                assert infer(server, "http", "alone") == b"alone"
                assert not is_up(server)
                assert "is away: " in server.output()
                server.stop()


def test_without_the_package_the_start_says_what_to_install(repository: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['redis'] = None")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(hidden), before]))
    try:
        server = ServerProcess([repository], tmp_path, ["--cache-config=redis,host=127.0.0.1,port=1"])
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    assert server.exit_status() == 1
    assert "pip install 'triton-async[redis]'" in server.output()
