"""Plans as descriptions, configs and ONNX models for the tests of the TensorRT backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_models import FLOAT, model, node, tensor
from google.protobuf import text_format
from onnx import helper

from triton_async import datatypes
from triton_async.backends.tensorrt.api import Library, open_library
from triton_async.backends.tensorrt.describe import Dims, Plan, PlanTensor, Range
from triton_async.protos import ModelConfig as ModelConfigProto

FP32 = datatypes.from_name("FP32")
FP16 = datatypes.from_name("FP16")
INT32 = datatypes.from_name("INT32")


def rtx() -> Library:
    """TensorRT-RTX, whose builder works without a GPU; skips the test, saying so, where it is not installed."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (pip install tensorrt_rtx)")
    return open_library("rtx")


def given(name: str, dims: Dims, *ranges: tuple[Dims, Dims, Dims], datatype: int = FP32, **more: Any) -> PlanTensor:
    """An input; without `ranges` every profile has its fixed dims."""
    made = tuple(Range(*found) for found in ranges) or (Range(dims, dims, dims),)
    return PlanTensor(name, True, datatype, dims, ranges=made, **more)


def result(name: str, dims: Dims, datatype: int = FP32, **more: Any) -> PlanTensor:
    """An output."""
    return PlanTensor(name, False, datatype, dims, **more)


def batched(most: int = 8) -> Plan:
    """`x` [-1, 16] -> `y` [-1, 4], batches of 1 to `most`."""
    return Plan((given("x", (-1, 16), ((1, 16), (most, 16), (most, 16))), result("y", (-1, 4))))


def two_profiles() -> Plan:
    """`x` [-1, -1] -> `y` [-1, -1]: small batches of 4 to 32 columns, large ones of 32 to 64."""
    ranges = (((1, 4), (2, 8), (4, 32)), ((1, 32), (16, 64), (32, 64)))
    return Plan((given("x", (-1, -1), *ranges), result("y", (-1, -1))), profiles=2)


def shaped() -> Plan:
    """`x` [8] and the shape tensor `s` [1] -> `y` [-1]."""
    values = (Range((1,), (4,), (8,)),)
    return Plan(
        (
            given("x", (8,)),
            given("s", (1,), datatype=INT32, shape_tensor=True, host=True, values=values),
            result("y", (-1,)),
        )
    )


def config(text: str, name: str = "m") -> Any:
    """A config proto."""
    proto = ModelConfigProto(name=name)
    text_format.Parse(text, proto)
    return proto


def parameters(**given_values: str) -> str:
    """`parameters` of a config, as text."""
    return "".join(
        f"parameters {{ key: '{key}' value {{ string_value: '{value}' }} }}\n" for key, value in given_values.items()
    )


def io_text(inputs: Mapping[str, Sequence[int]], outputs: Mapping[str, Sequence[int]]) -> str:
    """FP32 tensors of a config, as text."""

    def entries(what: str, tensors: Mapping[str, Sequence[int]]) -> str:
        return "".join(
            f"{what} {{ name: '{name}' data_type: TYPE_FP32 dims: {list(dims)} }}\n" for name, dims in tensors.items()
        )

    return entries("input", inputs) + entries("output", outputs)


def linear(dims: Sequence[int | str] = ("n", 16), seed: int = 0) -> Any:
    """ONNX: `y` = relu(`x` W), W 16 by 16."""
    weights = np.random.default_rng(seed).standard_normal((16, 16)).astype(np.float32)
    return model(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
        [tensor("x", FLOAT, dims)],
        [tensor("y", FLOAT, dims)],
        [helper.make_tensor("w", FLOAT, [16, 16], weights.tobytes(), raw=True)],
    )


def write_onnx(directory: Path, made: Any, version: int = 1) -> Path:
    """model.onnx of a version of the model in `directory`."""
    path = directory / str(version) / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(made.SerializeToString())
    return path
