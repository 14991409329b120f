"""Batches through an ONNX model: every datatype, shape and mix of requests, errors in the middle, no leaks."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_models import (
    FLOAT,
    INT64,
    STRING,
    Loaded,
    add_sub,
    identity,
    model,
    node,
    request,
    tensor,
    value,
    values,
    write,
)
from onnx import TensorProto, helper

from triton_async import datatypes
from triton_async.backends.base import execute_requests
from triton_async.errors import InternalError, InvalidArg
from triton_async.infer.tensor import encode_bytes, from_numpy, make
from triton_async.memory.slab import SlabPool

# v2 name -> (ONNX type, three values).
NUMBERS: dict[str, tuple[int, list[Any]]] = {
    "BOOL": (TensorProto.BOOL, [True, False, True]),
    "UINT8": (TensorProto.UINT8, [0, 1, 255]),
    "UINT16": (TensorProto.UINT16, [0, 1, 65535]),
    "UINT32": (TensorProto.UINT32, [0, 1, 2**32 - 1]),
    "UINT64": (TensorProto.UINT64, [0, 1, 2**64 - 1]),
    "INT8": (TensorProto.INT8, [-128, 0, 127]),
    "INT16": (TensorProto.INT16, [-(2**15), 0, 2**15 - 1]),
    "INT32": (TensorProto.INT32, [-(2**31), 0, 2**31 - 1]),
    "INT64": (TensorProto.INT64, [-(2**63), 0, 2**63 - 1]),
    "FP16": (TensorProto.FLOAT16, [-65504.0, 0.5, np.inf]),
    "FP32": (TensorProto.FLOAT, [-1.5, 0.0, np.nan]),
    "FP64": (TensorProto.DOUBLE, [-1e300, 0.0, np.inf]),
    "BF16": (TensorProto.BFLOAT16, [0x3F80, 0x0000, 0xFFFF]),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("dims", [["n", 3], ["n", "m"]], ids=["fixed", "dynamic"])
def test_every_number_type_survives(tmp_path: Path, pool: SlabPool, name: str, dims: list[int | str]) -> None:
    element_type, numbers = NUMBERS[name]
    datatype = datatypes.from_name(name)
    loaded = Loaded(write(tmp_path, identity(element_type, dims)), pool)
    dtype = np.uint16 if name == "BF16" else datatypes.numpy_dtype(datatype)
    rows = np.array([numbers, numbers[::-1]], dtype=dtype)
    for _ in range(3):
        one = from_numpy("x", rows, datatype)
        both = [request(x=one), request(x=from_numpy("x", rows[:1], datatype))]
        for response, expected in zip(loaded.run(*both), (rows, rows[:1]), strict=True):
            assert response.error is None
            assert response.outputs[0].datatype == datatype
            assert bytes(response.outputs[0]) == expected.tobytes()
            assert response.outputs[0].shape == expected.shape
        del one, both, response


def test_strings_of_several_requests(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, identity(STRING, ["n", 2])), pool)
    first = np.array([[b"a\0b", b"\xff\xfe"]], dtype=object)
    second = np.array([[b"", "ü".encode()], [b"x" * 70_000, b"\0"]], dtype=object)
    for _ in range(2):
        answers = [values(r)["y"] for r in loaded.run(request(x=first), request(x=second), request(x=first))]
        assert [a.tolist() for a in answers] == [first.tolist(), second.tolist(), first.tolist()]


def test_strings_that_are_not_text_all_byte_values(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, identity(STRING, ["n"]), "max_batch_size: 0 input { name: 'x' dims: -1 }"), pool)
    strings = [bytes([i]) * (i % 5) + bytes([255 - i]) for i in range(256)]
    assert loaded.run_one(x=np.array(strings, dtype=object))["y"].tolist() == strings


def test_no_strings_at_all(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, identity(STRING, ["n"]), "max_batch_size: 0 input { name: 'x' dims: -1 }"), pool)
    empty = make("x", 13, (0,), b"")
    assert loaded.run_one(x=empty)["y"].shape == (0,)


def test_rows_of_requests_stay_apart(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, add_sub(), "max_batch_size: 16"), pool)
    for _ in range(3):
        arrays = [np.full((rows, 16), rows, np.float32) for rows in (1, 3, 2, 5)]
        responses = loaded.run(*[request(INPUT0=a, INPUT1=a + 1) for a in arrays])
        for response, a in zip(responses, arrays, strict=True):
            found = values(response)
            np.testing.assert_array_equal(found["OUTPUT0"], a + a + 1)
            np.testing.assert_array_equal(found["OUTPUT1"], a - a - 1)
        del response, responses


def test_only_requested_outputs_come_back(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, add_sub()), pool)
    a = np.ones((1, 16), np.float32)
    for _ in range(2):
        assert list(values(loaded.run(request("OUTPUT1", INPUT0=a, INPUT1=a))[0])) == ["OUTPUT1"]
    found = [values(r) for r in loaded.run(request("OUTPUT0", INPUT0=a, INPUT1=a), request(INPUT0=a, INPUT1=a))]
    assert [sorted(f) for f in found] == [["OUTPUT0"], ["OUTPUT0", "OUTPUT1"]]
    np.testing.assert_array_equal(found[1]["OUTPUT1"], 0 * a)


def test_an_output_outlives_instance_model_and_batch(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, identity(FLOAT, ["n", "m"])), pool)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    response = loaded.run(request(x=x))[0]
    assert pool.leased == 0, "a dynamic output stays in the engine's own memory"
    loaded.instance.close()
    loaded.model.close()
    del loaded
    np.testing.assert_array_equal(response.outputs[0].numpy(), x)


def test_known_shapes_are_written_to_slabs(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, identity(FLOAT, ["n", 4])), pool)
    x = np.ones((1, 4), np.float32)
    first = loaded.run(request(x=x))
    assert pool.leased == 0, "the declared shape was not confirmed yet"
    second = loaded.run(request(x=x))
    assert pool.leased == 1
    del first, second


def test_a_declared_shape_that_stops_being_true(tmp_path: Path, pool: SlabPool) -> None:
    made = model(
        [node("Reshape", ["x", "shape"], ["y"])],
        [tensor("x", FLOAT, ["n"]), tensor("shape", INT64, [2])],
        [tensor("y", FLOAT, [2, 2])],
    )
    config = "max_batch_size: 0 output { name: 'y' data_type: TYPE_FP32 dims: [2, 2] }"
    loaded = Loaded(write(tmp_path, made, config), pool)
    x = np.arange(4, dtype=np.float32)
    for shape in ([2, 2], [2, 2], [4, 1], [1, 4], [2, 2]):
        found = loaded.run_one(x=x, shape=np.array(shape))["y"]
        assert found.shape == tuple(shape)
        np.testing.assert_array_equal(found.reshape(-1), x)


@pytest.mark.parametrize("dims", ["[1]", "[1, 1]"])
def test_scalars(tmp_path: Path, pool: SlabPool, dims: str) -> None:
    config = f"""max_batch_size: 0
        input {{ name: "x" data_type: TYPE_FP32 dims: {dims} }}
        output {{ name: "y" data_type: TYPE_FP32 dims: {dims} }}"""
    made = model([node("Neg", ["x"], ["y"])], [tensor("x", FLOAT, [])], [tensor("y", FLOAT, [])])
    loaded = Loaded(write(tmp_path, made, config), pool)
    shape = (1, 1) if dims == "[1, 1]" else (1,)
    for _ in range(3):
        found = loaded.run_one(x=np.full(shape, 3, np.float32))["y"]
        assert found.shape == shape
        assert found.reshape(-1).tolist() == [-3]


def test_a_scalar_string(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, identity(STRING, [])), pool)
    assert loaded.run_one(x=np.array([b"a\0"], dtype=object))["y"].tolist() == [b"a\0"]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_zero_size_tensors(tmp_path: Path, pool: SlabPool, shape: tuple[int, int]) -> None:
    config = """max_batch_size: 0 input { name: "x" data_type: TYPE_FP32 dims: [-1, -1] }
        output { name: "y" data_type: TYPE_FP32 dims: [-1, -1] }"""
    made = model([node("Neg", ["x"], ["y"])], [tensor("x", FLOAT, ["n", "m"])], [tensor("y", FLOAT, ["n", "m"])])
    loaded = Loaded(write(tmp_path, made, config), pool)
    for _ in range(2):
        assert loaded.run_one(x=np.zeros(shape, np.float32))["y"].shape == shape


def test_dynamic_dims_change_from_batch_to_batch(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, identity(FLOAT, ["n", "h", "w"])), pool)
    for shape in ((1, 2, 3), (2, 5, 1), (1, 100, 100), (3, 1, 1)):
        x = np.random.default_rng(0).random(shape, np.float32)
        np.testing.assert_array_equal(loaded.run_one(x=x)["y"], x)


def test_reshape_of_a_picture(tmp_path: Path, pool: SlabPool) -> None:
    config = """max_batch_size: 0
        input { name: "x" data_type: TYPE_FP32 dims: [3, -1, -1] reshape { shape: [1, 3, -1, -1] } }
        output { name: "y" data_type: TYPE_FP32 dims: [3, -1, -1] reshape { shape: [1, 3, -1, -1] } }"""
    loaded = Loaded(write(tmp_path, identity(FLOAT, [1, 3, "h", "w"]), config), pool)
    x = np.random.default_rng(0).random((3, 4, 5), np.float32)
    np.testing.assert_array_equal(loaded.run_one(x=x)["y"], x)


def test_reshape_of_batched_scalars(tmp_path: Path, pool: SlabPool) -> None:
    config = """max_batch_size: 8
        input { name: "x" data_type: TYPE_FP32 dims: [1] reshape { shape: [] } }
        output { name: "y" data_type: TYPE_FP32 dims: [1] reshape { shape: [] } }"""
    loaded = Loaded(write(tmp_path, identity(FLOAT, ["n"]), config), pool)
    x = np.arange(2, dtype=np.float32).reshape(2, 1)
    for _ in range(2):
        found = [values(r)["y"].tolist() for r in loaded.run(request(x=x), request(x=x[:1] + 7))]
        assert found == [[[0.0], [1.0]], [[7.0]]]


def test_optional_inputs_may_be_absent(tmp_path: Path, pool: SlabPool) -> None:
    made = model(
        [node("Add", ["x", "bias"], ["y"])],
        [tensor("x", FLOAT, ["n"]), tensor("bias", FLOAT, [1])],
        [tensor("y", FLOAT, ["n"])],
        [helper.make_tensor("bias", FLOAT, [1], [10.0])],
    )
    # Completed, a config has no weights among its inputs; written out it may.
    inputs = """
        input { name: "x" data_type: TYPE_FP32 dims: -1 }
        input { name: "bias" data_type: TYPE_FP32 dims: 1 optional: true }
    """
    loaded = Loaded(write(tmp_path, made, f"max_batch_size: 0 {inputs}"), pool)
    x = np.ones(2, np.float32)
    assert loaded.run_one(x=x)["y"].tolist() == [11, 11]
    assert loaded.run_one(x=x, bias=np.full(1, 2, np.float32))["y"].tolist() == [3, 3]
    assert loaded.run_one(x=x)["y"].tolist() == [11, 11]


@pytest.mark.parametrize("length", ["n", 100])
def test_outputs_that_are_inputs_or_constants(tmp_path: Path, pool: SlabPool, length: int | str) -> None:
    made = model(
        [node("Neg", ["x"], ["y"])],
        [tensor("x", FLOAT, [length])],
        [tensor("y", FLOAT, [length]), tensor("x", FLOAT, [length]), tensor("c", FLOAT, [2])],
        [helper.make_tensor("c", FLOAT, [2], [1.0, 2.0])],
    )
    loaded = Loaded(write(tmp_path, made, "max_batch_size: 0"), pool)
    for step in range(4):
        x = np.arange(100, dtype=np.float32) + step
        response = loaded.run(request(x=x))[0]
        x[:] = -1
        found = {output.name: value(output).tolist() for output in response.outputs}
        assert found["x"] == list(range(step, 100 + step)), "a copy: the request's bytes end with the batch"
        assert found["y"] == [-i for i in found["x"]]
        assert found["c"] == [1.0, 2.0]
        del response


def test_batched_outputs_that_are_inputs(tmp_path: Path, pool: SlabPool) -> None:
    made = model(
        [node("Neg", ["x"], ["y"])],
        [tensor("x", FLOAT, ["n", 4])],
        [tensor("y", FLOAT, ["n", 4]), tensor("x", FLOAT, ["n", 4])],
    )
    loaded = Loaded(write(tmp_path, made), pool)
    for step in range(4):
        x = np.full((1, 4), step, np.float32)
        for response in loaded.run(request(x=x), request(x=x + 10))[:1]:
            assert values(response)["x"].tolist() == [[step] * 4]
            assert values(response)["y"].tolist() == [[-step] * 4]
        del response


@pytest.mark.parametrize("offset", [1, 2, 4, 8, 63])
def test_bytes_that_start_anywhere(tmp_path: Path, pool: SlabPool, offset: int) -> None:
    loaded = Loaded(write(tmp_path, identity(TensorProto.DOUBLE, ["n", 3])), pool)
    x = np.arange(6, dtype=np.float64).reshape(2, 3)
    body = bytearray(offset) + x.tobytes()
    for _ in range(2):
        np.testing.assert_array_equal(loaded.run_one(x=make("x", 12, (2, 3), body, offset))["y"], x)


def test_a_failing_batch_leaves_the_instance_usable(tmp_path: Path, pool: SlabPool) -> None:
    made = model(
        [node("Add", ["x", "z"], ["y"])],
        [tensor("x", FLOAT, ["n"]), tensor("z", FLOAT, ["m"])],
        [tensor("y", FLOAT, [3])],
    )
    loaded = Loaded(write(tmp_path, made, "max_batch_size: 0"), pool)
    x = np.ones(3, np.float32)
    for _ in range(3):
        assert loaded.run_one(x=x, z=x)["y"].tolist() == [2, 2, 2]
        with pytest.raises(InternalError) as caught:
            loaded.run_one(x=x, z=np.ones(2, np.float32))
        assert str(caught.value).startswith(
            "onnx runtime error 1: Non-zero status code returned while running Add node. Name:'' Status Message: "
        )
        assert "Attempting to broadcast an axis by a dimension other than 1. 2 by 3" in str(caught.value)
        assert "/onnxruntime/" not in str(caught.value)
        del caught
    assert loaded.run_one(x=x, z=x)["y"].tolist() == [2, 2, 2]


def test_a_shape_the_model_does_not_take(tmp_path: Path, pool: SlabPool) -> None:
    config = """max_batch_size: 0 input { name: "x" data_type: TYPE_FP32 dims: [-1, 3] }
        output { name: "y" data_type: TYPE_FP32 dims: [-1, 3] }"""
    with pytest.raises(InvalidArg, match="the model expects 2 dimensions"):
        Loaded(write(tmp_path, identity(FLOAT, [2, 3]), config), pool)
    loaded = Loaded(write(tmp_path, identity(FLOAT, ["n", 3]), config, "b"), pool)
    with pytest.raises(InvalidArg, match="unexpected shape for input 'x'"):
        loaded.run_one(x=np.ones((2, 4), np.float32))


def test_every_request_of_a_failed_batch_gets_the_error(tmp_path: Path, pool: SlabPool) -> None:
    made = model(
        [node("GatherElements", ["x", "i"], ["y"], axis=1)],
        [tensor("x", FLOAT, ["n", 2]), tensor("i", INT64, ["n", 1])],
        [tensor("y", FLOAT, ["n", 1])],
    )
    loaded = Loaded(write(tmp_path, made, "max_batch_size: 8"), pool)
    x = np.ones((1, 2), np.float32)
    responses = loaded.run(request(x=x, i=np.array([[1]])), request(x=x, i=np.array([[7]])))
    assert all("GatherElements" in str(response.error) and not response.outputs for response in responses)
    del responses


def test_a_model_that_does_not_keep_its_rows(tmp_path: Path, pool: SlabPool) -> None:
    made = model(
        [node("Compress", ["x", "first"], ["y"], axis=0)],
        [tensor("x", FLOAT, ["n", 2])],
        [tensor("y", FLOAT, ["k", 2])],
        [helper.make_tensor("first", TensorProto.BOOL, [1], [True])],
    )
    loaded = Loaded(write(tmp_path, made, "max_batch_size: 8"), pool)
    x = np.ones((1, 2), np.float32)
    assert loaded.run_one(x=x)["y"].tolist() == [[1, 1]]
    for _ in range(2):
        responses = loaded.run(request(x=x), request(x=x))
        assert all("failed to split the output tensor 'y'" in str(response.error) for response in responses)
        del responses
    assert loaded.run_one(x=x)["y"].tolist() == [[1, 1]]


@pytest.mark.parametrize(
    "wire", [b"\x01\x00\x00", b"\x05\x00\x00\x00abc", encode_bytes([b"a"]) + b"x", encode_bytes([b"a", b"b", b"c"])]
)
def test_broken_string_framing_is_refused(tmp_path: Path, pool: SlabPool, wire: bytes) -> None:
    config = "max_batch_size: 0 input { name: 'x' data_type: TYPE_STRING dims: -1 }"
    loaded = Loaded(write(tmp_path, identity(STRING, ["n"]), config), pool)
    with pytest.raises(InvalidArg):
        loaded.run_one(x=make("x", 13, (2,), wire))


@pytest.mark.parametrize("shared", ["1", "0"])
def test_instances_run_at_the_same_time(tmp_path: Path, pool: SlabPool, shared: str) -> None:
    config = f"parameters {{ key: 'share_session_between_instances' value {{ string_value: '{shared}' }} }}"
    loaded = Loaded(write(tmp_path, add_sub(), config), pool)
    problems: list[str] = []

    def work(index: int) -> None:
        instance = loaded.make_instance(f"m_{index}")
        for step in range(300):
            a = np.full((1 + step % 3, 16), index * 1000 + step, np.float32)
            found = values(execute_requests(instance, loaded.signature, [request(INPUT0=a, INPUT1=a)])[0])
            if (found["OUTPUT0"] != 2 * a).any() or found["OUTPUT1"].any():
                problems.append(f"{index}: {step}")
        instance.close()

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert problems == []
