"""SIGTERM: what is in flight is answered, idle connections hold nothing up, the exit status is 0."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
import sequence_models
from server_process import STOP_SECONDS, ServerProcess, poll, running_server
from triton_clients import PROTOCOLS, client_module, infer
from tritonclient.utils import InferenceServerException

# About a second of computing each.
ROUNDS = 1500
# Longer than the test waits: a server that sits out its exit timeout fails.
OPTIONS = [f"--exit-timeout-secs={int(STOP_SECONDS) * 2}"]


def ask_slow(server: ServerProcess, protocol: str, rounds: int) -> int:
    (done,) = infer(server, protocol, "slow", {"ROUNDS": np.array([rounds], dtype=np.int64)}, ["DONE"])
    return int(done[0])


@pytest.fixture
def own_server(extra_models: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that the test may stop."""
    with running_server([extra_models], tmp_path, OPTIONS) as process:
        yield process


def test_requests_in_flight_are_answered(own_server: ServerProcess) -> None:
    with ThreadPoolExecutor(4) as pool:
        protocols = PROTOCOLS * 2
        pending = [
            pool.submit(ask_slow, own_server, protocol, ROUNDS + number)
            for number, protocol in enumerate(protocols)
        ]
        poll(lambda: own_server.live_objects()["request"] == len(pending), "all requests to arrive")
        own_server.terminate()
        assert [request.result(STOP_SECONDS) for request in pending] == [
            ROUNDS + number for number in range(len(pending))
        ]
    own_server.stop()


def test_idle_connections_do_not_hold_it_up(own_server: ServerProcess) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(closing(http.client.HTTPConnection(own_server.http_url)))
            connection.request("GET", "/v2/health/live")
            assert connection.getresponse().read() == b""
        # One that has sent nothing yet.
        silent = stack.enter_context(closing(http.client.HTTPConnection(own_server.http_url)))
        silent.connect()
        grpc = client_module("grpc")
        client = stack.enter_context(grpc.InferenceServerClient(own_server.grpc_url))
        assert client.is_server_live()
        streaming = stack.enter_context(grpc.InferenceServerClient(own_server.grpc_url))
        streaming.start_stream(callback=lambda result, error: None)
        assert streaming.is_server_live()
        own_server.stop()


def test_sigterm_when_idle(own_server: ServerProcess) -> None:
    assert not any(own_server.live_objects().values())
    own_server.stop()


def test_what_still_runs_when_the_time_is_up_is_given_up_and_answered(extra_models: Path, tmp_path: Path) -> None:
    # Minutes of computing: far beyond the exit timeout.
    rounds = ROUNDS * 200
    with running_server([extra_models], tmp_path, ["--exit-timeout-secs=4"]) as server:
        with ThreadPoolExecutor(2) as pool:
            pending = [pool.submit(ask_slow, server, protocol, rounds) for protocol in PROTOCOLS]
            poll(lambda: server.live_objects()["request"] == len(pending), "all requests to arrive")
            server.terminate()
            for request in pending:
                with pytest.raises(InferenceServerException, match="given up"):
                    request.result(STOP_SECONDS)
        server.stop()


def test_a_client_that_does_not_read_its_answer_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "models" / "same" / "1").mkdir(parents=True)
    (tmp_path / "models" / "same" / "config.pbtxt").write_text("""
        backend: "identity"
        input { name: "INPUT0" data_type: TYPE_FP32 dims: -1 }
        output { name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }
    """)
    count = 16 << 20
    entry = {"name": "INPUT0", "datatype": "FP32", "shape": [count], "parameters": {"binary_data_size": 4 * count}}
    header = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    with running_server([tmp_path / "models"], tmp_path, ["--exit-timeout-secs=4"]) as server:
        with closing(http.client.HTTPConnection(server.http_url)) as client:
            client.request("POST", "/v2/models/same/infer", header + bytes(4 * count), {
                "Inference-Header-Content-Length": str(len(header)),
            })  # fmt: skip
            with closing(client.getresponse()):
                server.stop()
        assert "successfully unloaded 'same' version 1" in server.output()


def test_sequences_that_have_begun_come_to_their_ends(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    sequence_models.build(repository)
    with running_server([repository], tmp_path, [*OPTIONS, "--exit-grace-secs=0"]) as server:
        clients = {name: client_module(name) for name in PROTOCOLS}

        def ask(protocol: str, sequence: int, *, start: bool = False, end: bool = False) -> float:
            module = clients[protocol]
            tensor = module.InferInput("X", [1, 1], "FP32")
            tensor.set_data_from_numpy(np.ones((1, 1), np.float32))
            with module.InferenceServerClient(server.url(protocol)) as client:
                result = client.infer("python", [tensor], sequence_id=sequence, sequence_start=start, sequence_end=end)
                return float(result.as_numpy("Y")[0, 0])

        for number, protocol in enumerate(PROTOCOLS, 1):
            assert ask(protocol, number, start=True) == 1
        server.terminate()
        poll(lambda: "no other requests are taken" in server.output(), "the server to see its sequences off")
        for number, protocol in enumerate(PROTOCOLS, 1):
            for sequence, start in ((99, True), (number, True), (98, False)):
                with pytest.raises(InferenceServerException, match="Server is stopping, scheduler for model has"):
                    ask(protocol, sequence, start=start)
            assert ask(protocol, number) == 2
            assert ask(protocol, number, end=True) == 3
        server.stop()
