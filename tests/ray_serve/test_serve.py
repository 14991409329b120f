"""Ray Serve on two nodes answers v2 HTTP and gRPC as our ports do, and survives deaths, updates and changing models."""

from __future__ import annotations

import json
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed here: make ray")

import tritonclient.grpc as grpc_client  # noqa: E402
import tritonclient.http as http_client  # noqa: E402
from ray import serve  # noqa: E402
from ray_models import Ports, write_identity, write_python  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

import triton_async.ray as served  # noqa: E402

VALUES = np.float32([1, 2, 3])
QUIET = {"logging_config": {"enable_access_log": False}}
SMALL = {"ray_actor_options": {"num_cpus": 0.5}, **QUIET}
BODY = json.dumps({"inputs": [{"name": "INPUT0", "shape": [3], "datatype": "FP32", "data": [1, 2, 3]}]}).encode()


def until(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.1)


def infer(client: Any, module: Any, model: str, values: np.ndarray = VALUES) -> Any:
    given = module.InferInput("INPUT0", list(values.shape), "FP32")
    given.set_data_from_numpy(values)
    return client.infer(model, [given])


def post(port: int, model: str, timeout: float = 60) -> list[float]:
    """What a model makes of [1, 2, 3]. OSError when it fails."""
    sent = urllib.request.Request(f"http://127.0.0.1:{port}/v2/models/{model}/infer", BODY)
    with urllib.request.urlopen(sent, timeout=timeout) as answer:
        return list(json.load(answer)["outputs"][0]["data"])


def raw(port: int, path: str, body: bytes | None = None, headers: Any = ()) -> tuple[int, bytes]:
    sent = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, dict(headers))
    try:
        with urllib.request.urlopen(sent, timeout=60) as answer:
            return int(answer.status), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def replicas() -> int:
    deployments = serve.status().applications["default"].deployments
    return sum(int(count) for state, count in deployments["TritonAsync"].replica_states.items() if state == "RUNNING")


