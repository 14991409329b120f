"""Requests that repeat the last one of their connection are answered as on a connection of their own."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
from core_harness import run, write_model
from express_harness import Wire, express
from http_harness import infer_body, message

OUTPUTS = (
    [], [{"name": "OUTPUT0"}], [{"name": "OUTPUT0", "parameters": {"binary_data": True}}],
    [{"name": "OUTPUT0", "parameters": {"classification": 1}}],
)  # fmt: skip


def request(source: random.Random) -> bytes:
    values = np.float32([source.random() for _ in range(source.choice([1, 2, 2, 2]))])
    members: dict[str, Any] = {}
    if source.random() < 0.5:
        members["id"] = str(source.randrange(11))
    if source.random() < 0.7:
        members["parameters"] = {"binary_data_output": source.random() < 0.8}
    if source.random() < 0.5:
        members["outputs"] = source.choice(OUTPUTS)
    body, headers = infer_body(values, **members)
    if source.random() < 0.1:
        headers.append(("Accept-Encoding", "gzip"))
    return message("POST", "/v2/models/m/infer", body, headers)


def undated(answer: bytes) -> bytes:
    return re.sub(rb"\r\nDate: [^\r]*", b"", answer)


def test_as_on_a_connection_of_its_own(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    source = random.Random(3)

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            for piece in (1 << 30, 1 << 30, 300, 50):
                few = [request(source) for _ in range(6)]
                asked = [source.choice(few) for _ in range(40)]
                asked += [one for one in few for _ in range(4)]
                wire = Wire(listener)
                for count, one in enumerate(asked[:20], 1):
                    wire.send(one, piece)
                    await wire.answers(count)
                wire.send(b"".join(asked[20:]), piece)
                together = await wire.answers(len(asked))
                for one, answer in zip(asked, together, strict=True):
                    alone = Wire(listener)
                    alone.send(one)
                    assert undated((await alone.answers(1))[0]) == undated(answer)
                    alone.leave()
                wire.leave()

    run(test)


def test_a_model_that_is_another_by_then_is_asked_in_its_own_terms(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "m")
    body, headers = infer_body(np.float32([1, 2]))
    asked = message("POST", "/v2/models/m/infer", body, headers)

    async def test() -> None:
        async with express(tmp_path, "--model-control-mode=explicit", "--load-model=m") as (server, listener):
            wire = Wire(listener)
            for count in (1, 2, 3):
                wire.send(asked)
                assert len(await wire.answers(count)) == count
            config = (directory / "config.pbtxt").read_text()
            (directory / "config.pbtxt").write_text(config.replace("TYPE_FP32", "TYPE_INT32"))
            await server.load_model("m")
            wire.send(asked)
            refused = (await wire.answers(4))[3]
            assert b"data-type is 'FP32', but model 'm' expects 'INT32'" in refused
            (directory / "config.pbtxt").write_text(config.replace("OUTPUT0", "OTHER0"))
            await server.load_model("m")
            for count in (5, 6, 7):
                wire.send(asked)
                answer = (await wire.answers(count))[-1]
                text = answer.partition(b"\r\n\r\n")[2]
                assert json.loads(text[: text.index(b"]}") + 2])["outputs"][0]["name"] == "OTHER0"
            await server.unload_model("m")
            wire.send(asked)
            assert (await wire.answers(8))[7].startswith(b"HTTP/1.1 4")
            wire.leave()

    run(test)
