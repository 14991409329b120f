"""No request, and no connection, takes more of a turn of the loop than its share."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from core_harness import run, write_model
from express_harness import Wire, express, split
from http_harness import infer_body, message

from triton_async import defines

INFER = "/v2/models/m/infer"
LONG = defines.JSON_OFFLOAD_NBYTES // 2


def json_infer(count: int, **output: object) -> bytes:
    members = {"name": "INPUT0", "datatype": "FP32", "shape": [count], "data": [1.5] * count}
    outputs = {"outputs": [{"name": "OUTPUT0", "parameters": output}]} if output else {}
    return message("POST", INFER, json.dumps({"inputs": [members], **outputs}).encode())


def binary_infer(count: int, **members: object) -> bytes:
    body, headers = infer_body(np.ones(count, np.float32), **members)
    return message("POST", INFER, body, headers)


@pytest.mark.parametrize("request_bytes", [
    json_infer(LONG, binary_data=True), binary_infer(LONG, parameters={}), binary_infer(LONG, parameters={}, outputs=[
        {"name": "OUTPUT0", "parameters": {"classification": LONG}},
    ]),
], ids=["json in", "json out", "classes"])  # fmt: skip
def test_what_takes_long_is_done_elsewhere_while_others_are_answered(tmp_path: Path, request_bytes: bytes) -> None:
    write_model(tmp_path, "m", max_batch_size=0)

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            order: list[str] = []
            greedy, light = Wire(listener), Wire(listener)

            async def wait(wire: Wire, name: str) -> bytes:
                (answer,) = await wire.answers(1)
                order.append(name)
                return answer

            greedy.send(request_bytes)
            light.send(binary_infer(1))
            answers = await asyncio.gather(wait(greedy, "greedy"), wait(light, "light"))
            assert order == ["light", "greedy"]
            assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)

    run(test)


def test_answers_keep_their_order_and_a_client_that_leaves_costs_nothing(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=0)

    async def test() -> None:
        async with express(tmp_path) as (server, listener):
            wire = Wire(listener)
            wire.send(json_infer(LONG, binary_data=True) + binary_infer(1) + json_infer(2))
            first, second, third = await wire.answers(3)
            assert len(first) > 4 * LONG > len(second)
            assert b'"data":[1.5,1.5]' in third
            for data in (json_infer(LONG), binary_infer(LONG, parameters={})):
                gone = Wire(listener)
                gone.send(data)
                gone.leave()
            await asyncio.sleep(0.2)
            assert server.statistics("m")[0]["inference_stats"]["success"]["count"] in (3, 4)

    run(test)


def test_long_json_that_is_wrong_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=0)

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.send(json_infer(LONG)[:-1] + b"]" + json_infer(1))
            bad, good = await wire.answers(2)
            assert bad.startswith(b"HTTP/1.1 400") and b"Missing a comma or '}' after an object member." in bad
            assert good.startswith(b"HTTP/1.1 200")

    run(test)


@pytest.mark.parametrize("count", [defines.HTTP_REQUESTS_PER_TURN, 1000])
def test_pipelined_requests_share_turns_with_others(tmp_path: Path, count: int) -> None:
    write_model(tmp_path, "m", max_batch_size=0)
    refused = message("POST", INFER, b"{}")

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            greedy, light = Wire(listener), Wire(listener)
            greedy.send(refused * count)
            assert len(split(bytes(greedy.output))) == min(count, defines.HTTP_REQUESTS_PER_TURN)
            light.send(binary_infer(1))
            await light.answers(1)
            assert len(await greedy.answers(count)) == count

    run(test)


def test_a_large_body_is_read_over_several_turns(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=0)
    large = binary_infer(1 << 20)

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.send(large, 1 << 18)
            read = len(large) - wire.unread
            assert defines.HTTP_NBYTES_PER_TURN < read <= defines.HTTP_NBYTES_PER_TURN + (1 << 19)
            (answer,) = await wire.answers(1)
            assert len(answer) > 4 << 20

    run(test)


def test_requests_beyond_the_memory_for_them_are_refused_at_once(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=0)

    async def test() -> None:
        async with express(tmp_path) as (server, listener):
            for request in (binary_infer(1), json_infer(LONG, binary_data=True), message("POST", INFER + "?", b"{}")):
                wire = Wire(listener)
                server.max_held_nbytes = 0  # nothing is in flight: one more fits
                wire.send(request)
                (answer,) = await wire.answers(1)
                assert b" 503 " not in answer.split(b"\r\n")[0]
                server.max_held_nbytes = -1
                wire.send(binary_infer(1))
                refused = (await wire.answers(2))[1]
                assert refused.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nRetry-After: 1\r\n" in refused
                assert b"too many bytes of requests are in flight" in refused

    run(test)


def test_a_client_hears_that_the_server_goes_with_its_next_answer(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=0)

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            old, idle = Wire(listener), Wire(listener)
            for wire in (old, idle):
                wire.send(binary_infer(1))
                await wire.answers(1)
            listener.leave()
            fresh = Wire(listener)
            for count, wire in ((2, old), (1, fresh)):
                wire.send(binary_infer(1))
                answer = (await wire.answers(count))[-1]
                assert b"\r\nConnection: close\r\n" in answer
                await wire.until(lambda wire: wire.closed)
            assert not idle.closed
            assert listener.connected
            listener.hub.stop()
            assert idle.closed

    run(test)
