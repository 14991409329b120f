"""No request, and no connection, takes more of a turn of the loop than its share."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from core_harness import run, write_model
from express_harness import Wire, express, split
from http_harness import infer_body, message

from triton_async import defines

INFER = "/v2/models/m/infer"
LONG = defines.JSON_OFFLOAD_NBYTES // 2
STRINGS = defines.STRINGS_OFFLOAD_ELEMENTS + 1


def json_infer(count: int, **output: object) -> bytes:
    members = {"name": "INPUT0", "datatype": "FP32", "shape": [count], "data": [1.5] * count}
    outputs = {"outputs": [{"name": "OUTPUT0", "parameters": output}]} if output else {}
    return message("POST", INFER, json.dumps({"inputs": [members], **outputs}).encode())


def binary_infer(count: int, **members: object) -> bytes:
    body, headers = infer_body(np.ones(count, np.float32), **members)
    return message("POST", INFER, body, headers)


def string_infer(path: str = INFER) -> bytes:
    """Through either lane, by its path."""
    size = {"binary_data_size": 4 * STRINGS}
    entry = {"name": "INPUT0", "datatype": "BYTES", "shape": [STRINGS], "parameters": size}
    text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    fields = [("Inference-Header-Content-Length", str(len(text)))]
    return message("POST", path.replace("/m/", "/strings/"), text + bytes(4 * STRINGS), fields)


def generate(call: str, count: int) -> bytes:
    return message("POST", f"/v2/models/m/{call}", json.dumps({"INPUT0": [1.5] * count}).encode())


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_model(tmp_path, "m")
    config = write_model(tmp_path, "strings") / "config.pbtxt"
    config.write_text(config.read_text().replace("TYPE_FP32", "TYPE_STRING"))
    return tmp_path


@asynccontextmanager
async def busy_thread() -> AsyncIterator[Callable[[], None]]:
    """Nothing is done on other threads until what is yielded is called."""
    free = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(free.wait, 20)
        asyncio.get_running_loop().set_default_executor(executor)
        try:
            yield free.set
        finally:
            free.set()


@pytest.mark.parametrize("request_bytes", [
    json_infer(LONG, binary_data=True), binary_infer(LONG, parameters={}), binary_infer(LONG, parameters={}, outputs=[
        {"name": "OUTPUT0", "parameters": {"classification": LONG}},
    ]), string_infer(), string_infer(INFER + "?"), generate("generate", LONG), generate("generate", LONG * 3 // 8),
], ids=["json in", "json out", "classes", "strings", "strings, slow lane", "generate", "generated"])  # fmt: skip
def test_what_takes_long_is_done_elsewhere_while_others_are_answered(repository: Path, request_bytes: bytes) -> None:
    async def test() -> None:
        async with express(repository) as (_, listener), busy_thread() as go:
            greedy, light = Wire(listener), Wire(listener)
            greedy.send(request_bytes)
            for count in range(1, 4):
                light.send(binary_infer(1))
                await light.answers(count)
            assert not greedy.output
            go()
            (answer,) = await greedy.answers(1)
            assert answer.startswith(b"HTTP/1.1 200")

    run(test)


def test_the_events_of_a_stream_keep_their_order_whoever_encodes_them(tmp_path: Path) -> None:
    """What is long is encoded elsewhere, what is short waits for it."""
    count = LONG // 2
    code = MODEL.format(count=count)
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.py").write_text(code)
    (tmp_path / "m" / "config.pbtxt").write_text(DECOUPLED)

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.send(message("POST", "/v2/models/m/generate_stream", b'{"INPUT0": 1}'))
            output = await wire.until(lambda wire: wire.output.endswith(b"0\r\n\r\n"))
            text = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", output.partition(b"\r\n\r\n")[2].partition(b"\r\n")[2])
            events = [json.loads(event[6:]) for event in text.split(b"\n\n") if event.startswith(b"data: ")]
            assert [event["OUTPUT0"] for event in events] == [0.0, [1.0] * count, 2.0, [3.0] * count, 4.0]

    run(test)


MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for number in range(5):
                values = np.full({count} if number % 2 else 1, number, np.float32)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", values)]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
DECOUPLED = """
backend: "python"
input { name: "INPUT0" data_type: TYPE_FP32 dims: 1 }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }
model_transaction_policy { decoupled: true }
"""


def test_what_generate_writes_elsewhere_is_what_it_writes_here(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            short, long = Wire(listener), Wire(listener)
            short.send(generate("generate", 100))
            long.send(generate("generate", 100_000))
            ((answer,), (other,)) = await short.answers(1), await long.answers(1)
            few, many = (b",".join([b"1.5"] * count) for count in (100, 100_000))
            assert other.partition(b"\r\n\r\n")[2] == answer.partition(b"\r\n\r\n")[2].replace(few, many)

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


def test_as_many_requests_as_the_memory_for_them_takes_are_answered(tmp_path: Path) -> None:
    """One more is refused at once, while these are in work."""
    write_model(tmp_path, "m", delay_ms=200)

    async def test() -> None:
        async with express(tmp_path) as (server, listener):
            # Two are in flight when a third one comes.
            server.max_held_nbytes = 2 * (defines.REQUEST_NBYTES + 4)
            wires = [Wire(listener) for _ in range(4)]
            for wire in wires:
                wire.send(binary_infer(1))
            assert wires[3].output.startswith(b"HTTP/1.1 503 ")
            assert not any(wire.output for wire in wires[:3])
            for wire in wires[:3]:
                assert (await wire.answers(1))[0].startswith(b"HTTP/1.1 200")

    run(test)


CONTROL = ("/v2/repository/index", "/v2/repository/models/m/unload", "/v2/trace/setting", "/v2/logging")
BOUND = f"exceeds the maximum of {defines.CONTROL_MAX_NBYTES} bytes".encode()


@pytest.mark.parametrize("path", CONTROL)
def test_bodies_of_control_calls_have_a_bound(tmp_path: Path, path: str) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.send(message("POST", path, b"{}".ljust(defines.CONTROL_MAX_NBYTES)))
            (good,) = await wire.answers(1)
            assert BOUND not in good
            wire.send(message("POST", path, b"{}".ljust(defines.CONTROL_MAX_NBYTES + 1)))
            bad = (await wire.answers(2))[1]
            assert bad.startswith(b"HTTP/1.1 400 ")
            assert BOUND in bad

    run(test)


def test_loads_bring_files_and_have_the_bound_of_inference(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.send(message("POST", "/v2/repository/models/m/load", b"{}".ljust(4 << 20)))
            (good,) = await wire.answers(1)
            assert b"maximum allowed" not in good
            wire.send(message("POST", "/v2/repository/models/m/load", b"{}".ljust((4 << 20) + 1)))
            assert b"maximum allowed input size of 4194304 bytes" in (await wire.answers(2))[1]

    run(test)


@pytest.mark.parametrize("path", CONTROL)
def test_bodies_of_control_calls_have_a_bound_of_values_and_of_levels(tmp_path: Path, path: str) -> None:
    write_model(tmp_path, "m")
    most = defines.JSON_MAX_CONTROL_VALUES

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)

            async def ask(value: bytes) -> bytes:
                before = len(split(bytes(wire.output)))
                wire.send(message("POST", path, b'{"x":' + value + b"}"))
                return (await wire.answers(before + 1))[before]

            def values(count: int) -> bytes:
                # Beside the document and the array.
                return b"[" + b",".join([b'"a,[{"'] * (count - 1)) + b"]"

            assert b"values" not in await ask(values(most - 1))
            assert b"the request JSON has more than 4096 values" in await ask(values(most))
            deepest = defines.JSON_MAX_DEPTH + 2
            assert b"nesting" not in await ask(b"[" * deepest + b"]" * deepest)
            assert b"JSON nesting depth exceeds maximum allowed limit (100)" in await ask(
                b"[" * (deepest + 1) + b"]" * (deepest + 1)
            )

    run(test)


@pytest.mark.parametrize("close", [False, True], ids=["more follows", "the last one"])
def test_a_long_answer_leaves_in_pieces_as_its_client_reads(tmp_path: Path, close: bool) -> None:
    write_model(tmp_path, "m")
    count = 2_000_000  # 8 MB of text
    head, end, body = binary_infer(count, parameters={}).partition(b"\r\n\r\n")
    asking = head + (b"\r\nConnection: close" if close else b"") + end + body

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.accepts = 1000
            wire.send(asking + (b"" if close else binary_infer(1)))
            await wire.until(lambda wire: len(wire.output) == 1000)
            assert len(wire.unsent) < 2 * defines.HTTP_PIECE_NBYTES
            assert listener.hub.unsent_nbytes > 4 * count - 2 * defines.HTTP_PIECE_NBYTES
            assert not wire.closed
            output = b""
            while wire.unsent:
                # Reads what the socket has, and stops.
                wire.accepts, waiting = 0, bytes(wire.unsent)
                wire.unsent.clear()
                output += waiting
                wire.protocol.resume_writing()
                assert len(wire.unsent) < 2 * defines.HTTP_PIECE_NBYTES
                await asyncio.sleep(0)
            wire.accepts = None

            def answered() -> list[bytes]:
                return split(bytes(wire.output[:1000]) + output + bytes(wire.output[1000:]))

            await wire.until(lambda _: len(answered()) == 2 - close)
            answers = answered()
            assert json.loads(answers[0].partition(b"\r\n\r\n")[2])["outputs"][0]["data"] == [1.0] * count
            assert wire.closed == close
            assert listener.hub.unsent_nbytes == 0

    run(test)


def test_a_client_that_leaves_in_the_middle_of_a_long_answer(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            wire = Wire(listener)
            wire.accepts = 1000
            wire.send(binary_infer(1_000_000, parameters={}))
            await wire.until(lambda wire: len(wire.output) == 1000)
            wire.leave()
            assert listener.hub.unsent_nbytes == 0

    run(test)
