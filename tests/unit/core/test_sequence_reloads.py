"""Sequences while their model is loaded anew: those that have begun go on where they are, new ones with what is new."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_harness import run, running

from triton_async.backends.registry import BackendRegistry
from triton_async.core.server import InferenceServer
from triton_async.errors import InvalidArg
from triton_async.infer.request import InferRequest
from triton_async.infer.tensor import from_numpy

START, END = 1, 2
CONFIG = """
    backend: "python"
    max_batch_size: 4
    input { name: "X" data_type: TYPE_FP32 dims: 1 }
    output { name: "Y" data_type: TYPE_FP32 dims: 1 }
    sequence_batching {
      max_sequence_idle_microseconds: %d
      control_input { name: "START" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }
      control_input { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }
      state { input_name: "SUM_IN" output_name: "SUM_OUT" data_type: TYPE_FP32 dims: 1 }
    }
    instance_group { count: 1 kind: KIND_CPU }
"""
# What it adds to each sum tells which load answers.
MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            total = sum(pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("X", "SUM_IN"))
            responses.append(pb_utils.InferenceResponse(
                [pb_utils.Tensor("Y", total + %d), pb_utils.Tensor("SUM_OUT", total)]
            ))
        return responses
"""


def write(root: Path, number: int, idle_us: int = 60_000_000) -> None:
    (root / "m" / "1").mkdir(parents=True, exist_ok=True)
    (root / "m" / "config.pbtxt").write_text(CONFIG % idle_us)
    (root / "m" / "1" / "model.py").write_text(MODEL % number)


@asynccontextmanager
async def serving(root: Path) -> AsyncIterator[InferenceServer]:
    options = ("--model-control-mode=explicit", "--load-model=m")
    async with running(root, *options, backends=BackendRegistry()) as server:
        yield server


async def step(server: InferenceServer, sequence: int, flags: int = 0) -> float:
    array = np.ones((1, 1), np.float32)
    made = InferRequest("m", inputs=[from_numpy("X", array)], sequence_id=sequence, flags=flags)
    response = await server.infer(made)
    if response.error is not None:
        raise response.error
    answer: Any = response.outputs[0].numpy()[0, 0]
    return float(answer)


async def reload(server: InferenceServer, root: Path, number: int, idle_us: int = 60_000_000) -> Any:
    """The model that was there before."""
    loaded = server.repository.models["m"].versions[1].loaded
    assert loaded is not None
    write(root, number, idle_us)
    await server.load_model("m")
    return loaded.model


async def until_gone(old: Any) -> None:
    deadline = time.monotonic() + 20
    while old.lingers:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_sequence_goes_on_where_it_began(tmp_path: Path) -> None:
    write(tmp_path, 100)

    async def test() -> None:
        async with serving(tmp_path) as server:
            assert await step(server, 1, START) == 101
            assert await step(server, 2, START) == 101
            old = await reload(server, tmp_path, 200)
            assert old.lingers
            assert await step(server, 1) == 102
            assert await step(server, 3, START) == 201
            assert await step(server, 2) == 102
            assert await step(server, 1, END) == 103
            assert old.lingers
            assert await step(server, 2, END) == 103
            await until_gone(old)
            with pytest.raises(InvalidArg, match="must specify the START flag"):
                await step(server, 1)
            assert await step(server, 3, END) == 202

    run(test)


def test_a_new_start_of_an_old_sequence_begins_with_the_new_model(tmp_path: Path) -> None:
    write(tmp_path, 100)

    async def test() -> None:
        async with serving(tmp_path) as server:
            await step(server, 1, START)
            old = await reload(server, tmp_path, 200)
            assert await step(server, 1, START) == 201
            await until_gone(old)
            assert await step(server, 1) == 202

    run(test)


def test_sequences_survive_several_loads(tmp_path: Path) -> None:
    write(tmp_path, 100)

    async def test() -> None:
        async with serving(tmp_path) as server:
            await step(server, 1, START)
            first = await reload(server, tmp_path, 200)
            await step(server, 2, START)
            second = await reload(server, tmp_path, 300)
            third = await reload(server, tmp_path, 400)
            assert not third.lingers
            assert [await step(server, number) for number in (1, 2)] == [102, 202]
            assert await step(server, 3, START) == 401
            assert await step(server, 2, END) == 203
            await until_gone(second)
            assert await step(server, 1, END) == 103
            await until_gone(first)

    run(test)


def test_an_old_sequence_that_is_idle_ends(tmp_path: Path) -> None:
    write(tmp_path, 100, idle_us=100_000)

    async def test() -> None:
        async with serving(tmp_path) as server:
            await step(server, 1, START)
            old = await reload(server, tmp_path, 200)
            await until_gone(old)
            with pytest.raises(InvalidArg, match="must specify the START flag"):
                await step(server, 1)

    run(test)


def test_without_sequences_nothing_lingers(tmp_path: Path) -> None:
    write(tmp_path, 100)

    async def test() -> None:
        async with serving(tmp_path) as server:
            await step(server, 1, START | END)
            old = await reload(server, tmp_path, 200)
            assert not old.lingers

    run(test)


@pytest.mark.parametrize("how", ["unload", "stop"])
def test_an_unload_ends_what_lingers(tmp_path: Path, how: str) -> None:
    write(tmp_path, 100)

    async def test() -> None:
        async with serving(tmp_path) as server:
            await step(server, 1, START)
            old = await reload(server, tmp_path, 200)
            assert old.lingers
            if how == "unload":
                await server.unload_model("m")
                await until_gone(old)

    begun = time.monotonic()
    run(test)
    assert time.monotonic() - begun < 20
