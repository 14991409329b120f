"""The express lane without sockets: order, cuts, hand-over to the slow lane and back, back-pressure, leaving."""

from __future__ import annotations

import asyncio
import gc
import json
import random
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_aio
from core_harness import run, running, write_model
from express_harness import Wire, express, split
from http_harness import head, infer_body, message

from triton_async import defines
from triton_async.frontends.http import server as http
from triton_async.frontends.http.connection import live_connections
from triton_async.frontends.http.express import ExpressListener
from triton_async.frontends.http.relay import Relay
from triton_async.frontends.http.server import HttpService

INFER = "/v2/models/m/infer"
LIVE = message("GET", "/v2/health/live")


def infer(values: object = (1.0, 2.0), model: str = "m", **members: object) -> bytes:
    body, headers = infer_body(np.float32(values), **members)
    return message("POST", f"/v2/models/{model}/infer", body, headers)


def chunked(text: bytes, size: int = 7, more: str = "") -> bytes:
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), more.encode(), piece) for piece in pieces) + b"0\r\n\r\n"
    return head("POST", INFER, [("Transfer-Encoding", "chunked")]) + body


def json_infer(name: str) -> bytes:
    entry = {"name": "INPUT0", "shape": [1], "datatype": "FP32", "data": [5.0]}
    return json.dumps({"id": name, "inputs": [entry]}).encode()


def names(answers: list[bytes]) -> list[str]:
    """The id of each inference, the status of everything else."""
    found = []
    for answer in answers:
        body = answer.partition(b"\r\n\r\n")[2]
        at = body.find(b'"id":"')
        found.append(body[at + 6 :].partition(b'"')[0].decode() if at >= 0 else answer[9:12].decode())
    return found


def test_answers_leave_in_the_order_of_the_requests(tmp_path: Path) -> None:
    write_model(tmp_path, "slow", delay_ms=60)
    write_model(tmp_path, "m")

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            asked = ["slow", "m", "m", "slow", "m"]
            wire.send(b"".join(infer(model=model, id=f"{i}") for i, model in enumerate(asked)))
            assert names(await wire.answers(5)) == list("01234")

    run(test)


def test_both_lanes_take_turns_on_one_connection(tmp_path: Path) -> None:
    write_model(tmp_path, "slow", delay_ms=20)
    write_model(tmp_path, "m")
    stream = [
        infer(model="slow", id="a"), LIVE, infer(id="b"), chunked(json_infer("c")), infer(id="d"),
        message("POST", INFER + "?", json_infer("e")), infer(model="unknown"), infer(id="f"),
        message("GET", "/v2/models/m"), message("POST", "/v2/repository/index"), infer(id="g"),
    ]  # fmt: skip
    expected = ["a", "200", "b", "c", "d", "e", "404", "f", "200", "200", "g"]

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            for piece in (1 << 30, 700, 64, 9):
                wire = Wire(listener)
                wire.send(b"".join(stream), piece)
                assert names(await wire.answers(len(stream))) == expected
                assert wire.reading
                wire.leave()

    run(test)


def test_what_is_behind_a_request_for_the_slow_lane_comes_back(tmp_path: Path) -> None:
    """Also where its body has parts that nobody reads."""
    write_model(tmp_path, "m")
    odd = chunked(json_infer("b"), more=r';x="\y"').replace(b"/infer ", b"/infer? ").replace(b"0\r\n", b"0\r\nX: z\r\n")

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.send(infer(id="a") + odd + infer(id="c") + LIVE, 50)
            assert names(await wire.answers(4)) == ["a", "b", "c", "200"]

    run(test)


