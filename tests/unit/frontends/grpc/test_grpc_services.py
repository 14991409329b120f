"""Health, reflection, and the shutdown of the front-end, with grpcio's own stubs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as client
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_harness import Running, serving, until, write_model
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from test_grpc_clients import tensor

from triton_async.frontends.grpc import health

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def test_check(shared: Running) -> None:
    with grpc.insecure_channel(shared.url) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService", "anything"):
            assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING


def test_watch_streams_changes(tmp_path: Path, express: bool) -> None:
    write_model(tmp_path, "m")
    options = ("--model-control-mode=explicit", "--load-model=m")
    with serving(tmp_path, *options, express=express) as running, grpc.insecure_channel(running.url) as channel:
        seen: list[int] = []
        end: list[Any] = []

        def watch() -> None:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                seen.extend(answer.status for answer in map(collect, stub.Watch(health_pb2.HealthCheckRequest())))
            except grpc.RpcError as error:
                end.append(error.code())
            else:
                end.append(grpc.StatusCode.OK)

        def collect(answer: Any) -> Any:
            arrived.set()
            return answer

        arrived = threading.Event()
        thread = threading.Thread(target=watch)
        thread.start()
        assert arrived.wait(10)
        running.request_stop()
        thread.join(10)
        assert not thread.is_alive()
        assert seen == [SERVING, NOT_SERVING]
        assert end == [grpc.StatusCode.OK]


READIES = """
import os


class TritonPythonModel:
    def execute(self, requests):
        return []

    def is_ready(self):
        return not os.path.exists("PATH")
"""


def test_watch_asks_models_that_say_themselves_whether_they_are_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "GRPC_WATCH_S", 0.05)
    unready = tmp_path / "unready"
    (tmp_path / "models/m/1").mkdir(parents=True)
    (tmp_path / "models/m/1/model.py").write_text(READIES.replace("PATH", str(unready)))
    (tmp_path / "models/m/config.pbtxt").write_text('backend: "python"')
    with serving(tmp_path / "models") as running, grpc.insecure_channel(running.url) as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(call).status == SERVING
        unready.touch()
        assert next(call).status == NOT_SERVING
        unready.unlink()
        assert next(call).status == SERVING
        call.cancel()


def reflect(stub: Any, **question: Any) -> Any:
    (answer,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**question)]))
    return answer


def test_reflection_is_complete_enough_to_build_a_client(shared: Running) -> None:
    with grpc.insecure_channel(shared.url) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed = reflect(stub, list_services="").list_services_response.service
        names = {service.name for service in listed}
        assert names == {
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "inference.GRPCInferenceService",
        }
        pool = DescriptorPool()
        answer = reflect(stub, file_containing_symbol="inference.GRPCInferenceService")
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(data)
            for data in answer.file_descriptor_response.file_descriptor_proto
        ]
        for file in sorted(files, key=lambda f: len(f.dependency)):
            pool.Add(file)
        service = pool.FindServiceByName("inference.GRPCInferenceService")
        assert len(service.methods) == 20
        by_name = reflect(stub, file_by_filename="health.proto").file_descriptor_response
        assert len(by_name.file_descriptor_proto) == 1
        missing = reflect(stub, file_containing_symbol="no.Such").error_response
        assert missing.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        assert reflect(stub, file_by_filename="no.proto").error_response.error_code == 5


def test_the_newer_reflection_is_the_same_on_the_wire(shared: Running) -> None:
    with grpc.insecure_channel(shared.url) as channel:
        call = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        (answer,) = call(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        assert len(answer.list_services_response.service) == 4


def test_shutdown_finishes_what_is_in_flight(tmp_path: Path, express: bool) -> None:
    write_model(tmp_path, "slow", delay_ms=300)
    with serving(tmp_path, express=express) as running:
        found: list[Any] = []
        streamed: list[Any] = []
        array = np.ones(2, np.float32)
        with client.InferenceServerClient(running.url) as triton, client.InferenceServerClient(running.url) as idle:
            assert idle.is_server_live()
            triton.start_stream(lambda result, error: streamed.append(error or result))
            triton.async_stream_infer("slow", [tensor(array)])
            triton.async_infer("slow", [tensor(array)], lambda result, error: found.append(error or result))
            model = running.server.repository.models["slow"].versions[1].loaded.model
            until(lambda: model.in_flight == 2, "both requests run")
            running.request_stop()
            until(lambda: len(found) == 1 and len(streamed) == 2, "answers and the end of the stream")
            assert found[0].as_numpy("OUTPUT0").tolist() == [1, 1]
            assert streamed[0].as_numpy("OUTPUT0").tolist() == [1, 1]
            assert streamed[1].status() == "StatusCode.UNAVAILABLE"
            until(lambda: running.stopped_after_s >= 0, "stopped")
            assert running.stopped_after_s < 1.5
            triton.stop_stream()


def test_idle_connections_do_not_hold_up_the_shutdown(shared: Running, tmp_path: Path, express: bool) -> None:
    write_model(tmp_path, "m")
    with serving(tmp_path, express=express) as running, client.InferenceServerClient(running.url) as idle:
        assert idle.is_server_ready()
        running.request_stop()
        until(lambda: running.stopped_after_s >= 0, "stopped")
        assert running.stopped_after_s < 0.9


def test_the_deadline_of_the_shutdown_cuts_off(tmp_path: Path, express: bool) -> None:
    write_model(tmp_path, "slow", delay_ms=1500)
    with serving(tmp_path, express=express) as running, client.InferenceServerClient(running.url) as triton:
        running.exit_deadline_s = 0.3
        found: list[Any] = []
        triton.async_infer("slow", [tensor(np.ones(1, np.float32))], lambda result, error: found.append(error))
        model = running.server.repository.models["slow"].versions[1].loaded.model
        until(lambda: model.in_flight == 1, "request runs")
        running.request_stop()
        until(lambda: bool(found), "answer")
        assert found[0].status() == "StatusCode.UNAVAILABLE"
        until(lambda: running.stopped_after_s > 0, "the endpoint to be closed")
        assert 0.2 < running.stopped_after_s < 1.0


def test_unknown_methods(shared: Running) -> None:
    with grpc.insecure_channel(shared.url) as channel:
        for path in ("/inference.GRPCInferenceService/Nope", "/nope"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(path)(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
