"""What crosses a front-end's lane and finds no memory on the other side becomes an error, and nothing of it stays.

Each in a process of its own: what others have left to the allocator would do for it.
"""

from __future__ import annotations

import multiprocessing
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from core_harness import write_model
from lane_pair import Pair, request, run, until
from memory_limit import little_memory
from test_processes import Heard

from triton_async.infer.request import InferRequest
from triton_async.infer.tensor import make

STRINGS = """
    backend: "identity"
    input { name: "INPUT0" data_type: TYPE_STRING dims: -1 }
    output { name: "OUTPUT0" data_type: TYPE_STRING dims: -1 }
    parameters { key: "execute_delay_ms" value { string_value: "200" } }
"""


def alone(test: Callable[[Path], None], root: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=test, args=(root,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


async def answers_small_ones(both: Pair) -> None:
    response = await both.remote.infer(request(np.ones((1, 1), np.float32)))
    assert response.outputs[0].numpy().tolist() == [[1.0]]
    del response
    await until(lambda: not (both.model_process.n_lent or both.front_end.n_lent))
    assert both.model_process.in_flight == both.front_end.in_flight == 0
    assert not both.problems


def long_request(root: Path) -> None:
    async def scenario(both: Pair) -> None:
        made = request(np.ones((1, 1 << 20), np.float32), parameters={"text": "a" * (20 << 20)})
        sink = Heard()
        both.remote.submit(made, sink)
        with little_memory(4 << 20):
            await until(sink.over)
        assert "no memory" in sink.responses[0].error.message
        del made, sink
        await answers_small_ones(both)

    run(root, scenario)


def large_response(root: Path) -> None:
    async def scenario(both: Pair) -> None:
        body = both.pool.acquire((40 << 20) + 4)
        memoryview(body)[:4] = struct.pack("<I", 40 << 20)
        made = InferRequest("strings", inputs=[make("INPUT0", 13, (1,), body)])
        sink = Heard()
        both.remote.submit(made, sink)
        await until(lambda: both.front_end.in_flight)
        # The server gives as much back as the front-end would take.
        with little_memory(-20 << 20):
            await until(sink.over)
        assert "no memory for a response" in sink.responses[0].error.message
        del made, sink, body
        await answers_small_ones(both)

    run(root, scenario)


def test_a_request_is_answered(tmp_path: Path) -> None:
    alone(long_request, tmp_path)


def test_a_response_becomes_an_error(tmp_path: Path) -> None:
    write_model(tmp_path, "strings").joinpath("config.pbtxt").write_text(STRINGS)
    alone(large_response, tmp_path)
