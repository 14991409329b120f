"""The generate calls over a real port: inputs and outputs by name, streams of events, errors, slow and lost clients."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from core_harness import run, write_model
from gated_backend import until
from http_harness import Answer, Client, ask, head, message, serving
from scripted_backend import ScriptedBackend, write_script

ONE = (
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various "
    "number of responses"
)
WAIT_S = 20


async def chunk(client: Client) -> bytes:
    """The next chunk of a body."""
    async with asyncio.timeout(WAIT_S):
        size = int(await client.reader.readline(), 16)
        data = await client.reader.readexactly(size)
        assert await client.reader.readexactly(2) == b"\r\n"
        return data


async def begin(port: int, path: str, body: Any, limit: int = 1 << 26) -> tuple[Client, Answer]:
    """A connection on which the head of a stream has come. `limit`: of bytes that are read ahead of the test."""
    client = Client(*await asyncio.open_connection("127.0.0.1", port, limit=limit))
    await client.send(message("POST", path, json.dumps(body).encode()))
    return client, await client.receive()


async def rest(client: Client) -> list[Any]:
    """The events up to the end of a stream."""
    text = b""
    while True:
        data = await chunk(client)
        if not data:
            break
        text += data
    assert text.endswith(b"\n\n") or not text
    events = text.split(b"\n\n")[:-1]
    assert all(event.startswith(b"data: ") for event in events)
    return [json.loads(event[6:]) for event in events]


async def stream(port: int, path: str, body: Any) -> tuple[Answer, list[Any]]:
    client, answer = await begin(port, path, body)
    events = await rest(client)
    # The connection is there for the next request.
    await client.send(message("GET", "/v2/health/live"))
    assert (await client.receive()).status == 200
    client.close()
    return answer, events


async def generate(port: int, model: str, body: Any, call: str = "generate") -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await ask(port, "POST", f"/v2/models/{model}/{call}", data)


TENSORS = """
    input { name: "I" data_type: TYPE_INT32 dims: [ 2, -1 ] }
    input { name: "F" data_type: TYPE_FP32 dims: -1 }
    input { name: "S" data_type: TYPE_STRING dims: [ -1, 1 ] }
    input { name: "B" data_type: TYPE_BOOL dims: 1 optional: true }
    output { name: "O" data_type: TYPE_INT32 dims: [ 2, -1 ] }
    output { name: "P" data_type: TYPE_FP32 dims: -1 }
    output { name: "Q" data_type: TYPE_STRING dims: [ -1, 1 ] }
    output { name: "R" data_type: TYPE_BOOL dims: 1 }
