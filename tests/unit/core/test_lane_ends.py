"""How what crosses a lane ends: long answers, requests given up behind the release of their inputs, memory on loan."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import native_libraries
import numpy as np
import pytest
from core_harness import write_model
from lane_pair import Pair, request, run, until

from triton_async.infer.request import InferRequest
from triton_async.infer.response import ResponseSink
from triton_async.infer.tensor import from_numpy
from triton_async.processes.calls import encoded

# Answers with an error of so many bytes.
FAILS = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse(error=pb_utils.TritonError("e" * int(
            pb_utils.get_input_tensor_by_name(request, "N").as_numpy()[0]))) for request in requests]
"""
CONFIG = """
    backend: "{backend}"
    input {{ name: "{name}" data_type: TYPE_INT32 dims: 1 }}
    output {{ name: "OUTPUT0" data_type: TYPE_INT32 dims: 1 }}
"""
# Takes three seconds for an answer, and gives up the inputs of even ones before.
ABANDONS = CONFIG + """
    model_transaction_policy {{ decoupled: true }}
    parameters {{ key: "mode" value {{ string_value: "abandon" }} }}
"""


class Heard(ResponseSink):
    """Notes what comes."""

    def __init__(self) -> None:
        self.responses: list[Any] = []
        self.n_released = 0

    def on_response(self, response: Any) -> None:
        self.responses.append(response)

    def on_released(self, request: Any) -> None:
        self.n_released += 1


def number(model: str, name: str, value: int) -> InferRequest:
    return InferRequest(model, inputs=[from_numpy(name, np.array([value], np.int32))])


@pytest.mark.parametrize("nbytes", [100, 65_000, 70_000, 500_000])
def test_an_error_comes_back_whatever_its_length(tmp_path: Path, nbytes: int) -> None:
    (tmp_path / "fails" / "1").mkdir(parents=True)
    (tmp_path / "fails" / "config.pbtxt").write_text(CONFIG.format(backend="python", name="N"))
    (tmp_path / "fails" / "1" / "model.py").write_text(FAILS)

    async def scenario(both: Pair) -> None:
        heard = Heard()
        for _ in range(3):
            both.remote.submit(number("fails", "N", nbytes), heard)
        await until(lambda: heard.n_released == 3 or both.problems)
        assert not both.problems
        assert [one.error.message for one in heard.responses] == ["e" * nbytes] * 3
        heard.responses.clear()
        assert both.model_process.in_flight == both.front_end.in_flight == 0
        await until(lambda: both.front_end.n_lent == 0)

    run(tmp_path, scenario)


@native_libraries.needs_compiler
def test_a_request_given_up_behind_the_release_of_its_inputs_is_over(tmp_path: Path) -> None:
    library = tmp_path / "abandons" / "1" / "libtriton_puppet.so"
    native_libraries.build(library, "puppet.c")
    (tmp_path / "abandons" / "config.pbtxt").write_text(ABANDONS.format(backend="puppet", name="INPUT0"))

    async def scenario(both: Pair) -> None:
        heard = Heard()
        given_up = number("abandons", "INPUT0", 2)
        both.remote.submit(given_up, heard)
        while not (await both.server.model_statistics("abandons"))[0]["execution_count"]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert both.front_end.in_flight == 1
        both.remote.cancel(given_up)
        await until(lambda: both.model_process.in_flight == 0)
        assert heard.n_released == 1
        assert both.front_end.in_flight == 0
        assert not heard.responses
        assert not both.problems

    run(tmp_path, scenario)


def test_what_a_front_end_may_still_read_stays_until_it_is_gone(tmp_path: Path) -> None:
    async def scenario(both: Pair) -> None:
        response = await both.remote.infer(request(np.ones((1, 5000), np.float32)))
        assert both.front_end.n_lent == 1
        both.say("front-end", b"\xff")
        await until(lambda: both.front_end.closed)
        # It is to be killed, which takes a moment, and may be writing this answer to its client.
        assert both.front_end.n_lent == 1
        both.front_end.take_back()
        assert both.front_end.n_lent == 0
        del response

    run(tmp_path, scenario)


def test_a_second_final_response_ends_the_model_process_for_the_front_end(tmp_path: Path) -> None:
    write_model(tmp_path, "slow", delay_ms=300)

    async def scenario(both: Pair) -> None:
        heard = Heard()
        asked = InferRequest("slow", inputs=[from_numpy("INPUT0", np.ones(1, np.float32))])
        both.remote.submit(asked, heard)
        final = b"\x02" + struct.pack("<QBQqHBI", 1, 1 | 2, 0, 1, 0, 1, 1) + b"x"
        both.say("model process", final)
        await until(lambda: heard.responses)
        assert not both.problems
        both.say("model process", final)
        await until(lambda: both.model_process.closed)
        assert both.problems[0][0] == "model process"
        assert len(heard.responses) == 1

    run(tmp_path, scenario)


@pytest.mark.parametrize("told", [
    {"settled": "1"}, {"settled": None}, {"connected": "yes"}, {"problem": 3}, {"pid": -1.5}, {"metrics": 7},
    {"metrics": {"lag_us": "x"}}, {"metrics": {"live": 3}}, {"metrics": {"live": {"request": None}}},
    {"metrics": {"log_lines_dropped": [1]}}, {"listening": []},
])  # fmt: skip
def test_news_of_a_front_end_that_are_none_end_it(tmp_path: Path, told: dict[str, Any]) -> None:
    async def scenario(both: Pair) -> None:
        both.say("front-end", b"\x09" + encoded(told))
        await until(lambda: both.front_end.closed)
        assert both.problems[0][0] == "front-end"

    run(tmp_path, scenario)
