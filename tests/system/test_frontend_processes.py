"""A server with several front-end processes answers as one with its own, byte for byte, and outlives them."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import queue
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import front_end_models
import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from front_end_processes import front_ends, wait_for_metric, wait_until_idle
from server_process import ServerProcess, poll, running_server
from tritonclient.grpc import service_pb2
from tritonclient.utils import shared_memory as shm

COUNT = 2
SEVERAL = f"--frontend-processes={COUNT}"
OPTIONS = ["--model-control-mode=explicit", "--load-model=*", "--allow-client-shm=true"]
# Connections after which each front-end has had one, but for a chance of one in a million.
CONNECTIONS = 20
LARGE = np.arange(1 << 18, dtype=np.float32).reshape(1, -1)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    front_end_models.build(root)
    return root


@pytest.fixture(scope="module")
def one(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server([repository], tmp_path_factory.mktemp("one"), OPTIONS) as server:
        yield server


@pytest.fixture(scope="module")
def two(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server([repository], tmp_path_factory.mktemp("two"), [*OPTIONS, SEVERAL]) as server:
        yield server
        wait_until_idle(server)
        server.stop()
        assert not front_ends(server)


def call(server: ServerProcess, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any, bytes]:
    """Over a connection of its own: status, headers but for the date, body."""
    connection = http.client.HTTPConnection(server.http_url, timeout=30)
    try:
        connection.request(method, path, body or None, {name.replace("_", "-"): v for name, v in headers.items()})
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, sorted(h for h in answer.getheaders() if h[0] != "Date"), data
    finally:
        connection.close()


def as_json(**request: Any) -> bytes:
    return json.dumps(request).encode()


def tensor(values: list[Any], datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": "INPUT0", "shape": [1, len(values)], "datatype": datatype, "data": values} | more


def binary(array: np.ndarray, **more: Any) -> tuple[bytes, str]:
    head = as_json(
        inputs=[{"name": "INPUT0", "shape": list(array.shape), "datatype": "FP32",
                 "parameters": {"binary_data_size": array.nbytes}}],
        parameters={"binary_data_output": True}, **more,
    )  # fmt: skip
    return head + array.tobytes(), str(len(head))


INFER = "/v2/models/numbers/infer"
SMALL, SMALL_HEAD = binary(np.ones((2, 3), np.float32), id="small")
BIG, BIG_HEAD = binary(LARGE)
HTTP_CALLS: dict[str, tuple[Any, ...]] = {
    "live": ("GET", "/v2/health/live"),
    "ready": ("GET", "/v2/health/ready"),
    "metadata": ("GET", "/v2"),
    "model metadata": ("GET", "/v2/models/numbers"),
    "ensemble metadata": ("GET", "/v2/models/chain/versions/1"),
    "config": ("GET", "/v2/models/counts/config"),
    "no such model": ("GET", "/v2/models/absent"),
    "no such version": ("GET", "/v2/models/numbers/versions/7/ready"),
    "no such route": ("GET", "/v2/nothing"),
    "log settings": ("GET", "/v2/logging"),
    "trace settings": ("GET", "/v2/trace/setting"),
    "regions": ("GET", "/v2/systemsharedmemory/status"),
    "json": ("POST", INFER, as_json(id="\u00e4 \ud83d\ude00", inputs=[tensor([1, 2.5])])),
    "lone surrogate": ("POST", INFER, b'{"id": "\\ud800", "inputs": ' + json.dumps([tensor([1])]).encode() + b"}"),
    "parameters": ("POST", INFER, as_json(
        inputs=[tensor([1])], parameters={"a": 1, "b": "x", "c": 2.5, "d": True, "priority": 0},
    )),
    "outputs": ("POST", INFER, as_json(
        inputs=[tensor([3, 1, 2])], outputs=[{"name": "OUTPUT0", "parameters": {"classification": 2}}],
    )),
    "binary": ("POST", INFER, SMALL, {"Inference_Header_Content_Length": SMALL_HEAD}),
    "large": ("POST", INFER, BIG, {"Inference_Header_Content_Length": BIG_HEAD}),
    "large json": ("POST", INFER, as_json(inputs=[tensor([0.5] * 20000)])),
    "compressed": ("POST", INFER, gzip.compress(SMALL), {
        "Inference_Header_Content_Length": SMALL_HEAD, "Content_Encoding": "gzip",
    }),
    "compressed answer": ("POST", INFER, as_json(inputs=[tensor([1] * 500)]), {"Accept_Encoding": "gzip"}),
    "bytes": ("POST", "/v2/models/strings/infer", as_json(inputs=[tensor(["a", "\u00fc", ""], "BYTES")])),
    "many bytes": ("POST", "/v2/models/strings/infer", as_json(inputs=[tensor(["text"] * 5000, "BYTES")])),
    "ensemble": ("POST", "/v2/models/chain/infer", as_json(inputs=[tensor([1, 2])])),
    "empty": ("POST", INFER, as_json(inputs=[tensor([])])),
    "wrong type": ("POST", INFER, as_json(id="7", inputs=[tensor([1], "INT64")])),
    "wrong name": ("POST", INFER, as_json(inputs=[tensor([1], name="other")])),
    "wrong output": ("POST", INFER, as_json(inputs=[tensor([1])], outputs=[{"name": "OTHER"}])),
    "no inputs": ("POST", INFER, as_json(inputs=[])),
    "too many rows": ("POST", INFER, as_json(inputs=[tensor([1], shape=[9, 1], data=[1] * 9)])),
    "broken": ("POST", INFER, b'{"inputs": [', {}),
    "unknown model": ("POST", "/v2/models/absent/infer", as_json(inputs=[tensor([1])])),
    "unknown version": ("POST", "/v2/models/numbers/versions/9/infer", as_json(inputs=[tensor([1])])),
    "decoupled": ("POST", "/v2/models/counts/infer", as_json(inputs=[])),
    "unknown region": ("POST", INFER, as_json(inputs=[{
        "name": "INPUT0", "shape": [1, 1], "datatype": "FP32",
        "parameters": {"shared_memory_region": "none", "shared_memory_byte_size": 4},
    }])),
    "generate": ("POST", "/v2/models/counts/generate", as_json(N=[1, 8])),
    "generate stream": ("POST", "/v2/models/counts/generate_stream", as_json(N=[40, 30])),
    "generate refused": ("POST", "/v2/models/counts/generate_stream", as_json(N=[1])),
    "load refused": ("POST", "/v2/repository/models/numbers/load", b'{"parameters": {"config": "{"}}'),
}  # fmt: skip


@pytest.mark.parametrize("name", HTTP_CALLS)
def test_answers_over_http_are_the_same_bytes(one: ServerProcess, two: ServerProcess, name: str) -> None:
    method, path, *rest = HTTP_CALLS[name]
    body, headers = (*rest, {})[0] if rest else b"", rest[1] if len(rest) > 1 else {}
    expected = call(one, method, path, body, **headers)
    for _ in range(3):
        assert call(two, method, path, body, **headers) == expected


def raw(rpc: str, channel: grpc.Channel, message: Any) -> tuple[str, Any]:
    """The bytes of the answer, or what the call failed with."""
    method = channel.unary_unary(f"/inference.GRPCInferenceService/{rpc}", lambda sent: sent.SerializeToString())
    try:
        return "ok", method(message, timeout=30)
    except grpc.RpcError as error:
        return str(error.code()), error.details()


def infer_message(model: str, array: np.ndarray, **fields: Any) -> Any:
    message = service_pb2.ModelInferRequest(model_name=model, **fields)
    message.inputs.add(name="INPUT0", datatype="FP32", shape=array.shape)
    message.raw_input_contents.append(array.tobytes())
    return message


FLOATS = np.ones((1, 4), np.float32)
GRPC_CALLS: dict[str, tuple[str, Any]] = {
    "live": ("ServerLive", service_pb2.ServerLiveRequest()),
    "ready": ("ServerReady", service_pb2.ServerReadyRequest()),
    "model ready": ("ModelReady", service_pb2.ModelReadyRequest(name="numbers")),
    "unknown ready": ("ModelReady", service_pb2.ModelReadyRequest(name="absent")),
    "metadata": ("ModelMetadata", service_pb2.ModelMetadataRequest(name="chain")),
    "config": ("ModelConfig", service_pb2.ModelConfigRequest(name="numbers")),
    "infer": ("ModelInfer", infer_message("numbers", FLOATS, id="x")),
    "large": ("ModelInfer", infer_message("numbers", LARGE)),
    "refused": ("ModelInfer", infer_message("strings", FLOATS, id="7")),
    "unknown": ("ModelInfer", infer_message("absent", FLOATS)),
    "decoupled": ("ModelInfer", infer_message("counts", FLOATS)),
    "unknown statistics": ("ModelStatistics", service_pb2.ModelStatisticsRequest(name="absent")),
    "regions": ("SystemSharedMemoryStatus", service_pb2.SystemSharedMemoryStatusRequest()),
    "unknown region": ("SystemSharedMemoryStatus", service_pb2.SystemSharedMemoryStatusRequest(name="none")),
}


@pytest.mark.parametrize("name", GRPC_CALLS)
def test_answers_over_grpc_are_the_same_bytes(one: ServerProcess, two: ServerProcess, name: str) -> None:
    rpc, message = GRPC_CALLS[name]
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(one.grpc_url, options) as channel:
        expected = raw(rpc, channel, message)
    for _ in range(3):
        with grpc.insecure_channel(two.grpc_url, options) as channel:
            assert raw(rpc, channel, message) == expected


def stream(server: ServerProcess, messages: list[Any], pause_s: float = 0) -> list[bytes]:
    """All answers of one ModelStreamInfer call."""
    with grpc.insecure_channel(server.grpc_url, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        method = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer", lambda sent: sent.SerializeToString()
        )
        found = []
        for answer in method(iter(messages), timeout=60):
            found.append(answer)
            time.sleep(pause_s if len(found) < 50 else 0)
        return found


def counts(count: int, nbytes: int, id: str = "") -> Any:
    message = service_pb2.ModelInferRequest(model_name="counts", id=id)
    message.inputs.add(name="N", datatype="INT32", shape=[2])
    message.raw_input_contents.append(np.array([count, nbytes], np.int32).tobytes())
    return message


def test_streams_bring_the_same_answers_in_the_same_order(one: ServerProcess, two: ServerProcess) -> None:
    sent = [
        infer_message("numbers", FLOATS, id="first"), counts(30, 20, "count"), infer_message("strings", FLOATS, id="x"),
        infer_message("absent", FLOATS, id="absent"), infer_message("chain", FLOATS, id="last"),
    ]  # fmt: skip
    # Of different models' answers the order is nobody's promise.
    assert sorted(stream(two, sent)) == sorted(stream(one, sent))
    only = [counts(100, 2000)]
    assert stream(two, only) == stream(one, only)


def test_a_slow_reader_holds_the_model_back_and_misses_nothing(two: ServerProcess) -> None:
    answers = stream(two, [counts(2000, 4000)], 0.01)
    texts = [service_pb2.ModelStreamInferResponse.FromString(one).infer_response for one in answers]
    numbers = [int(text.raw_output_contents[0][4:].split()[0]) for text in texts if text.raw_output_contents]
    assert numbers == list(range(2000))


def test_a_request_whose_client_has_gone_is_cancelled(two: ServerProcess) -> None:
    before = two.metrics()
    name = 'nv_inference_request_failure{model="full",reason="CANCELED",version="1"}'
    body = as_json(inputs=[tensor([1])])
    connections = [http.client.HTTPConnection(two.http_url) for _ in range(2)]
    for connection in connections:
        connection.request("POST", "/v2/models/full/infer", body)
    pending = 'nv_inference_pending_request_count{model="full",version="1"}'
    poll(lambda: two.metrics()[pending] == 1, "one to wait")
    # The queue is full: a third one is refused, whichever front-end has it, in the same words.
    refused = {call(two, "POST", "/v2/models/full/infer", body)[::2] for _ in range(5)}
    assert [status for status, _ in refused] == [503]
    for connection in connections:
        connection.close()
    poll(lambda: two.metrics().get(name, 0) > before.get(name, 0), "it to be cancelled")
    wait_until_idle(two)


def test_regions_are_registered_once_for_all(two: ServerProcess) -> None:
    region = shm.create_shared_memory_region("region", "/front_ends_" + str(os.getpid()), 64)
    try:
        shm.set_shared_memory_region(region, [np.arange(4, dtype=np.float32)])
        with httpclient.InferenceServerClient(two.http_url) as client:
            client.register_system_shared_memory("region", "/front_ends_" + str(os.getpid()), 64)
        for turn in range(CONNECTIONS):
            with httpclient.InferenceServerClient(two.http_url) as client:
                source = httpclient.InferInput("INPUT0", [1, 4], "FP32")
                source.set_shared_memory("region", 16)
                target = httpclient.InferRequestedOutput("OUTPUT0")
                target.set_shared_memory("region", 16, 32)
                shm.set_shared_memory_region(region, [np.zeros(4, np.float32)], 32)
                client.infer("numbers", [source], outputs=[target])
                assert shm.get_contents_as_numpy(region, np.float32, [4], 32).tolist() == [0, 1, 2, 3]
                assert len(client.get_system_shared_memory_status()) == 1, turn
        with grpcclient.InferenceServerClient(two.grpc_url) as other:
            other.unregister_system_shared_memory()
        for _ in range(CONNECTIONS):
            assert call(two, "GET", "/v2/systemsharedmemory/status")[2] == b"[]"
    finally:
        shm.destroy_shared_memory_region(region)


def test_what_one_front_end_changes_all_know_at_once(two: ServerProcess) -> None:
    body = as_json(inputs=[tensor([1], shape=[1])])
    for _ in range(3):
        assert call(two, "POST", "/v2/repository/models/slow/unload")[0] == 200
        said = {call(two, "POST", "/v2/models/slow/infer", body)[2] for _ in range(CONNECTIONS)}
        assert said == {b'{"error":"Request for unknown model: \'slow\' has no available versions"}'}
        assert call(two, "POST", "/v2/repository/models/slow/load")[0] == 200
        assert {call(two, "GET", "/v2/models/slow/ready")[0] for _ in range(CONNECTIONS)} == {200}
    assert call(two, "POST", "/v2/models/slow/infer", body)[0] == 200
    assert call(two, "POST", "/v2/logging", b'{"log_verbose_level": 1}')[0] == 200
    levels = {json.loads(call(two, "GET", "/v2/logging")[2])["log_verbose_level"] for _ in range(CONNECTIONS)}
    assert levels == {1}
    call(two, "POST", "/v2/logging", b'{"log_verbose_level": 0}')


def test_statistics_and_metrics_are_of_all(two: ServerProcess) -> None:
    name = 'nv_inference_request_success{model="strings",version="1"}'
    before = two.metrics().get(name, 0)
    body = as_json(inputs=[tensor(["a"], "BYTES")])
    for _ in range(CONNECTIONS):
        assert call(two, "POST", "/v2/models/strings/infer", body)[0] == 200
    assert two.metrics()[name] == before + CONNECTIONS
    counted = {call(two, "GET", "/v2/models/strings/stats")[2] for _ in range(5)}
    assert len(counted) == 1
    assert json.loads(counted.pop())["model_stats"][0]["inference_stats"]["success"]["count"] == before + CONNECTIONS
    assert two.metrics()["triton_async_frontend_processes"] == COUNT
    messages = [two.metrics()[f'triton_async_frontend_messages_total{{process="{i}"}}'] for i in range(COUNT)]
    assert min(messages) > 0


@pytest.mark.parametrize("datatype", ["INT33", ""])
def test_a_data_type_that_is_none_is_refused_and_ends_no_front_end(two: ServerProcess, datatype: str) -> None:
    before = two.metrics()["triton_async_frontend_restarts_total"]
    wrong = service_pb2.ModelInferRequest(model_name="numbers", id="w", raw_input_contents=[bytes(4)])
    wrong.inputs.add(name="INPUT0", datatype=datatype, shape=[1, 1])
    right = service_pb2.ModelInferRequest(model_name="numbers", id="r", raw_input_contents=[bytes(4)])
    right.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 1])
    with grpc.insecure_channel(two.grpc_url) as channel:
        prefix = "/inference.GRPCInferenceService/Model"
        infer = channel.unary_unary(f"{prefix}Infer", service_pb2.ModelInferRequest.SerializeToString)
        stream = channel.stream_stream(
            f"{prefix}StreamInfer", service_pb2.ModelInferRequest.SerializeToString,
            service_pb2.ModelStreamInferResponse.FromString,
        )  # fmt: skip
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as refused:
                infer(wrong, timeout=30)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "data-type is '<invalid>', but model 'numbers' expects 'FP32'" in refused.value.details()
            answers = list(stream(iter([wrong, right]), timeout=30))
            assert "data-type is '<invalid>'" in answers[0].error_message and answers[1].infer_response.id == "r"
    assert two.metrics()["triton_async_frontend_restarts_total"] == before
    wait_until_idle(two)


def test_a_killed_front_end_costs_its_connections_alone(two: ServerProcess) -> None:
    body, slow = as_json(inputs=[tensor([1])]), as_json(inputs=[tensor([1], shape=[1])])
    before = two.metrics()["triton_async_frontend_restarts_total"]
    descriptors = len(os.listdir(f"/proc/{two.pid}/fd"))
    for turn in range(3):
        pids = front_ends(two)
        assert len(pids) == COUNT
        connections = [http.client.HTTPConnection(two.http_url, timeout=10) for _ in range(CONNECTIONS)]
        for connection in connections:
            connection.request("GET", "/v2/health/live")
            connection.getresponse().read()
        for connection in connections:
            connection.request("POST", "/v2/models/slow/infer", slow)
        os.kill(pids[turn % COUNT], signal.SIGKILL)
        outcomes = []
        for connection in connections:
            try:
                outcomes.append(connection.getresponse().status)
            except (http.client.HTTPException, OSError):
                outcomes.append(0)
            connection.close()
        assert {0, 200} == set(outcomes)
        wait_for_metric(two, "triton_async_frontend_restarts_total", before + turn + 1)
        wait_for_metric(two, "triton_async_frontend_processes", COUNT)
        assert {call(two, "POST", INFER, body)[0] for _ in range(CONNECTIONS)} == {200}
    wait_until_idle(two)
    assert len(os.listdir(f"/proc/{two.pid}/fd")) <= descriptors + 4
    assert "front-end process" in two.output()


def test_front_ends_have_the_priority_of_the_server(two: ServerProcess) -> None:
    nice = [os.getpriority(os.PRIO_PROCESS, pid) for pid in (0, two.pid, *front_ends(two))]
    assert nice == nice[:1] * (2 + COUNT)


def test_a_front_end_that_had_listened_is_soon_back_however_often_it_is_killed(two: ServerProcess) -> None:
    before = two.metrics()["triton_async_frontend_restarts_total"]
    for turn in range(6):
        os.kill(front_ends(two)[-1], signal.SIGKILL)  # the one that was started last
        wait_for_metric(two, "triton_async_frontend_restarts_total", before + turn + 1)
        wait_for_metric(two, "triton_async_frontend_processes", COUNT)
    pauses = [float(pause) for pause in re.findall(r"front-end process .* is started in ([\d.]+) s", two.output())]
    assert len(pauses) >= 6 and max(pauses) <= 0.2


def test_memory_and_descriptors_stay_flat(two: ServerProcess) -> None:
    def held() -> tuple[int, int]:
        pids = [two.pid, *front_ends(two)]
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        return pages * 4096, sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)

    def work(count: int) -> None:
        for _ in range(count):
            connection = http.client.HTTPConnection(two.http_url)
            for _ in range(10):
                connection.request("POST", INFER, BIG, {"Inference-Header-Content-Length": BIG_HEAD})
                assert connection.getresponse().read()
            connection.close()

    work(8)
    wait_until_idle(two)
    before = held()
    work(8)
    wait_until_idle(two)
    after = held()
    assert after[0] <= before[0] + (64 << 20)
    assert after[1] <= before[1] + 4


def test_an_asynchronous_client_streams_over_several(two: ServerProcess) -> None:
    found: queue.Queue[Any] = queue.Queue()
    clients = [grpcclient.InferenceServerClient(two.grpc_url) for _ in range(4)]
    try:
        for client in clients:
            client.start_stream(lambda result, error: found.put((result, error)))
            source = grpcclient.InferInput("INPUT0", [1, 4], "FP32")
            source.set_data_from_numpy(FLOATS)
            for number in range(25):
                client.async_stream_infer("numbers", [source], request_id=str(number))
        results = [found.get(timeout=30) for _ in range(100)]
    finally:
        for client in clients:
            client.stop_stream()
            client.close()
    assert not [error for _, error in results if error is not None]


def test_when_the_model_process_dies_its_front_ends_end(repository: Path, tmp_path: Path) -> None:
    with running_server([repository], tmp_path, [SEVERAL]) as server:
        pids = front_ends(server)
        assert len(pids) == COUNT
        connection = http.client.HTTPConnection(server.http_url, timeout=10)
        connection.request("POST", "/v2/models/slow/infer", as_json(inputs=[tensor([1], shape=[1])]))
        server.kill()
        with pytest.raises((http.client.HTTPException, OSError)):
            connection.getresponse()
        assert server.exit_status() == -signal.SIGKILL

        def gone() -> bool:
            return not any(Path(f"/proc/{pid}").exists() for pid in pids)

        poll(gone, "the front-ends to end", 10)


def test_requests_in_work_are_answered_before_the_end(repository: Path, tmp_path: Path) -> None:
    with running_server([repository], tmp_path, [SEVERAL]) as server:
        connections = [http.client.HTTPConnection(server.http_url, timeout=20) for _ in range(6)]
        for connection in connections:
            connection.request("POST", "/v2/models/slow/infer", as_json(inputs=[tensor([1], shape=[1])]))
        poll(lambda: server.live_objects()["request"] >= len(connections) - 1, "all to be in work")
        server.terminate()
        assert [connection.getresponse().status for connection in connections] == [200] * len(connections)
        server.stop()


def test_a_front_end_that_can_not_begin_is_tried_again(repository: Path, tmp_path: Path) -> None:
    keys, elsewhere = tmp_path / "keys", tmp_path / "elsewhere"
    keys.write_text("secret\n")
    options = [SEVERAL, f"--api-key-file={keys}", "--api-key-exempt=health,metrics"]
    with running_server([repository], tmp_path, options) as server:
        keys.rename(elsewhere)
        os.kill(front_ends(server)[0], signal.SIGKILL)
        poll(lambda: server.output().count("another one is started") >= 3, "it to be tried again", 20)
        assert f"cannot read '{keys}'" in server.output()
        elsewhere.rename(keys)
        wait_for_metric(server, "triton_async_frontend_processes", COUNT)
        server.stop()
