"""Instances that come to a sequence model and leave it while it serves: no sequence loses what it has."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_harness import run, running

from triton_async.backends.registry import BackendRegistry
from triton_async.core.server import InferenceServer
from triton_async.errors import ServerError
from triton_async.infer.request import InferRequest
from triton_async.infer.tensor import from_numpy

START, END = 1, 2
STRATEGIES = ("direct { }", "oldest { max_candidate_sequences: 2 }")
CONFIG = """
    backend: "python"
    max_batch_size: 2
    input { name: "X" data_type: TYPE_FP32 dims: 1 }
    output { name: "Y" data_type: TYPE_FP32 dims: 3 }
    sequence_batching {
      %s
      max_sequence_idle_microseconds: %d
      control_input { name: "START" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }
      control_input { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }
      state { input_name: "SUM_IN" output_name: "SUM_OUT" data_type: TYPE_FP32 dims: 1 }
    }
    instance_group { count: %d kind: KIND_CPU }
    parameters { key: "ISOLATION" value { string_value: "%s" } }
    model_warmup { name: "w" batch_size: 1 inputs { key: "X" value { data_type: TYPE_FP32 dims: 1 zero_data: true } } }
"""
# Says the sum that the server keeps, that which the instance keeps, and which instance it is.
MODEL = """
import os
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.number = float(args["model_instance_name"].rpartition("_")[2])
        self.sums = {}

    def execute(self, requests):
        responses = []
        for request in requests:
            x, start, sequence, total = [
                pb_utils.get_input_tensor_by_name(request, name).as_numpy().flat[0]
                for name in ("X", "START", "ID", "SUM_IN")
            ]
            self.sums[sequence] = x + (0 if start else self.sums.get(sequence, -1000))
            total = np.array([[total + x]], np.float32)
            said = np.array([[total[0, 0], self.sums[sequence], self.number]], np.float32)
            responses.append(pb_utils.InferenceResponse(
                [pb_utils.Tensor("Y", said), pb_utils.Tensor("SUM_OUT", total)]))
        return responses

    def finalize(self):
        open(os.path.join(pb_utils.get_model_dir(), "..", "..", "ended"), "a").write(f"{self.number:g} ")