"""


def write_tensors(root: Path, name: str, max_batch_size: int = 0) -> None:
    (root / name / "1").mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(f'backend: "identity" max_batch_size: {max_batch_size} {TENSORS}')


def test_inputs_and_outputs_go_by_their_names(tmp_path: Path) -> None:
    write_tensors(tmp_path, "m")

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            body = {"I": [1, 2, 3, 4], "F": 1.5, "S": ["ä", '"'], "B": True, "id": "7", "parameters": {"p": 1}}
            answer = await generate(endpoint.port, "m", body)
            assert answer.status == 200
            assert answer.headers["content-type"] == "application/json"
            assert list(json.loads(answer.body).items()) == [
                ("model_name", "m"), ("model_version", "1"), ("id", "7"), ("O", [1, 2, 3, 4]), ("P", 1.5),
                ("Q", ["ä", '"']), ("R", True),
            ]  # fmt: skip
            nested = {"parameters": {"I": [1, 2], "F": [], "S": "x", "B": False}}
            answer = await generate(endpoint.port, "m/versions/1", nested)
            assert json.loads(answer.body) == {
                "model_name": "m", "model_version": "1", "O": [1, 2], "P": [], "Q": "x", "R": False
            }
            first, events = await stream(endpoint.port, "/v2/models/m/generate_stream", body)
            assert first.status == 200
            assert first.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert [event["O"] for event in events] == [[1, 2, 3, 4]]

    run(test)


def test_a_model_that_batches_gets_its_rows(tmp_path: Path) -> None:
    write_model(tmp_path, "rows", max_batch_size=4)
    (tmp_path / "fixed/1").mkdir(parents=True)
    (tmp_path / "fixed/config.pbtxt").write_text(
        'backend: "identity" max_batch_size: 4 input { name: "X" data_type: TYPE_FP32 dims: 2 } '
        'output { name: "Y" data_type: TYPE_FP32 dims: 2 }'
    )

    async def test() -> None:
        async with serving(tmp_path) as (server, endpoint):
            answer = await generate(endpoint.port, "rows", {"INPUT0": [1, 2, 3]})
            assert json.loads(answer.body)["OUTPUT0"] == [1, 2, 3]
            answer = await generate(endpoint.port, "fixed", {"X": [1, 2, 3, 4]})
            assert json.loads(answer.body)["Y"] == [1, 2, 3, 4]
            counts = {entry["name"]: entry["inference_count"] for entry in server.statistics()}
            assert counts == {"rows": 1, "fixed": 2}
            answer = await generate(endpoint.port, "fixed", {"X": [1, 2, 3]})
            assert answer.status == 400
            assert answer.error == "The schema can not convert input 'X' to tensor with proper shape"

    run(test)


BAD = [
    (b"{", 400, "failed to parse the request JSON buffer: Missing a name for object member. at 1"),
    (b"[1]", 400, "attempt to get members for non-object"),
    (b'{"I":[1,2],"F":1,"S":1}', 400, "attempt to access JSON non-string as string"),
    (b'{"I":[1,"x"],"F":1,"S":"a"}', 400, "attempt to access JSON non-signed-integer as signed-integer"),
    (b'{"I":[1,2,3],"F":1,"S":"a"}', 400, "can not convert input 'I' to tensor with proper shape"),
    (b'{"I":[[1],[2]],"F":1,"S":"a"}', 400, "can not convert input 'I' to tensor with proper shape"),
    (b'{"I":{"x":1},"F":1,"S":"a"}', 400, "attempt to access JSON non-signed-integer as signed-integer"),
    (b'{"I":[1,2],"F":1,"S":{"a":"b"}}', 400, "JSON bytes array: attempt to access JSON non-string as string"),
    (b'{"I":[1,2],"F":{},"S":"a"}', 400, "attempt to access JSON non-number as double"),
    (b'{"I":[1,2],"F":1,"S":"a","B":{"x":true}}', 400, "attempt to access JSON non-boolean as boolean"),
    (b'{"I":[1,2],"F":1,"S":"a","F":2}', 400, "input 'F' already exists in request"),
    (b'{"I":[1,2],"F":1,"S":"a","S":"a","I":[3,4]}', 400, "input 'S' already exists in request"),
    (b'{"I":[1,2],"F":1,"parameters":{"S":"a","S":"b"}}', 400, "input 'S' already exists in request"),
    (b'{"I":[1,2],"parameters":{"I":[1,2]}}', 400, "input 'I' already exists in request"),
    (b'{"I":[1,2],"F":1}', 400, "expected number of inputs between 3 and 4 but got 2 inputs"),
    (b'{"I":[1,2],"F":1,"S":"a","p":null}', 400, "parameter 'p' has invalid type"),
    (b'{"I":[1,2],"F":1,"S":"a","p":[1]}', 400, "parameter 'p' has invalid type"),
    (b'{"I":[1,2],"F":1,"S":"a","triton_x":1}', 400, "are reserved for Triton usage"),
    (b'{"I":[1,2],"F":1,"S":"a","id":1}', 400, "Unable to parse 'id': attempt to access JSON non-string as string"),
    (b"", 400, "The document is empty."),
]


@pytest.mark.parametrize("call", ["generate", "generate_stream"])
def test_bad_input_has_an_error_and_costs_nothing_else(tmp_path: Path, call: str) -> None:
    write_tensors(tmp_path, "m")

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            for body, status, text in BAD:
                answer = await generate(endpoint.port, "m", body, call)
                assert (answer.status, text in answer.error) == (status, True), (body, answer)
            answer = await generate(endpoint.port, "nope", b"{}", call)
            assert (answer.status, answer.error) == (404, "Request for unknown model: 'nope' is not found")
            for encoding, status in (("gzip", 400), ("identity", 200)):
                answer = await ask(
                    endpoint.port, "POST", "/v2/models/m/generate", b'{"I":[1,2],"F":1,"S":"a","B":true}',
                    [("Content-Encoding", encoding)],
                )  # fmt: skip
                assert answer.status == status
            assert (await ask(endpoint.port, "GET", f"/v2/models/m/{call}")).status == 405

    run(test)


def test_bodies_and_inputs_have_a_bound(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with serving(tmp_path, limit=1000) as (_, endpoint):
            answer = await generate(endpoint.port, "m", {"INPUT0": [1] * 300})
            assert answer.status == 400
            assert "(1200 bytes) that exceeds the maximum allowed value of 1000 bytes" in answer.error
            answer = await generate(endpoint.port, "m", {"INPUT0": [1.25] * 300})
            assert answer.status == 400
            assert "exceeds the maximum allowed input size of 1000 bytes" in answer.error

    run(test)


def test_what_json_can_not_take_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "half/1").mkdir(parents=True)
    (tmp_path / "half/config.pbtxt").write_text(
        'backend: "identity" max_batch_size: 0 input { name: "X" data_type: TYPE_FP16 dims: -1 } '
        'output { name: "Y" data_type: TYPE_FP16 dims: -1 }'
    )
    (tmp_path / "parameters/1").mkdir(parents=True)
    (tmp_path / "parameters/config.pbtxt").write_text(
        'backend: "identity" max_batch_size: 0 input { name: "parameters" data_type: TYPE_FP32 dims: -1 } '
        'output { name: "Y" data_type: TYPE_FP32 dims: -1 }'
    )
    write_model(tmp_path, "m")

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            answer = await generate(endpoint.port, "half", {"X": 1})
            assert (answer.status, answer.error) == (400, "input 'X' has unsupported datatype FP16")
            answer = await generate(endpoint.port, "parameters", {"parameters": {"p": 1}})
            assert answer.error == "Keyword 'parameters' for nested schema also given as input tensor name"
            answer = await generate(endpoint.port, "parameters", {"parameters": [1, 2]})
            assert json.loads(answer.body)["Y"] == [1, 2]
            for text in (b"NaN", b"[NaN,-Inf]"):
                answer = await generate(endpoint.port, "m", b'{"INPUT0":%b}' % text)
                assert answer.body.endswith(b'"OUTPUT0":%b}' % text.replace(b"Inf", b"Infinity"))

    run(test)


# -- any number of responses -------------------------------------------------------------------------------------------


def scripted(tmp_path: Path) -> ScriptedBackend:
    write_script(tmp_path, "d")
    write_script(tmp_path, "e")
    return ScriptedBackend()


def script(*lines: str) -> dict[str, Any]:
    return {"SCRIPT": list(lines)}


STREAMS: list[tuple[tuple[str, ...], int, list[Any]]] = [
    (("say a", "say b", "end c"), 200, ["a", "b", "c"]),
    (("say a", "end"), 200, ["a"]),
    (("end",), 200, []),
    (("later", "say a", "end b"), 200, ["a", "b"]),
    (("say a", "fail no", "end b"), 200, ["a", {"error": "no"}, "b"]),
    (("fail no", "end b"), 400, [{"error": "no"}, "b"]),
    (("raise no",), 500, [{"error": "RuntimeError: no"}]),
    (("say a", "raise no"), 200, ["a", {"error": "RuntimeError: no"}]),
    (("say a", "drop"), 200, ["a", {"error": "model 'd' gave up a request without a final response"}]),
    (("ask e say x;end y", "end z"), 200, ["x", "y", "z"]),
]


@pytest.mark.parametrize(("lines", "status", "expected"), STREAMS)
def test_streams_of_events(tmp_path: Path, lines: tuple[str, ...], status: int, expected: list[Any]) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with serving(tmp_path, backends=backend) as (_, endpoint):
            answer, events = await stream(endpoint.port, "/v2/models/d/generate_stream", script(*lines))
            assert answer.status == status
            assert [event.get("OUT", event) for event in events] == expected

    run(test)


def test_response_parameters_stand_beside_the_outputs(tmp_path: Path) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with serving(tmp_path, backends=backend) as (_, endpoint):
            answer = await generate(endpoint.port, "d", {**script("set k v", "end a"), "id": "i"})
            assert json.loads(answer.body) == {
                "model_name": "d", "model_version": "1", "id": "i", "k": "v", "OUT": "a"
            }

    run(test)


@pytest.mark.parametrize(
    ("lines", "status", "text"),
    [
        (("end a",), 200, None), (("say a", "end"), 200, None), (("end",), 500, ONE), (("say a", "end b"), 500, ONE),
        (("fail no", "end"), 400, "no"), (("abort no",), 400, "no"), (("raise no",), 500, "RuntimeError: no"),
    ],
)  # fmt: skip
def test_generate_takes_exactly_one_response(
    tmp_path: Path, lines: tuple[str, ...], status: int, text: str | None
) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with serving(tmp_path, backends=backend) as (_, endpoint):
            answer = await generate(endpoint.port, "d", script(*lines))
            assert answer.status == status
            assert answer.body == (
                b'{"model_name":"d","model_version":"1","OUT":"a"}'
                if text is None
                else json.dumps({"error": text}, separators=(",", ":")).encode()
            )

    run(test)


def test_events_come_when_they_are_sent(tmp_path: Path) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with serving(tmp_path, backends=backend) as (_, endpoint):
            lines = script("say a", "hold", "end b")
            client, answer = await begin(endpoint.port, "/v2/models/d/generate_stream", lines)
            assert answer.status == 200
            assert b'"OUT":"a"' in await chunk(client)
            backend.gate.set()
            assert [event["OUT"] for event in await rest(client)] == ["b"]
            client.close()

    run(test)


def test_many_small_responses_share_writes(tmp_path: Path) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with serving(tmp_path, backends=backend) as (_, endpoint):
            client, _ = await begin(
                endpoint.port, "/v2/models/d/generate_stream", script("flood 2000 5", "end")
            )
            chunks = 0
            events = b""
            while data := await chunk(client):
                chunks += 1
                events += data
            assert events.count(b"data: ") == 2000
            assert chunks < 500
            client.close()

    run(test)


@pytest.mark.parametrize("begun", [True, False])
def test_a_client_that_goes_cancels_its_request(tmp_path: Path, begun: bool) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with serving(tmp_path, backends=backend) as (server, endpoint):
            lines = (["say a"] if begun else []) + ["hold", "flood 1000000 10", "end"]
            client = await Client.connect(endpoint.port)
            body = json.dumps(script(*lines)).encode()
            await client.send(message("POST", "/v2/models/d/generate_stream", body))
            if begun:
                await client.receive()
            else:
                await until(lambda: _running(server), "the request is in work")
            client.reset()
            await asyncio.sleep(0.05)
            backend.gate.set()
            assert await asyncio.to_thread(backend.cancelled.wait, WAIT_S)

    run(test)


def _running(server: Any) -> bool:
    return any(model.in_flight for model in server.repository.held_models())


def test_a_client_that_does_not_read_holds_the_sender_back(tmp_path: Path) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with serving(tmp_path, backends=backend) as (_, endpoint):
            client, _ = await begin(
                endpoint.port, "/v2/models/d/generate_stream", script("flood 20000 1000", "end"), 1 << 12
            )
            seen = -1
            async with asyncio.timeout(WAIT_S):
                while backend.sent != seen or not backend.waits:
                    seen = backend.sent
                    await asyncio.sleep(0.3)
            assert seen < 20000, "it waits"
            # Others are served meanwhile.
            assert (await generate(endpoint.port, "e", script("end x"))).status == 200
            assert len(await rest(client)) == 20000
            client.close()

    run(test)


def test_a_model_that_does_not_wait_costs_its_client_the_stream(tmp_path: Path) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with serving(tmp_path, backends=backend) as (_, endpoint):
            client, _ = await begin(
                endpoint.port, "/v2/models/d/generate_stream", script("rude 1000000 100", "end"), 1 << 12
            )
            assert await asyncio.to_thread(backend.cancelled.wait, WAIT_S)
            events = await rest(client)
            assert events[-1] == {"error": "too many responses wait for this client"}
            client.close()

    run(test)


def test_a_stream_that_is_open_at_the_end_is_finished(tmp_path: Path) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with serving(tmp_path, backends=backend) as (_, endpoint):
            client, _ = await begin(endpoint.port, "/v2/models/d/generate_stream", script("say a", "hold", "end b"))
            stopping = asyncio.ensure_future(endpoint.close(10))
            await asyncio.sleep(0.1)
            backend.gate.set()
            assert [event["OUT"] for event in await rest(client)][-1:] == ["b"]
            await stopping
            client.close()

    run(test)


def test_http_1_0_reads_events_to_the_end_of_the_connection(tmp_path: Path) -> None:
    backend = scripted(tmp_path)

    async def test() -> None:
        async with serving(tmp_path, backends=backend) as (_, endpoint):
            body = json.dumps(script("say a", "end b")).encode()
            client = await Client.connect(endpoint.port)
            request = head("POST", "/v2/models/d/generate_stream", [("Content-Length", str(len(body)))])
            await client.send(request.replace(b"HTTP/1.1", b"HTTP/1.0") + body)
            async with asyncio.timeout(WAIT_S):
                text = await client.reader.read()
            assert "transfer-encoding" not in text.decode().lower()
            assert text.count(b"data: ") == 2
            client.close()

    run(test)
