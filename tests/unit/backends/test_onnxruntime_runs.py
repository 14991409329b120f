"""How often ONNX Runtime runs a batch, and what is in an output that a run leaves alone."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from backend_models import FLOAT, INT64, Loaded, model, node, request, tensor, value, write
from compiled import load
from onnx import TensorProto, helper

from triton_async.errors import InternalError
from triton_async.memory.slab import SlabPool

BOOL = TensorProto.BOOL
# An output of five requests is written into slabs of ours from the second run on, and known to be so from the third.
ENOUGH = 5


@pytest.fixture(scope="module")
def calls() -> ModuleType:
    return load("ort_calls")


def gather() -> Any:
    return model(
        [node("Gather", ["x", "i"], ["y"])],
        [tensor("x", FLOAT, [4]), tensor("i", INT64, [1])],
        [tensor("y", FLOAT, [1])],
    )


def test_a_run_that_fails_by_itself_is_not_repeated(tmp_path: Path, pool: SlabPool, calls: ModuleType) -> None:
    loaded = Loaded(write(tmp_path, gather(), "max_batch_size: 0"), pool)
    calls.watch(loaded.instance)
    x = np.arange(4, dtype=np.float32)
    for run in range(1, 10):
        if run % 3:
            assert loaded.run_one(x=x, i=np.array([run % 4]))["y"].tolist() == [run % 4]
        else:
            with pytest.raises(InternalError, match="indices element out of data bounds") as caught:
                loaded.run_one(x=x, i=np.array([9]))
            del caught
        assert calls.count() == run


def test_a_run_that_gives_another_shape_is_repeated_once(tmp_path: Path, pool: SlabPool, calls: ModuleType) -> None:
    made = model(
        [node("Reshape", ["x", "shape"], ["y"])],
        [tensor("x", FLOAT, ["n"]), tensor("shape", INT64, [2])],
        [tensor("y", FLOAT, [2, 2])],
    )
    loaded = Loaded(write(tmp_path, made, "max_batch_size: 0"), pool)
    calls.watch(loaded.instance)
    x = np.arange(4, dtype=np.float32)
    for runs, shape in ((1, [2, 2]), (2, [2, 2]), (3, [2, 2]), (5, [4, 1]), (6, [1, 4]), (7, [2, 2])):
        found = loaded.run_one(x=x, shape=np.array(shape))["y"]
        assert found.shape == tuple(shape)
        np.testing.assert_array_equal(found.reshape(-1), x)
        assert calls.count() == runs


def test_what_a_run_leaves_alone_is_not_answered(tmp_path: Path, pool: SlabPool, calls: ModuleType) -> None:
    loaded = Loaded(write(tmp_path, gather(), "max_batch_size: 0"), pool)
    calls.watch(loaded.instance)
    x = np.arange(4, dtype=np.float32)
    for run in range(ENOUGH):
        assert loaded.run_one(x=x, i=np.array([run % 4]))["y"].tolist() == [run % 4]
    calls.skip(1)
    assert loaded.run_one(x=x, i=np.array([1]))["y"].tolist() == [1]
    assert calls.count() == ENOUGH + 2
    assert loaded.run_one(x=x, i=np.array([2]))["y"].tolist() == [2]
    assert calls.count() == ENOUGH + 3


def graph(name: str, nodes: list[Any], inputs: list[Any], output: list[Any], constants: tuple[Any, ...] = ()) -> Any:
    return helper.make_graph(nodes, name, inputs, output, list(constants))


def handed_on(operator: str) -> list[Any]:
    if operator == "Optional":
        return [node("Optional", ["x"], ["o"]), node("OptionalGetElement", ["o"], ["e"])]
    if operator == "Sequence":
        return [node("SequenceConstruct", ["x"], ["o"]), node("SequenceAt", ["o", "zero"], ["e"])]
    return [node(operator, ["x", "dims"] if operator == "Reshape" else ["x"], ["e"])]


def branches(operator: str) -> Any:
    """`y` is computed where `c`, else the graph's input is handed on."""
    constants = (helper.make_tensor("dims", INT64, [1], [64]), helper.make_tensor("zero", INT64, [], [0]))
    computed = graph("computed", [node("Neg", ["x"], ["t"])], [], [tensor("t", FLOAT, [64])])
    handed = graph("handed", handed_on(operator), [], [tensor("e", FLOAT, [64])], constants)
    return model(
        [node("If", ["c"], ["y"], then_branch=computed, else_branch=handed)],
        [tensor("x", FLOAT, [64]), tensor("c", BOOL, [])],
        [tensor("y", FLOAT, [64])],
    )


def loop() -> Any:
    """`y` is computed by a loop of one round where `c`, else by one of none, which hands its input on."""
    body = graph(
        "body",
        [node("Identity", ["more"], ["more_out"]), node("Neg", ["v"], ["v_out"])],
        [tensor("round", INT64, []), tensor("more", BOOL, []), tensor("v", FLOAT, [64])],
        [tensor("more_out", BOOL, []), tensor("v_out", FLOAT, [64])],
    )
    return model(
        [node("Loop", ["one", "c", "x"], ["y"], body=body)],
        [tensor("x", FLOAT, [64]), tensor("c", BOOL, [])],
        [tensor("y", FLOAT, [64])],
        [helper.make_tensor("one", INT64, [], [1])],
    )


@pytest.mark.parametrize("kind", ["Identity", "Reshape", "Optional", "Sequence", "Loop"])
@pytest.mark.parametrize("first", [True, False])
def test_an_output_that_is_handed_on_now_and_then(
    tmp_path: Path, pool: SlabPool, calls: ModuleType, kind: str, first: bool
) -> None:
    config = """max_batch_size: 0 input { name: "x" data_type: TYPE_FP32 dims: 64 }
        input { name: "c" data_type: TYPE_BOOL dims: 1 }"""
    loaded = Loaded(write(tmp_path, loop() if kind == "Loop" else branches(kind), config), pool)
    calls.watch(loaded.instance)
    choices = [first] * ENOUGH + [not first, first] * ENOUGH
    for step, choice in enumerate(choices):
        x = np.full(64, step + 1, np.float32)
        response = loaded.run(request(x=x, c=np.array([choice])))[0]
        x[:] = 1000
        assert value(response.outputs[0]).tolist() == [-(step + 1) if choice else step + 1] * 64
        assert pool.leased == (step > 0), "written into memory of ours"
        del response
    assert calls.count() == len(choices)
