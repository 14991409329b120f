"""Runs of ONNX Runtime that core gives up, because nobody waits for them or because the server ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from compiled import load
from core_harness import run, running
from gated_backend import Recorder, until
from onnx import TensorProto, helper

from triton_async.backends.base import LoadContext, LoadedModel, ModelInstance
from triton_async.backends.onnxruntime import OnnxRuntimeBackend
from triton_async.errors import Unavailable
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.tensor import from_numpy

# Rounds of a run that takes seconds, and still ends when nobody ends it.
LONG = 3_000_000


class Watched(OnnxRuntimeBackend):
    """Has the runs of its only instance counted; a registry of itself."""

    def __init__(self, calls: ModuleType) -> None:
        super().__init__()
        self.calls = calls

    def get(self, name: str, place: object = None) -> OnnxRuntimeBackend:
        return self

    def load(self, context: LoadContext) -> LoadedModel:
        model = super().load(context)
        make = model.create_instance

        def create(*arguments: Any) -> ModelInstance:
            instance = make(*arguments)
            self.calls.watch(instance)
            return instance

        model.create_instance = create  # type: ignore[method-assign]
        return model


@pytest.fixture
def backend(tmp_path: Path) -> Watched:
    """Of a model that counts to `n`."""
    number, flag = TensorProto.INT64, TensorProto.BOOL

    def value(name: str, element_type: int = number) -> Any:
        return helper.make_tensor_value_info(name, element_type, [])

    body = helper.make_graph(
        [helper.make_node("Identity", ["more"], ["more_out"]), helper.make_node("Add", ["v", "one"], ["v_out"])],
        "body", [value("round"), value("more", flag), value("v")], [value("more_out", flag), value("v_out")],
    )  # fmt: skip
    constants = [helper.make_tensor("zero", number, [], [0]), helper.make_tensor("one", number, [], [1])]
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "zero"], ["y"], body=body)], "g", [value("n")], [value("y")], constants
    )
    (tmp_path / "m" / "1").mkdir(parents=True)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, tmp_path / "m" / "1" / "model.onnx")
    (tmp_path / "m" / "config.pbtxt").write_text("""
        backend: "onnxruntime" instance_group { count: 1 kind: KIND_CPU }
        input { name: "n" data_type: TYPE_INT64 dims: 1 } output { name: "y" data_type: TYPE_INT64 dims: 1 }
    """)
    return Watched(load("ort_calls"))


def request(rounds: int) -> InferRequest:
    return InferRequest("m", inputs=[from_numpy("n", np.array([rounds]))])


def answer(response: InferResponse) -> list[int]:
    found: list[int] = response.outputs[0].numpy().tolist()
    return found


async def begun(backend: Watched, count: int) -> None:
    await until(lambda: backend.calls.count() == count, f"{count} runs")


@pytest.mark.parametrize("before", [0, 3])
def test_a_run_that_nobody_waits_for_is_given_up(tmp_path: Path, backend: Watched, before: int) -> None:
    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            for rounds in range(before):
                assert answer(await server.infer(request(rounds))) == [rounds]
            sink, sent = Recorder(), request(LONG)
            server.submit(sent, sink)
            await begun(backend, before + 1)
            server.cancel(sent)
            assert answer(await server.infer(request(7))) == [7], "the next batch has nothing of it"
            assert answer(await server.infer(request(8))) == [8]
            assert sink.responses == []
            assert backend.calls.count() == before + 3, "it was run once"
            # Only runs that ended by themselves are executions.
            assert server.statistics("m")[0]["execution_count"] == before + 2
            assert 'reason="CANCELED",version="1"} 1' in b"".join(await server.metrics_parts()).decode()

    run(test)


def test_a_late_cancellation_hits_nobody(tmp_path: Path, backend: Watched) -> None:
    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            for round_ in range(1, 20):
                sink, sent = Recorder(), request(round_)
                server.submit(sent, sink)
                await until(lambda: sink.responses, "the answer")  # noqa: B023
                next_one = asyncio.ensure_future(server.infer(request(1000)))
                await begun(backend, 2 * round_)
                server.cancel(sent)
                assert answer(sink.responses[0]) == [round_]
                assert answer(await next_one) == [1000]
            server.interrupt()
            assert answer(await server.infer(request(5))) == [5], "nothing ran that could be given up"
            assert server.statistics("m")[0]["execution_count"] == 39

    run(test)


def test_clients_hear_that_a_run_was_given_up(tmp_path: Path, backend: Watched) -> None:
    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            for run_ in (1, 2):
                waiting = asyncio.ensure_future(server.infer(request(LONG)))
                await begun(backend, run_)
                server.interrupt()
                with pytest.raises(Unavailable, match=r"^the execution was given up$") as caught:
                    await waiting
                del caught, waiting
            assert server.statistics("m")[0]["execution_count"] == 0
            assert answer(await server.infer(request(5))) == [5]
            assert backend.calls.count() == 3

    run(test)
