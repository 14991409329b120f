"""ONNX models whose inputs have no declared rank take tensors of any, where no config says how many dimensions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from core_harness import request, run, running
from onnx import TensorProto, helper

from triton_async.errors import InvalidArg

SHAPES: list[tuple[int, ...]] = [(3,), (2, 2), (1, 2, 3, 4), (), (0, 2)]


def write(root: Path, config: str = "") -> None:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("INPUT0", "OUTPUT0")]
    graph = helper.make_graph([helper.make_node("Neg", ["INPUT0"], ["OUTPUT0"])], "g", tensors[:1], tensors[1:])
    (root / "m" / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, root / "m" / "1" / "model.onnx")
    (root / "m" / "config.pbtxt").write_text(config)


def test_any_rank_is_taken(tmp_path: Path) -> None:
    write(tmp_path)

    async def test() -> None:
        async with running(tmp_path) as server:
            for shape in SHAPES:
                values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
                output = (await server.infer(request("m", values))).outputs[0]
                assert output.shape == shape
                assert output.numpy().tolist() == (-values).tolist()

    run(test)


def test_dims_of_a_config_hold(tmp_path: Path) -> None:
    dims = "data_type: TYPE_FP32 dims: [ -1, 2 ]"
    write(tmp_path, f'input {{ name: "INPUT0" {dims} }} output {{ name: "OUTPUT0" {dims} }}')

    async def test() -> None:
        async with running(tmp_path) as server:
            assert (await server.infer(request("m", np.ones((3, 2))))).outputs[0].shape == (3, 2)
            with pytest.raises(InvalidArg, match=r"Expected \[-1,2\], got \[3\]"):
                await server.infer(request("m", np.ones(3)))

    run(test)
