"""The express lane under real clients and on the wire: cancels, back-pressure, keep-alive, goodbye."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_harness import Running, live_objects, serving, until, write_model
from pings import ping_options
from raw_http2 import INFER, RawClient, message
from tritonclient.grpc import InferenceServerClient, InferInput, service_pb2, service_pb2_grpc
from tritonclient.grpc import aio as triton_aio

from triton_async import defines

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root: Path = tmp_path_factory.mktemp("express")
    write_model(root, "fp32")
    write_model(root, "slow", delay_ms=30)
    write_model(root, "batched", max_batch_size=16, dims="4", more="dynamic_batching { }")
    with serving(root) as running:
        yield running


@pytest.fixture
def channel(server: Running) -> Iterator[grpc.Channel]:
    # A subchannel of its own, so that tests do not share a connection.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.url, options) as found:
        yield found


def request(model: str = "fp32", count: int = 4, id: str = "") -> Any:
    data = np.arange(count, dtype=np.float32)
    found = service_pb2.ModelInferRequest(model_name=model, id=id, raw_input_contents=[data.tobytes()])
    found.inputs.add(name="INPUT0", datatype="FP32", shape=[count])
    return found


def wire(*args: Any, **more: Any) -> bytes:
    return message(request(*args, **more).SerializeToString())


def connections(server: Running) -> set[Any]:
    return server.endpoint._connections


def idle(server: Running) -> None:
    models = server.server.repository.models
    until(lambda: all(m.versions[1].loaded.model.in_flight == 0 for m in models.values()), "no requests")


# -- real clients --------------------------------------------------------------------------------------


def test_tritonclient_from_many_threads(server: Running) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            with InferenceServerClient(server.url) as client:
                for _ in range(30):
                    data = rng.random((int(rng.integers(0, 40_000)),), dtype=np.float32)
                    tensor = InferInput("INPUT0", data.shape, "FP32")
                    tensor.set_data_from_numpy(data)
                    found = client.infer("fp32", [tensor]).as_numpy("OUTPUT0")
                    assert np.array_equal(found.reshape(-1) if found is not None else [], data)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_aio_clients_batch_together(server: Running) -> None:
    async def work() -> None:
        async with triton_aio.InferenceServerClient(server.url) as client:

            async def one(i: int) -> None:
                data = np.full((1 + i % 3, 4), i, np.float32)
                tensor = InferInput("INPUT0", list(data.shape), "FP32")
                tensor.set_data_from_numpy(data)
                found = await client.infer("batched", [tensor], request_id=str(i))
                assert found.get_response().id == str(i)
                assert np.array_equal(found.as_numpy("OUTPUT0"), data)

            await asyncio.gather(*(one(i) for i in range(200)))

    asyncio.run(work())


@pytest.mark.parametrize("mib", [3, 17, 70])
def test_tensors_larger_than_the_windows(channel: grpc.Channel, mib: int) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    asked = request("fp32", mib * (1 << 18))
    assert stub.ModelInfer(asked, timeout=60).raw_output_contents[0] == asked.raw_input_contents[0]


def test_several_large_answers_at_once(channel: grpc.Channel) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    asked = [request("fp32", 1 << 20, id=str(i)) for i in range(8)]
    futures = [stub.ModelInfer.future(each, timeout=60) for each in asked]
    for each, future in zip(asked, futures, strict=True):
        found = future.result()
        assert (found.id, found.raw_output_contents[0]) == (each.id, each.raw_input_contents[0])


def test_a_stream_of_a_thousand(channel: grpc.Channel) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    count = 4 * defines.GRPC_MAX_STREAM_REQUESTS
    answers = stub.ModelStreamInfer(iter([request("fp32", 1000, id=str(i)) for i in range(count)]), timeout=60)
    assert [answer.infer_response.id for answer in answers] == [str(i) for i in range(count)]


# -- cancel at any moment ------------------------------------------------------------------------------


def test_calls_cancelled_at_any_moment_leave_nothing(server: Running, channel: grpc.Channel) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    rng = random.Random(1)
    for turn in range(60):
        calls = [stub.ModelInfer.future(request(rng.choice(["fp32", "slow", "batched"]), 4)) for _ in range(8)]
        calls.append(stub.ModelInfer.future(request("fp32", 1 << 19)))
        if turn % 3:
            calls[rng.randrange(8)].exception(60)
        for call in calls:
            call.cancel()
    idle(server)


def test_streams_cancelled_at_any_moment_leave_nothing(server: Running, channel: grpc.Channel) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    rng = random.Random(2)
    for turn in range(30):
        call = stub.ModelStreamInfer(iter([request(rng.choice(["fp32", "slow"]), 1000) for _ in range(20)]))
        for _ in range(turn % 4):
            next(call)
        call.cancel()
    idle(server)


@pytest.mark.parametrize("path", [INFER, STREAM])
def test_a_connection_cut_at_every_byte_of_a_call(server: Running, path: str) -> None:
    with RawClient(server.url) as sample:
        body = wire("slow", 4)
        stream = sample.h2.get_next_available_stream_id()
        sample.h2.send_headers(stream, [
            (":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path),
            ("content-type", "application/grpc"), ("te", "trailers"),
        ])  # fmt: skip
        sample.h2.send_data(stream, body, end_stream=True)
        call = sample.h2.data_to_send()
    for cut in range(0, len(call) + 1, 5):
        with RawClient(server.url) as raw:
            raw.socket.sendall(call[:cut])
            # A reset instead of an orderly end, every other time.
            linger = b"\1\0\0\0\0\0\0\0" if cut % 2 else bytes(8)
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    until(lambda: not connections(server), "connections gone")
    idle(server)


def test_a_call_whose_client_is_gone_costs_no_execution(server: Running) -> None:
    before = server.server.statistics("slow")[0]["inference_count"]
    with RawClient(server.url) as raw:
        for _ in range(20):
            raw.send(raw.begin(INFER), wire("slow"))
        until(lambda: server.server.repository.models["slow"].versions[1].loaded.model.in_flight == 20, "queued")
    idle(server)
    assert server.server.statistics("slow")[0]["inference_count"] - before <= 3


def test_unfinished_messages_are_freed(server: Running) -> None:
    until(lambda: not connections(server), "earlier connections gone")
    before = live_objects()["lease"]
    with RawClient(server.url) as raw:
        for _ in range(20):
            raw.send(raw.begin(INFER), wire("fp32", 10_000)[:-1], end=False)
        until(lambda: live_objects()["lease"] >= before + 20, "messages begun")
    until(lambda: live_objects()["lease"] == before, "messages gone")


# -- back-pressure -------------------------------------------------------------------------------------


def test_a_stream_stops_reading_at_the_bound_and_goes_on(server: Running) -> None:
    count = 3 * defines.GRPC_MAX_STREAM_REQUESTS
    with RawClient(server.url) as raw:
        raw.h2.update_settings({4: 0})  # no answer can leave
        raw.flush()
        stream = raw.begin(STREAM)
        raw.send(stream, b"".join(wire("fp32", 4, id=str(i)) for i in range(count)))
        model = server.server.repository.models["fp32"].versions[1].loaded.model
        until(lambda: model.in_flight == 0, "the first ones answered")
        raw.h2.update_settings({4: 1 << 20})
        raw.flush()
        data = raw.receive(stream).data
    ids = []
    while data:
        nbytes = int.from_bytes(data[1:5], "big")
        ids.append(service_pb2.ModelStreamInferResponse.FromString(data[5 : 5 + nbytes]).infer_response.id)
        data = data[5 + nbytes :]
    assert ids == [str(i) for i in range(count)]


def test_a_client_that_does_not_read_its_socket(server: Running) -> None:
    with RawClient(server.url) as raw:
        raw.h2.update_settings({4: 2**31 - 1})
        raw.h2.increment_flow_control_window(2**31 - 1 - 65535)
        raw.flush()
        streams = []
        for _ in range(10):
            streams.append(raw.begin(INFER))
            raw.send(streams[-1], wire("fp32", 1 << 18))
        idle(server)
        with RawClient(server.url) as other:
            assert other.call(INFER, wire()).status == 0
        assert raw.receive(streams[-1]).status == 0


# -- keep-alive and goodbye ----------------------------------------------------------------------------


def test_the_server_pings_and_a_live_client_stays(tmp_path: Path) -> None:
    write_model(tmp_path, "fp32")
    pings = ping_options(time_ms=5, timeout_ms=5000, permit_without_calls=True, max_pings_without_data=0)
    with serving(tmp_path, pings=pings) as running, RawClient(running.url) as raw:
        seen = 0
        while seen < 5:
            seen += raw.socket.recv(65536).count(b"\0\0\x08\x06\0")
            raw.socket.sendall(b"\0\0\x08\x06\1\0\0\0\0" + bytes(8))
        assert raw.call(INFER, wire()).status == 0


def test_a_client_that_does_not_answer_pings_is_left(tmp_path: Path) -> None:
    write_model(tmp_path, "fp32")
    with serving(tmp_path, pings=ping_options(time_ms=5, timeout_ms=5, permit_without_calls=True)) as running:
        with RawClient(running.url) as raw:
            while raw.socket.recv(65536):
                pass
        until(lambda: not connections(running), "connection gone")


def test_old_connections_are_asked_to_go_and_calls_finish(tmp_path: Path) -> None:
    write_model(tmp_path, "slow", delay_ms=100)
    with serving(tmp_path, pings=ping_options(max_age_ms=20)) as running, RawClient(running.url) as raw:
        stream = raw.begin(INFER)
        raw.send(stream, wire("slow"))
        seen = b""
        while data := raw.socket.recv(65536):
            seen += data
        assert seen.count(b"\0\0\x08\x07\0\0\0\0\0") == 2  # both GOAWAYs
        assert np.arange(4, dtype=np.float32).tobytes() in seen


def test_old_connections_are_cut_after_the_grace(tmp_path: Path) -> None:
    write_model(tmp_path, "slow", delay_ms=300)
    with serving(tmp_path, pings=ping_options(max_age_ms=10, age_grace_ms=10)) as running:
        with RawClient(running.url) as raw:
            stream = raw.begin(INFER)
            raw.send(stream, wire("slow"))
            assert raw.receive(stream).terminated


def test_real_clients_survive_short_lived_connections(tmp_path: Path) -> None:
    write_model(tmp_path, "fp32")
    pings = ping_options(max_age_ms=15, age_grace_ms=5000)
    with serving(tmp_path, pings=pings) as running, grpc.insecure_channel(running.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(300):
            stub.ModelInfer(request(), wait_for_ready=True, timeout=20)


def test_a_stream_is_told_that_the_server_ends(tmp_path: Path) -> None:
    write_model(tmp_path, "slow", delay_ms=50)
    ended = threading.Event()

    def requests() -> Iterator[Any]:
        yield request("slow")
        ended.wait(20)

    with serving(tmp_path) as running, grpc.insecure_channel(running.url) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests(), timeout=20)
        model = running.server.repository.models["slow"].versions[1].loaded.model
        until(lambda: model.in_flight == 1, "request arrived")
        running.request_stop()
        assert len(next(call).infer_response.raw_output_contents) == 1
        with pytest.raises(grpc.RpcError) as failure:
            next(call)
        assert (failure.value.code(), failure.value.details()) == (grpc.StatusCode.UNAVAILABLE, "Server exiting")
        ended.set()


def test_no_express_lane_when_answers_are_compressed(tmp_path: Path) -> None:
    write_model(tmp_path, "fp32")
    with serving(tmp_path, compression="high") as running, RawClient(running.url) as raw:
        answer = raw.call(INFER, wire("fp32", 1000), grpc_accept_encoding="gzip")
        assert (answer.status, answer.headers["grpc-encoding"], answer.data[0]) == (0, "gzip", 1)