"""


class Models:
    """One model in a server."""

    def __init__(self, root: Path, server: InferenceServer, strategy: str, isolation: str, idle_us: int) -> None:
        self.root = root
        self.server = server
        self.fields = (strategy, idle_us)
        self.isolation = isolation
        self.sums: dict[int, float] = {}

    def write(self, count: int) -> None:
        (self.root / "m" / "config.pbtxt").write_text(CONFIG % (*self.fields, count, self.isolation))

    async def have(self, count: int) -> None:
        """So many instances from now on; the model must not be loaded anew."""
        before = self.loaded
        self.write(count)
        await self.server.load_model("m")
        assert self.loaded is before

    @property
    def loaded(self) -> Any:
        return self.server.repository.models["m"].versions[1].loaded

    async def step(self, sequence: int, flags: int = 0) -> int:
        """Which instance it has."""
        value = random.random()
        x = from_numpy("X", np.full((1, 1), value, np.float32))
        made = InferRequest("m", inputs=[x], sequence_id=sequence, flags=flags)
        response = await self.server.infer(made)
        if response.error is not None:
            raise response.error
        kept, own, number = response.outputs[0].numpy()[0]
        total = np.float32(value) + (0 if flags & START else self.sums[sequence])
        assert kept == pytest.approx(total) and own == pytest.approx(total)
        self.sums[sequence] = total
        return int(number)

    def ended(self) -> list[int]:
        file = self.root / "ended"
        return [int(number) for number in file.read_text().split()] if file.exists() else []

    async def until_ended(self, *numbers: int) -> None:
        for _ in range(2000):
            if self.ended() == list(numbers):
                return
            await asyncio.sleep(0.01)
        raise AssertionError(self.ended())


@asynccontextmanager
async def serving(
    root: Path, count: int, strategy: str, isolation: str = "none", idle_us: int = 60_000_000
) -> AsyncIterator[Models]:
    (root / "models" / "m" / "1").mkdir(parents=True)
    (root / "models" / "m" / "1" / "model.py").write_text(MODEL)
    (root / "models" / "m" / "config.pbtxt").write_text(CONFIG % (strategy, idle_us, count, isolation))
    options = ("--model-control-mode=explicit", "--load-model=m")
    async with running(root / "models", *options, backends=BackendRegistry()) as server:
        yield Models(root / "models", server, strategy, isolation, idle_us)


both = pytest.mark.parametrize("strategy", STRATEGIES)


@both
def test_instances_that_come_take_sequences_that_wait(tmp_path: Path, strategy: str) -> None:
    async def test() -> None:
        async with serving(tmp_path, 1, strategy) as models:
            assert [await models.step(number, START) for number in (1, 2)] == [0, 0]
            waiting = [asyncio.ensure_future(models.step(number, START)) for number in (3, 4, 5)]
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in waiting)
            await models.have(2)
            assert [await task for task in waiting[:2]] == [1, 1]
            await models.have(3)
            assert await waiting[2] == 2
            assert [await models.step(number) for number in (1, 2, 3, 4, 5)] == [0, 0, 1, 1, 2]

    run(test)


@both
def test_a_new_instance_gets_its_share_at_once(tmp_path: Path, strategy: str) -> None:
    async def test() -> None:
        async with serving(tmp_path, 1, strategy) as models:
            for number in (1, 2):
                await models.step(number, START)
            await models.step(2, END)  # a slot that was used is free again
            await models.have(2)
            assert await models.step(3, START) == 1

    run(test)


@both
@pytest.mark.parametrize("isolation", ["none", "process"])
def test_an_instance_that_is_to_go_keeps_its_sequences_to_their_ends(
    tmp_path: Path, strategy: str, isolation: str
) -> None:
    async def test() -> None:
        async with serving(tmp_path, 2, strategy, isolation) as models:
            assert [await models.step(number, START) for number in (1, 2, 3)] == [0, 1, 0]
            await models.have(1)
            assert await models.step(2) == 1
            waiting = asyncio.ensure_future(models.step(4, START))
            assert [await models.step(number) for number in (1, 2, 3)] == [0, 1, 0]
            assert not waiting.done() and models.ended() == []
            assert await models.step(2, END) == 1
            await models.until_ended(1)
            assert not waiting.done()
            assert await models.step(3, END) == 0
            assert await waiting == 0
            await models.have(2)
            assert [await models.step(5, START), await models.step(4), await models.step(1)] == [1, 0, 0]

    run(test)


def test_instances_without_sequences_go_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path, 3, STRATEGIES[0]) as models:
            await models.step(1, START)
            await models.have(1)
            for _ in range(2000):
                if sorted(models.ended()) == [1, 2]:
                    break
                await asyncio.sleep(0.01)
            assert sorted(models.ended()) == [1, 2]
            assert await models.step(1) == 0

    run(test)


def test_sequences_that_idle_out_hold_no_instance(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path, 2, STRATEGIES[0], idle_us=300_000) as models:
            assert [await models.step(number, START) for number in (1, 2)] == [0, 1]
            await models.have(1)
            await models.until_ended(1)
            with pytest.raises(ServerError, match="must specify the START flag"):
                await models.step(2)

    run(test)


def test_an_unload_does_not_wait_for_sequences_of_instances_that_are_to_go(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path, 2, STRATEGIES[0]) as models:
            assert [await models.step(number, START) for number in (1, 2)] == [0, 1]
            await models.have(1)
            await models.server.unload_model("m")
            for _ in range(2000):
                if models.server.repository.models["m"].versions[1].reason == "unloaded":
                    break
                await asyncio.sleep(0.01)
            assert sorted(models.ended()) == [0, 1]

    run(test)


@both
@pytest.mark.parametrize("seed", range(3))
def test_sequences_beside_many_changes(tmp_path: Path, strategy: str, seed: int) -> None:
    chance = random.Random(seed)

    async def talk(models: Models, sequence: int) -> None:
        for _ in range(8):
            place = await models.step(sequence, START)
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(chance.random() * 0.01)
                assert await models.step(sequence) == place
            assert await models.step(sequence, END) == place

    async def change(models: Models) -> None:
        for _ in range(12):
            await models.have(chance.randrange(1, 5))
            await asyncio.sleep(chance.random() * 0.02)

    async def test() -> None:
        async with serving(tmp_path, 2, strategy) as models:
            await asyncio.gather(change(models), *(talk(models, number) for number in range(1, 14)))
            await models.have(1)
            assert models.loaded.model.sequences.live == 0

    run(test)