@pytest.fixture(scope="module")
def plain(ports: Ports, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """Two models, one replica."""
    root = tmp_path_factory.mktemp("models")
    write_identity(root, "m")
    write_python(root, "python")
    serve.run(served.deployment(repository=str(root), **SMALL))
    yield ports
    serve.delete("default")


def test_http_clients_are_answered(plain: Ports) -> None:
    with http_client.InferenceServerClient(f"127.0.0.1:{plain.http}") as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("m")
        assert client.get_model_metadata("m")["inputs"][0]["name"] == "INPUT0"
        assert client.get_model_config("m")["backend"] == "identity"
        assert infer(client, http_client, "m").as_numpy("OUTPUT0").tolist() == [1, 2, 3]
        assert infer(client, http_client, "python").as_numpy("OUTPUT0").tolist()[:3] == [1, 2, 3]
        large = np.arange(1 << 20, dtype=np.float32)
        assert np.array_equal(infer(client, http_client, "m", large).as_numpy("OUTPUT0"), large)
        with pytest.raises(InferenceServerException, match="unknown model: 'nope' is not found"):
            infer(client, http_client, "nope")
        assert {row["name"] for row in client.get_model_repository_index()} == {"m", "python"}
        (statistics,) = client.get_inference_statistics("m")["model_stats"]
        assert statistics["inference_count"] == 2


def test_http_statuses_and_errors_are_ours(plain: Ports) -> None:
    assert raw(plain.http, "/v2/models/m/infer", b"{") [0] == 400
    status, body = raw(plain.http, "/v2/models/m/infer", BODY.replace(b"[3]", b"[4]"))
    assert status == 400 and "error" in json.loads(body)
    assert raw(plain.http, "/v2/nothing")[0] == 404
    assert raw(plain.http, "/v2/health/ready", headers=[("Accept", "application/json")]) == (200, b'{"ready":true}')
    status, page = raw(plain.http, "/")
    assert status == 200 and b"<html" in page[:200].lower()


def test_generate_is_answered_whole_and_as_events(plain: Ports) -> None:
    assert json.loads(raw(plain.http, "/v2/models/m/generate", b'{"INPUT0": [1, 2]}')[1])["OUTPUT0"] == [1, 2]
    status, events = raw(plain.http, "/v2/models/m/generate_stream", b'{"INPUT0": [1, 2]}')
    assert status == 200 and events.startswith(b"data: ")


def test_grpc_clients_are_answered(plain: Ports) -> None:
    with grpc_client.InferenceServerClient(f"127.0.0.1:{plain.grpc}") as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("m")
        assert client.get_server_metadata().name == "triton"
        assert client.get_model_config("m").config.backend == "identity"
        assert infer(client, grpc_client, "m").as_numpy("OUTPUT0").tolist() == [1, 2, 3]
        with pytest.raises(InferenceServerException, match="unknown model: 'nope' is not found") as failed:
            infer(client, grpc_client, "nope")
        assert failed.value.status() == "StatusCode.NOT_FOUND"


def test_grpc_streams_are_answered(plain: Ports) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    given = grpc_client.InferInput("INPUT0", [3], "FP32")
    given.set_data_from_numpy(VALUES)
    with grpc_client.InferenceServerClient(f"127.0.0.1:{plain.grpc}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for model in ("m", "nope", "python"):
            client.async_stream_infer(model, [given])
        found = [answers.get(timeout=60) for _ in range(3)]
        client.stop_stream()
    assert [error is None for _, error in found] == [True, False, True]
    assert "unknown model: 'nope'" in str(found[1][1])


def test_health_is_answered_over_grpc(plain: Ports) -> None:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(f"127.0.0.1:{plain.grpc}") as channel:
        found = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert found.status == health_pb2.HealthCheckResponse.SERVING


class Load:
    """Clients that ask one after the other until told to stop."""

    def __init__(self, port: int, model: str, clients: int) -> None:
        self.answers: list[list[float]] = []
        self.failures: list[tuple[float, str]] = []
        self._port, self._model = port, model
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._running = [self._pool.submit(self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(post(self._port, self._model))
            except (OSError, urllib.error.HTTPError) as error:
                self.failures.append((time.monotonic(), str(error)))

    def stop(self) -> None:
        self._stop.set()
        for one in self._running:
            one.result(120)
        self._pool.shutdown()


def processes(answers: list[list[float]]) -> set[float]:
    return {answer[-1] for answer in answers}


def test_a_replica_that_dies_loses_at_most_what_it_had(ports: Ports, tmp_path: Path) -> None:
    write_python(tmp_path, "slow", delay_ms=20)
    serve.run(served.deployment(repository=str(tmp_path), num_replicas=2, health_check_period_s=1, **SMALL))
    clients = 6
    load = Load(ports.http, "slow", clients)
    try:
        until(lambda: len(processes(load.answers[-40:])) == 2, "answers of both replicas")
        (victim, *_) = [
            actor for actor in ray.util.list_named_actors(all_namespaces=True) if "TritonAsync" in actor["name"]
        ]
        ray.kill(ray.get_actor(victim["name"], namespace=victim["namespace"]))
        seen = len(load.answers)
        until(lambda: replicas() == 2 and len(load.answers) > seen + 40, "another one")
        until(lambda: len(processes(load.answers[-40:])) == 2, "answers of both again")
    finally:
        load.stop()
    # Each client waits for one request at a time: what the dead one had in work is no more than theirs.
    assert len(load.failures) <= clients, load.failures
    assert len(processes(load.answers)) == 3
    serve.delete("default")


def test_an_update_replaces_replicas_without_a_lost_request(ports: Ports, tmp_path: Path) -> None:
    for times in (1, 2):
        write_python(tmp_path / str(times), "m", delay_ms=5, times=times)
    serve.run(served.deployment(repository=str(tmp_path / "1"), num_replicas=2, **SMALL))
    load = Load(ports.http, "m", 4)
    try:
        until(lambda: len(load.answers) > 20, "answers")
        serve.run(served.deployment(repository=str(tmp_path / "2"), num_replicas=2, **SMALL))
        seen = len(load.answers)
        until(lambda: len(load.answers) > seen + 20, "more answers")
    finally:
        load.stop()
    assert load.failures == []
    assert load.answers[0][:3] == [1, 2, 3] and load.answers[-1][:3] == [2, 4, 6]
    serve.delete("default")


def test_models_are_loaded_on_demand_and_the_least_recently_used_leaves(ports: Ports, tmp_path: Path) -> None:
    write_identity(tmp_path, "a", "b", "c")
    serve.run(served.deployment(repository=str(tmp_path), models_per_replica=2, **SMALL))

    def loaded() -> set[str]:
        rows = json.loads(raw(ports.http, "/v2/repository/index", b"")[1])
        return {row["name"] for row in rows if row.get("state") == "READY"}

    assert loaded() == set()
    for name, there in (("a", {"a"}), ("b", {"a", "b"}), ("a", {"a", "b"}), ("c", {"a", "c"}), ("b", {"b", "c"})):
        assert post(ports.http, name) == [1, 2, 3]
        until(lambda expected=there: loaded() == expected, f"{there}")  # type: ignore[misc]
    # What is not in the repository has nobody leave.
    status, body = raw(ports.http, "/v2/models/nope/infer", BODY)
    assert status == 404 and b"unknown model" in body
    assert loaded() == {"b", "c"}
    with grpc_client.InferenceServerClient(f"127.0.0.1:{ports.grpc}") as client:
        assert client.get_model_metadata("a").name == "a"
        assert infer(client, grpc_client, "b").as_numpy("OUTPUT0").tolist() == [1, 2, 3]
        until(lambda: loaded() == {"a", "b"}, "a and b")
    with ThreadPoolExecutor(6) as pool:  # more at once than may be there
        assert all(answer == [1, 2, 3] for answer in pool.map(lambda n: post(ports.http, "abc"[n % 3]), range(60)))
    serve.delete("default")


def test_replicas_come_and_go_with_what_waits(ports: Ports, tmp_path: Path) -> None:
    write_python(tmp_path, "slow", delay_ms=50)
    scaling = {"min_replicas": 1, "max_replicas": 2, "upscale_delay_s": 1, "downscale_delay_s": 2,
               "metrics_interval_s": 0.5, "look_back_period_s": 2,
               "policy": {"policy_function": "triton_async.ray:QueuePolicy", "policy_kwargs": {"target_pending": 4}},
               }  # fmt: skip
    serve.run(served.deployment(repository=str(tmp_path), autoscaling_config=scaling, **SMALL))
    assert replicas() == 1
    load = Load(ports.http, "slow", 10)
    try:
        until(lambda: replicas() == 2, "a second replica")
    finally:
        load.stop()
    assert load.failures == []
    until(lambda: replicas() == 1, "one replica again")
    assert post(ports.http, "slow")[:3] == [1, 2, 3]
    serve.delete("default")


def test_a_config_file_serves(ports: Ports, tmp_path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    write_identity(tmp_path, "m")
    application = {
        "name": "default", "route_prefix": "/models", "import_path": "triton_async.ray:app",
        "args": {"repository": str(tmp_path), "model": "m", "options": {"id": "ours"}},
        "deployments": [{"name": "TritonAsync", "num_replicas": 1, "ray_actor_options": {"num_cpus": 0.5}}],
    }  # fmt: skip
    config = ServeDeploySchema.parse_obj({"applications": [application]})
    serve.context._get_global_client().deploy_apps(config)
    until(lambda: serve.status().applications["default"].status == "RUNNING", "the application")
    until(lambda: raw(ports.http, "/models/v2/health/ready")[0] == 200, "its route")
    assert json.loads(raw(ports.http, "/models/v2")[1])["name"] == "ours"
    assert raw(ports.http, "/models/v2/models/m/infer", BODY)[0] == 200
    serve.delete("default")


def test_a_replica_whose_models_cannot_be_loaded_says_why(ports: Ports, tmp_path: Path) -> None:
    (tmp_path / "wrong" / "1").mkdir(parents=True)
    (tmp_path / "wrong" / "config.pbtxt").write_text('backend: "no_such_backend"\n')
    with pytest.raises(RuntimeError):
        serve.run(served.deployment(repository=str(tmp_path), max_constructor_retry_count=1, **SMALL))
    message = serve.status().applications["default"].deployments["TritonAsync"].message
    assert "failed to load all models" in message and "no_such_backend" in message
    serve.delete("default")
