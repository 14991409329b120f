"""Streams of events in the express lane, without sockets: what shares a write, order, slow and lost clients, ends."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_harness import run, write_model
from express_harness import Wire, express
from gated_backend import until
from http_harness import infer_body, message
from scripted_backend import ScriptedBackend, write_script

from triton_async.frontends.http.connection import live_connections

LIVE = message("GET", "/v2/health/live")
END = b"0\r\n\r\n"


def stream(*lines: str, model: str = "d", call: str = "generate_stream") -> bytes:
    return message("POST", f"/v2/models/{model}/{call}", json.dumps({"SCRIPT": list(lines)}).encode())


class Noting(Wire):
    """Keeps what was written at once."""

    def __init__(self, listener: Any) -> None:
        self.writes: list[bytes] = []
        super().__init__(listener)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))
        super().write(data)


def chunks(output: bytes) -> tuple[list[bytes], bytes]:
    """The chunks of the body at the front of `output`, behind its head, and what follows it."""
    rest = output.partition(b"\r\n\r\n")[2]
    found = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        found.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
        if size == b"0":
            return found[:-1], rest


def events(output: bytes) -> list[Any]:
    text = b"".join(chunks(output)[0])
    return [json.loads(event[6:]) for event in text.split(b"\n\n") if event]


def said(output: bytes) -> list[Any]:
    return [event.get("OUT", event) for event in events(output)]


def scripted(root: Path) -> ScriptedBackend:
    write_script(root, "d")
    write_script(root, "e")
    return ScriptedBackend()


def test_all_that_comes_in_one_turn_leaves_in_one_write(tmp_path: Path) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with express(tmp_path, backends=backend) as (_, listener):
            wire = Noting(listener)
            wire.send(stream("end a"))
            output = await wire.until(lambda wire: wire.output.endswith(END))
            assert len(wire.writes) == 1
            assert said(output) == ["a"]
            wire = Noting(listener)
            wire.send(stream("flood 2000 5", "end"))
            output = await wire.until(lambda wire: wire.output.endswith(END))
            assert len(events(output)) == 2000
            assert len(wire.writes) < 500
            assert len(chunks(output)[0]) <= len(wire.writes)

    run(test)


def test_what_a_client_sends_behind_a_stream_waits_for_its_end(tmp_path: Path) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with express(tmp_path, backends=backend) as (server, listener):
            wire = Wire(listener)
            one = stream("end x", model="e", call="generate")
            wire.send(one + stream("say a", "hold", "end b") + stream("end c") + LIVE + one)
            await wire.until(lambda wire: b'"OUT":"a"' in wire.output)
            assert [model.in_flight for model in server.repository.held_models()].count(1) == 1
            backend.gate.set()
            output = await wire.until(lambda wire: wire.output.count(b'"OUT":"x"') == 2)
            assert output.startswith(b"HTTP/1.1 200 OK\r\nServer: triton-async\r\nContent-Type: application/json")
            streams = output[output.index(b"HTTP/1.1", 1) :]
            assert said(streams) == ["a", "b"]
            rest = chunks(streams)[1]
            assert said(rest) == ["c"]
            assert [part.split()[0] for part in chunks(rest)[1].split(b"HTTP/1.1 ")[1:]] == [b"200", b"200"]

    run(test)


def test_a_stream_waits_for_earlier_answers(tmp_path: Path) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with express(tmp_path, backends=backend) as (server, listener):
            wire = Wire(listener)
            wire.send(stream("hold", "end first", call="generate") + stream("flood 3000 10", "end", model="e"))
            # It is not begun: a sender that waited for its client would hold an instance whom the first may wait for.
            assert sorted(model.in_flight for model in server.repository.held_models()) == [0, 1]
            assert not wire.output and not backend.waits
            backend.gate.set()
            output = await wire.until(lambda wire: wire.output.endswith(END))
            head, _, rest = output.partition(b"HTTP/1.1 200 OK\r\nServer: triton-async\r\nContent-Type: text/event")
            assert b'"OUT":"first"' in head
            assert len(events(rest)) == 3000

    run(test)


def test_a_client_that_does_not_read_holds_the_sender_back_until_it_does(tmp_path: Path) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with express(tmp_path, backends=backend) as (_, listener):
            wire = Wire(listener)
            wire.accepts = 1000
            wire.send(stream("flood 20000 1000", "end"))
            seen = -1
            while backend.sent != seen or not backend.waits:
                seen = backend.sent
                await asyncio.sleep(0.2)
            assert seen < 20_000
            for _ in range(3):
                wire.accepts, data = 1000, bytes(wire.unsent)
                wire.output += data
                wire.unsent.clear()
                wire.protocol.resume_writing()
                await asyncio.sleep(0.05)
                assert backend.sent < 20_000
            wire.read_all()
            output = await wire.until(lambda wire: wire.output.endswith(END))
            assert len(events(output)) == 20_000
            assert listener.hub.unsent_nbytes == 0

    run(test)


@pytest.mark.parametrize("paused", [False, True])
def test_a_client_that_goes_cancels_its_request(tmp_path: Path, paused: bool) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        before = live_connections()
        async with express(tmp_path, backends=backend) as (server, listener):
            wire = Wire(listener)
            wire.accepts = 10 if paused else None
            wire.send(stream("say a", "hold", "flood 1000000 10", "end"))
            await wire.until(lambda wire: b"HTTP/1.1 2" in wire.output)
            wire.leave()
            backend.gate.set()
            assert await asyncio.to_thread(backend.cancelled.wait, 20)
            await until(lambda: not any(m.in_flight for m in server.repository.held_models()), "nothing is in work")
            assert listener.hub.unsent_nbytes == 0
            del wire
        assert live_connections() == before

    run(test)


@pytest.mark.parametrize("call", ["generate", "generate_stream"])
def test_a_client_that_closes_its_side_still_gets_everything(tmp_path: Path, call: str) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with express(tmp_path, backends=backend) as (_, listener):
            wire = Wire(listener)
            wire.send(stream("say a", "hold", "end", call=call))
            if call == "generate_stream":
                await wire.until(lambda wire: b'"OUT":"a"' in wire.output)
            assert wire.protocol.eof_received()
            # Long enough for the question whether it is still there.
            for _ in range(4):
                listener.hub.tick()
                await asyncio.sleep(0.05)
            backend.gate.set()
            output = await wire.until(lambda wire: wire.closed)
            assert output.count(b"HTTP/1.1 100") == (call == "generate")
            assert output.count(b'"OUT":"a"') == 1
            if call == "generate_stream":
                assert said(output) == ["a"]

    run(test)


def test_a_model_that_does_not_wait_costs_its_client_the_stream_and_no_more(tmp_path: Path) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with express(tmp_path, backends=backend) as (_, listener):
            wire = Wire(listener)
            wire.accepts = 0
            wire.send(stream("rude 1000000 100", "end"))
            assert await asyncio.to_thread(backend.cancelled.wait, 20)
            wire.read_all()
            output = await wire.until(lambda wire: wire.output.endswith(END))
            assert events(output)[-1] == {"error": "too many responses wait for this client"}
            wire.send(stream("end a", model="e"))
            await wire.until(lambda wire: wire.output.endswith(END) and b'"OUT":"a"' in wire.output)

    run(test)


def test_long_events_leave_in_pieces(tmp_path: Path) -> None:
    backend = scripted(tmp_path)
    count, nbytes = 30, 300_000

    async def test() -> None:
        async with express(tmp_path, backends=backend) as (_, listener):
            wire = Wire(listener)
            wire.accepts = 100_000
            wire.send(stream(f"flood {count} {nbytes}", "end"))
            while not wire.output.endswith(END):
                await asyncio.sleep(0.01)
                wire.accepts, data = 500_000, bytes(wire.unsent)
                wire.output += data
                wire.unsent.clear()
                if data:
                    wire.protocol.resume_writing()
            assert [len(event["OUT"]) for event in events(bytes(wire.output))] == [nbytes] * count
            assert listener.hub.unsent_nbytes == 0

    run(test)


def test_answers_to_generate_and_infer_keep_their_order(tmp_path: Path) -> None:
    write_model(tmp_path, "slow", delay_ms=40)
    write_model(tmp_path, "m")

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            asked = []
            for number, model in enumerate(["slow", "m", "m", "slow"]):
                body = json.dumps({"INPUT0": [number], "id": f"g{number}"}).encode()
                asked.append(message("POST", f"/v2/models/{model}/generate", body))
                text, headers = infer_body(np.float32([number]), id=f"i{number}")
                asked.append(message("POST", f"/v2/models/{model}/infer", text, headers))
            wire.send(b"".join(asked))
            answers = await wire.answers(8)
            ids = [answer.partition(b'"id":"')[2].partition(b'"')[0].decode() for answer in answers]
            assert ids == ["g0", "i0", "g1", "i1", "g2", "i2", "g3", "i3"]
            assert listener.hub.unsent_nbytes == 0

    run(test)


def test_a_stream_ends_before_a_server_that_leaves_closes_its_connection(tmp_path: Path) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with express(tmp_path, backends=backend) as (_, listener):
            early, late = Wire(listener), Wire(listener)
            early.send(stream("say a", "hold", "end b"))
            await early.until(lambda wire: b'"OUT":"a"' in wire.output)
            listener.leave()
            late.send(stream("end c", model="e"))
            output = await late.until(lambda wire: wire.closed)
            assert b"\r\nConnection: close\r\n" in output
            assert said(output) == ["c"]
            backend.gate.set()
            output = await early.until(lambda wire: wire.closed)
            assert said(output) == ["a", "b"]

    run(test)


@pytest.mark.parametrize("piece", [1, 7, 150])
def test_it_does_not_matter_how_calls_are_cut_into_segments(tmp_path: Path, piece: int) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with express(tmp_path, backends=backend) as (_, listener):
            wire = Wire(listener)
            wire.send((stream("end x", call="generate") + stream("say a", "end b") + LIVE) * 3, piece)
            output = await wire.until(lambda wire: wire.output.count(b"HTTP/1.1 200 OK") == 9)
            for _ in range(3):
                _, body, output = output.partition(b'"OUT":"x"}')
                assert body
                assert said(output) == ["a", "b"]
                output = chunks(output)[1]
                assert output.startswith(b"HTTP/1.1 200 OK\r\nServer: triton-async\r\nContent-Length: 0")

    run(test)