def test_every_cut_gives_the_same_answers(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    odd = message("POST", INFER, json_infer("d"), [("Accept-Encoding", "gzip"), ("Connection", "te, close")])
    slow = chunked(json_infer("e")).replace(b"/infer ", b"/infer? ")
    stream = infer(id="a") + LIVE + infer(id="b") + chunked(json_infer("c")) + b"\r\n" + slow + odd
    expected = ["a", "200", "b", "c", "e", "d"]

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            for cut in range(1, len(stream)):
                wire = Wire(listener)
                wire.send(stream[:cut])
                wire.send(stream[cut:])
                assert names(await wire.answers(6)) == expected, cut
                wire.leave()
            wire = Wire(listener)
            wire.send(stream, 1)
            assert names(await wire.answers(6)) == expected

    run(test)


@pytest.mark.parametrize("size", [16_000, 100_000, 700_000])
def test_large_bodies_come_back_whole(tmp_path: Path, size: int) -> None:
    write_model(tmp_path, "m")
    source = np.random.default_rng(size)

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            values = [source.random(size, np.float32) for _ in range(3)]
            wire.send(b"".join(infer(v, id=str(i)) for i, v in enumerate(values)), 150_001)
            for answer, sent in zip(await wire.answers(3), values, strict=True):
                assert answer.endswith(sent.tobytes())

    run(test)


def test_a_slow_reader_stops_the_work_and_then_gets_everything(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    count = 400

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.accepts = 10_000
            wire.send(b"".join(infer(np.zeros(500), id=str(i)) for i in range(count)), 5_000)
            await wire.until(lambda wire: not wire.reading)
            assert wire.unread > 0
            assert len(wire.unsent) < (1 << 16) + 3_000
            wire.read_all()
            answers = await wire.answers(count)
            assert names(answers) == [str(i) for i in range(count)]
            assert wire.unread == 0

    run(test)


def test_pipelining_is_bounded(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "slow", delay_ms=100)
    count = 2_000

    async def test() -> None:
        async with express(tmp_path) as (server, listener):
            wire = Wire(listener)
            wire.send(infer(model="slow") + b"".join(infer(id=str(i)) for i in range(count)), 20_000)
            assert not wire.reading
            await asyncio.sleep(0)
            taken = server.statistics("m")[0]["inference_count"]
            assert taken <= defines.HTTP_MAX_PIPELINED
            answers = await wire.answers(count + 1)
            assert names(answers)[1:] == [str(i) for i in range(count)]

    run(test)


def test_a_client_may_leave_after_any_byte(tmp_path: Path) -> None:
    write_model(tmp_path, "m", delay_ms=1)
    stream = infer(id="a") + chunked(json_infer("b")) + infer(np.zeros(30_000), id="c") + LIVE
    gc.collect()
    before = live_connections()

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            for cut in [*range(1, 900, 7), len(stream) - 100, len(stream) - 1, len(stream)]:
                wire = Wire(listener)
                wire.send(stream[:cut], 333)
                if cut % 3 == 0:
                    await asyncio.sleep(0)
                wire.leave()
            assert not listener.hub.connections

    run(test)
    gc.collect()
    assert live_connections() == before


def test_leaving_cancels_queued_requests(tmp_path: Path) -> None:
    write_model(tmp_path, "m", delay_ms=30)

    async def test() -> None:
        async with express(tmp_path) as (server, listener):
            wire = Wire(listener)
            wire.send(b"".join(infer(id=str(i)) for i in range(20)))
            wire.leave()
            other = Wire(listener)
            other.send(infer(id="x"))
            await other.answers(1)
            assert server.statistics("m")[0]["inference_count"] <= 3

    run(test)


def seconds(listener: object, count: float) -> None:
    for _ in range(int(count) + 2):
        listener.hub.tick()  # type: ignore[attr-defined]


def test_slow_heads_and_bodies_are_given_up(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    whole = infer()

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            for cut in (1, 30, whole.index(b"\r\n\r\n") + 3, whole.index(b"\r\n\r\n") + 4, len(whole) - 1):
                wire = Wire(listener)
                wire.send(infer())
                await wire.answers(1)
                wire.send(whole[:cut])
                seconds(listener, defines.HTTP_BODY_TIMEOUT_S)
                await wire.until(lambda wire: wire.closed)
                assert names(split(bytes(wire.output)))[1:] == ["408"]

    run(test)


def test_a_byte_now_and_then_does_not_keep_a_head_alive(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            for byte in infer()[: int(defines.HTTP_HEAD_TIMEOUT_S) + 3]:
                wire.send(bytes([byte]))
                listener.hub.tick()
            assert names(await wire.answers(1)) == ["408"]

    run(test)


def test_idle_connections_close_silently_and_waiting_ones_stay(tmp_path: Path) -> None:
    write_model(tmp_path, "m", delay_ms=50)

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            idle = Wire(listener)
            busy = Wire(listener)
            busy.send(infer(id="a"))
            seconds(listener, defines.HTTP_KEEPALIVE_TIMEOUT_S)
            await idle.until(lambda wire: wire.closed)
            assert not idle.output
            assert names(await busy.answers(1)) == ["a"]
            assert not busy.closed

    run(test)


def test_a_reader_that_never_reads_is_given_up(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.accepts = 10
            wire.send(infer(np.zeros(100_000)))
            await wire.until(lambda wire: bool(wire.unsent))
            seconds(listener, defines.HTTP_WRITE_TIMEOUT_S)
            assert wire.closed

    run(test)


def test_stopping_closes_idle_connections_and_answers_the_others(tmp_path: Path) -> None:
    write_model(tmp_path, "m", delay_ms=30)

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            idle, busy, receiving = Wire(listener), Wire(listener), Wire(listener)
            whole = infer(id="c")
            busy.send(infer(id="a") + infer(id="b") + whole[:20])
            receiving.send(whole[:-5])
            await listener.stop_accepting()
            assert idle.closed
            assert not busy.closed
            first, second = await busy.answers(2)
            assert b"Connection" not in first
            assert b"\r\nConnection: close\r\n" in second
            receiving.send(whole[-5:])
            (only,) = await receiving.answers(1)
            assert b"\r\nConnection: close\r\n" in only
            await receiving.until(lambda wire: wire.closed)
            assert busy.closed

    run(test)


def test_heads_that_never_end_are_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            many = b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 9_000
            for text, status in ((b"GET /" + b"a" * 40_000, "414"), (many, "431")):
                wire = Wire(listener)
                wire.send(text, 1_000)
                assert names(await wire.answers(1)) == [status]

    run(test)


def test_random_bytes_leave_nothing_behind(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    source = random.Random(3)
    body, lengths = infer_body(np.zeros(5_000, np.float32))
    fields = [("Accept-Encoding", "gzip"), ("Expect", "100-continue"), ("Connection", "upgrade"), ("Upgrade", "h2c")]
    relayed = chunked(json_infer("d"), more=";a").replace(b"/infer ", b"/infer? ")
    compressed = message("POST", INFER, body, [*lengths, *fields])
    last = infer(id="e").replace(b"1.1", b"1.0")
    stream = infer(id="a") + chunked(json_infer("b")) + infer(id="c") + LIVE + relayed + compressed + last + LIVE

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            for _ in range(800):
                mutated = bytearray(stream)
                for _ in range(source.randint(1, 5)):
                    at = source.randrange(len(mutated))
                    mutated[at : at + source.randint(0, 2)] = source.randbytes(source.randint(0, 2))
                wire = Wire(listener)
                wire.send(bytes(mutated), source.choice([13, 200, 5_000]))
                for _ in range(source.randint(0, 5)):
                    await asyncio.sleep(0)
                wire.leave()
            wire = Wire(listener)
            wire.send(infer(id="z"))
            assert names(await wire.answers(1)) == ["z"]

    run(test)


@pytest.mark.parametrize("fast", [True, False])
def test_a_unix_socket_serves_like_a_port(tmp_path: Path, fast: bool) -> None:
    write_model(tmp_path / "models", "m")
    path = tmp_path / "http.sock"

    async def test() -> None:
        async with running(tmp_path / "models") as server:
            endpoint = await http.start(
                server, address=f"unix:{path}", port=0, max_input_nbytes=1 << 20, express=fast
            )
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(infer(id="a") + LIVE)
            answer = b""
            while len(split(answer)) < 2:
                answer += await reader.read(10_000)
            assert names(split(answer)) == ["a", "200"]
            writer.close()
            await endpoint.close(1)
            assert not path.exists()

    run(test)


def test_what_clients_send_takes_the_express_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of these may quietly become slow."""
    write_model(tmp_path, "m")
    seen: list[object] = []
    relayed: list[bytes] = []
    monkeypatch.setattr(Relay, "feed", lambda relay, data: relayed.append(data))

    async def test() -> None:
        async with running(tmp_path) as server:
            endpoint = ExpressListener(HttpService(server, 1 << 20).handle, server, 1 << 20)
            await endpoint.start("127.0.0.1", 0, False)
            await asyncio.to_thread(ask_with_tritonclient, endpoint.port, seen)
            async with triton_aio.InferenceServerClient(f"127.0.0.1:{endpoint.port}") as client:
                for binary in (True, False):
                    entry = triton_aio.InferInput("INPUT0", [2], "FP32")
                    entry.set_data_from_numpy(np.float32([1, 2]), binary_data=binary)
                    seen.append((await client.infer("m", [entry])).as_numpy("OUTPUT0").tolist())
            await endpoint.close(1)

    run(test)
    assert seen == [[1.0, 2.0]] * 5
    assert not relayed


def ask_with_tritonclient(port: int, seen: list[object]) -> None:
    values = np.float32([1, 2])
    with triton_http.InferenceServerClient(f"127.0.0.1:{port}") as client:
        for binary in (True, False):
            entry = triton_http.InferInput("INPUT0", [2], "FP32")
            entry.set_data_from_numpy(values, binary_data=binary)
            seen.append(client.infer("m", [entry], request_id="1").as_numpy("OUTPUT0").tolist())
        asked = triton_http.InferRequestedOutput("OUTPUT0", binary_data=True)
        seen.append(client.infer("m", [entry], outputs=[asked]).as_numpy("OUTPUT0").tolist())
