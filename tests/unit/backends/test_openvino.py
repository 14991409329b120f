"""The OpenVINO backend on models made here, answers compared with those of the library itself."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inference import request, values
from openvino_models import EXACT, Loaded, config, inlet, one, op, outlet, ov, parameter, write

from triton_async.backends.base import execute_requests
from triton_async.errors import InternalError, InvalidArg
from triton_async.infer.tensor import from_numpy
from triton_async.memory.slab import SlabPool

FP32, BF16 = 11, 14
RNG = np.random.default_rng(7)
WEIGHTS = RNG.standard_normal((16, 8)).astype(np.float32)


def product(x: Any) -> Any:
    return op.relu(op.matmul(x, op.constant(WEIGHTS), False, False))


def theirs(directory: Path, *arrays: Any) -> list[Any]:
    """What the library itself answers, in FP32."""
    compiled = ov.Core().compile_model(str(directory / "1" / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return list(compiled(list(arrays)).values())


def test_a_model_without_a_config_batches_and_answers_as_the_library(tmp_path: Path, pool: SlabPool) -> None:
    directory = write(tmp_path, one(product, [-1, 16]))
    loaded = Loaded(directory, pool, {"INFERENCE_PRECISION": "f32"})
    assert (loaded.config.backend, loaded.config.max_batch_size) == ("openvino", 4)
    assert loaded.config.dynamic_batching is not None
    assert [(io.name, io.datatype, io.dims) for io in (*loaded.config.inputs, *loaded.config.outputs)] == [
        ("x", FP32, (16,)), ("y", FP32, (8,)),
    ]  # fmt: skip
    arrays = [RNG.standard_normal((rows, 16)).astype(np.float32) for rows in (1, 2, 1)]
    found = [values(response)["y"] for response in loaded.run(*(request(x=array) for array in arrays))]
    assert [array.shape[0] for array in found] == [1, 2, 1]
    assert np.array_equal(np.concatenate(found), theirs(directory, np.concatenate(arrays))[0])


DTYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16, "FP32": np.float32,
    "FP64": np.float64,
}  # fmt: skip


@pytest.mark.parametrize("name", DTYPES)
def test_every_datatype_comes_back_as_it_is(tmp_path: Path, pool: SlabPool, name: str) -> None:
    dtype = DTYPES[name]
    made = one(lambda x: op.concat([x, x], 1), [-1, 3], dtype)
    loaded = Loaded(write(tmp_path, made, config([f"x {name} [3]"], [f"y {name} [6]"], 8)), pool)
    array = np.array([[0, 1, 100]]).astype(dtype)
    assert np.array_equal(loaded.run_one(x=array)["y"], np.concatenate([array, array], 1))


def test_bf16_is_served_as_its_bits(tmp_path: Path, pool: SlabPool) -> None:
    for shape, text in (([-1, 2], config(["x BF16 [2]"], ["y BF16 [2]"], 8)),
                        ([-1, -1], config(["x BF16 [-1]"], ["y BF16 [-1]"], 8))):
        name = f"m{len(text)}"
        loaded = Loaded(write(tmp_path, one(op.relu, shape, ov.Type.bf16), text, name), pool)
        found = loaded.run_one(x=from_numpy("x", np.array([[0x3F80, 0xBF80]], np.uint16), BF16))
        assert found["y"].view(np.uint16).tolist() == [[0x3F80, 0]]


def test_any_byte_of_a_bool_is_true(tmp_path: Path, pool: SlabPool) -> None:
    made = one(op.logical_not, [-1, 3], np.bool_)
    loaded = Loaded(write(tmp_path, made, config(["x BOOL [3]"], ["y BOOL [3]"], 8)), pool)
    assert loaded.run_one(x=np.array([[0, 1, 77]], np.uint8).view(np.bool_))["y"].tolist() == [[True, False, False]]


@pytest.mark.parametrize(("shape", "batch"), [([1, 16], 8), ([ov.Dimension(1, 4), 16], 8), ([4, 16], 8), ([1, 16], 1)])
def test_the_batch_of_a_model_is_changed_for_max_batch_size(
    tmp_path: Path, pool: SlabPool, shape: Any, batch: int
) -> None:
    loaded = Loaded(write(tmp_path, one(product, shape), config(["x FP32 [16]"], ["y FP32 [8]"], batch)), pool)
    array = RNG.standard_normal((batch, 16)).astype(np.float32)
    assert np.allclose(loaded.run_one(x=array)["y"], np.maximum(array @ WEIGHTS, 0), atol=1e-5)
    assert loaded.run_one(x=array[:1])["y"].shape == (1, 8)


def test_a_batch_that_the_outputs_do_not_follow_is_refused(tmp_path: Path, pool: SlabPool) -> None:
    made = one(lambda x: op.reshape(x, op.constant(np.array([1, -1], np.int64)), False), [1, 4])
    with pytest.raises(InvalidArg, match=r"output 'y' stays \[1,4\.\.32\] when its inputs have more rows"):
        Loaded(write(tmp_path, made, config(["x FP32 [4]"], ["y FP32 [-1]"], 8)), pool)


def test_skipped_dynamic_batches_and_padding(tmp_path: Path, pool: SlabPool) -> None:
    text = config(["x FP32 [16]"], ["y FP32 [8]"], 4, EXACT + parameter("SKIP_OV_DYNAMIC_BATCHSIZE", "YES"))
    array = RNG.standard_normal((4, 16)).astype(np.float32)
    loaded = Loaded(write(tmp_path, one(product, [1, 16]), text), pool)
    assert np.allclose(loaded.run_one(x=array)["y"], np.maximum(array @ WEIGHTS, 0), atol=1e-5)
    with pytest.raises(InvalidArg, match="has 3 rows, with SKIP_OV_DYNAMIC_BATCHSIZE it takes 4"):
        loaded.run_one(x=array[:3])
    padded = Loaded(write(tmp_path, one(product, [1, 16]), text + parameter("ENABLE_BATCH_PADDING", "YES"), "p"), pool)
    found = [values(answer)["y"] for answer in padded.run(request(x=array[:1]), request(x=array[1:3]))]
    assert np.allclose(np.concatenate(found), np.maximum(array[:3] @ WEIGHTS, 0), atol=1e-5)


def test_io_layers_take_the_dims_of_the_config(tmp_path: Path, pool: SlabPool) -> None:
    made = one(op.relu, [1, 3, 8, 8])
    dims = config(["x FP32 [3, 20, 10]"], ["y FP32 [3, 20, 10]"], 2)
    with pytest.raises(InvalidArg, match="Set the parameter RESHAPE_IO_LAYERS to YES"):
        Loaded(write(tmp_path, made, dims), pool)
    loaded = Loaded(write(tmp_path, made, dims + parameter("RESHAPE_IO_LAYERS", "YES"), "r"), pool)
    array = RNG.standard_normal((2, 3, 20, 10)).astype(np.float32)
    assert np.array_equal(loaded.run_one(x=array)["y"], np.maximum(array, 0))


def test_bounds_of_a_model_are_kept(tmp_path: Path, pool: SlabPool) -> None:
    made = one(op.relu, [-1, ov.Dimension(2, 8)])
    loaded = Loaded(write(tmp_path, made, config(["x FP32 [-1]"], ["y FP32 [-1]"], 4)), pool)
    assert loaded.run_one(x=np.ones((2, 8), np.float32))["y"].shape == (2, 8)
    for size in (1, 9):
        with pytest.raises(InvalidArg, match=f"'x' of model 'm' has {size} elements in dimension 1, the model takes 2"):
            loaded.run_one(x=np.ones((2, size), np.float32))
    with pytest.raises(InvalidArg, match="has 9 elements in dimension 1 by the configuration, the model takes 2 to 8"):
        Loaded(write(tmp_path, made, config(["x FP32 [9]"], ["y FP32 [-1]"], 4), "n"), pool)


def test_outputs_whose_shape_a_run_decides(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, one(op.non_zero, [-1]), config(["x FP32 [-1]"], ["y INT64 [1, -1]"])), pool)
    for array in ([1, 0, 2], [0, 0], [3, 4, 5, 6]):
        expected = np.nonzero(np.array(array))[0]
        assert loaded.run_one(x=np.array(array, np.float32))["y"].tolist() == [expected.tolist()]


@pytest.mark.parametrize("longer", [True, False])
def test_outputs_of_other_rows_than_the_inputs_are_not_cut(tmp_path: Path, pool: SlabPool, longer: bool) -> None:
    # In a batching model they can not be given to requests, which core says; nothing is written beside the memory.
    parts = [lambda x: op.concat([x, x], 0), lambda x: op.strided_slice(x, [0, 0], [1, 4], [1, 1], [0, 0], [0, 0])]
    made = one(parts[0 if longer else 1], [-1, 4])
    loaded = Loaded(write(tmp_path, made, config(["x FP32 [4]"], ["y FP32 [4]"], 8)), pool)
    for _ in range(2):
        with pytest.raises(InternalError, match="y"):
            loaded.run_one(x=np.ones((3, 4), np.float32))


def test_scalars_and_empty_tensors(tmp_path: Path, pool: SlabPool) -> None:
    made = one(lambda x: op.add(x, op.constant(np.float32(1))), [])
    loaded = Loaded(write(tmp_path, made, config(["x FP32 [1]"], ["y FP32 [1]"])), pool)
    assert loaded.run_one(x=np.array([2], np.float32))["y"].tolist() == [3]
    made = one(op.relu, [-1, 4])
    loaded = Loaded(write(tmp_path, made, config(["x FP32 [-1, 4]"], ["y FP32 [-1, 4]"]), "e"), pool)
    assert loaded.run_one(x=np.empty((0, 4), np.float32))["y"].shape == (0, 4)


def test_bytes_that_stand_anywhere_are_taken(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, one(op.relu, [-1, 4]), config(["x FP32 [4]"], ["y FP32 [4]"], 4)), pool)
    body = b"?" + np.array([1, -2, 3, 4], np.float32).tobytes()
    for array in (np.frombuffer(body, np.uint8)[1:].view(np.float32), np.frombuffer(body[1:], np.float32)):
        assert loaded.run_one(x=array.reshape(1, 4))["y"].tolist() == [[1, 0, 3, 4]]
    assert body[5:9] == np.float32(-2).tobytes()


def test_an_input_that_is_an_output_outlives_the_request(tmp_path: Path, pool: SlabPool) -> None:
    x = inlet("x", [-1, 4])
    half = op.relu(x)
    made = ov.Model([op.result(x), outlet(half, "a"), op.result(half), op.result(x)], [x], "m")
    loaded = Loaded(write(tmp_path, made, None), pool)
    names = [io.name for io in loaded.config.outputs]
    array = np.ones((1, 4), np.float32)
    answer = loaded.run(request(x=array))[0]
    assert len(set(names)) == 4
    array[:] = 9
    assert all(loaded.run_one(x=array)[name].tolist() == [[9] * 4] for name in names)
    assert all(values(answer)[name].tolist() == [[1] * 4] for name in names)


def test_names_of_ports(tmp_path: Path, pool: SlabPool) -> None:
    x = inlet("x", [-1, 4])
    made = ov.Model([outlet(op.relu(x), "zeta", "alpha"), op.add(x, x, name="plain")], [x], "m")
    loaded = Loaded(write(tmp_path, made), pool)
    assert loaded.config.outputs[0].name == "alpha"
    assert loaded.config.outputs[1].name == "plain"
    text = config(["x FP32 [4]"], ["plain FP32 [4]", "zeta FP32 [4]"], 4)
    loaded = Loaded(write(tmp_path, made, text, "z"), pool)
    found = loaded.run_one(x=np.full((1, 4), -3, np.float32))
    assert (found["zeta"][0, 0], found["plain"][0, 0]) == (0, -6)


def test_integers_beyond_32_bits_are_refused_unless_they_may_pass(tmp_path: Path, pool: SlabPool) -> None:
    made = one(lambda x: op.add(x, op.constant(np.array(1, np.int64))), [-1, 2], np.int64)
    text = config(["x INT64 [2]"], ["y INT64 [2]"], 4)
    loaded = Loaded(write(tmp_path, made, text), pool)
    assert loaded.run_one(x=np.array([[-(1 << 31), 5]]))["y"].tolist() == [[1 - (1 << 31), 6]]
    for value in (1 << 31, -(1 << 31) - 1, 1 << 40):
        with pytest.raises(InvalidArg, match="'x' of model 'm' has a value outside the range of INT32"):
            loaded.run_one(x=np.array([[0, value]]))
    x = inlet("x", [-1, 2], np.int64)
    text = config(["x INT64 [2]"], ["x INT64 [2]"], 4, parameter("INT64_OUTSIDE_INT32", "pass"))
    loaded = Loaded(write(tmp_path, ov.Model([op.result(x)], [x], "m"), text, "p"), pool)
    assert loaded.run_one(x=np.array([[0, 1 << 40]]))["x"].tolist() == [[0, 1 << 40]]


def test_variables_are_not_kept_from_one_request_to_the_next(tmp_path: Path, pool: SlabPool) -> None:
    x = inlet("x", [1, 2])
    start = op.constant(np.zeros((1, 2), np.float32))
    total = op.add(op.read_value(start, "v", np.float32, [1, 2]), x)
    made = ov.Model([op.result(outlet(op.relu(total), "y"))], [op.assign(total, "v")], [x], "m")
    loaded = Loaded(write(tmp_path, made, config(["x FP32 [1, 2]"], ["y FP32 [1, 2]"])), pool)
    for _ in range(2):
        assert loaded.run_one(x=np.ones((1, 2), np.float32))["y"].tolist() == [[1, 1]]


def test_instances_share_the_model_and_run_side_by_side(tmp_path: Path, pool: SlabPool) -> None:
    text = config(["x FP32 [16]"], ["y FP32 [8]"], 8, EXACT + "instance_group { count: 3 kind: KIND_CPU }")
    loaded = Loaded(write(tmp_path, one(product, [-1, 16]), text), pool)
    instances = [loaded.make_instance(f"m_{number}") for number in range(3)]
    wrong: list[int] = []

    def work(number: int) -> None:
        for rows in (1, 5, 2, 8) * 10:
            array = np.full((rows, 16), number + rows, np.float32)
            answer = execute_requests(instances[number], loaded.signature, [request(x=array)])[0]
            if not np.allclose(values(answer)["y"], np.maximum(array @ WEIGHTS, 0), atol=1e-4):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_effective_precision_is_logged(
    tmp_path: Path, pool: SlabPool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    text = config(["x FP32 [16]"], ["y FP32 [8]"], 8)
    directory = write(tmp_path, one(product, [-1, 16]), text)
    loaded = Loaded(directory, pool)
    assert "model 'm': OpenVINO" in caplog.text and "inference precision f32, " in caplog.text
    array = RNG.standard_normal((8, 16)).astype(np.float32)
    assert np.array_equal(loaded.run_one(x=array)["y"], theirs(directory, array)[0])
    accurate = config(["x FP32 [16]"], ["y FP32 [8]"], 8, parameter("EXECUTION_MODE", "ACCURACY"))
    loaded = Loaded(write(tmp_path, one(product, [-1, 16]), accurate, "a"), pool)
    assert np.allclose(loaded.run_one(x=array)["y"], np.maximum(array @ WEIGHTS, 0), atol=1e-5)


def test_fp64_warns(tmp_path: Path, pool: SlabPool, caplog: pytest.LogCaptureFixture) -> None:
    Loaded(write(tmp_path, one(op.relu, [-1, 2], np.float64), config(["x FP64 [2]"], ["y FP64 [2]"], 2)), pool)
    assert "OpenVINO computes FP64 as FP32 on CPUs: 'x' has the precision of FP32" in caplog.text


def test_a_cache_follows_the_weights(tmp_path: Path, pool: SlabPool) -> None:
    # The same path, size and second: what a cache of the library's own is told apart by.
    text = config(["x FP32 [16]"], ["y FP32 [8]"], 8, EXACT + parameter("CACHE_DIR", str(tmp_path / "cache")))
    array = RNG.standard_normal((2, 16)).astype(np.float32)
    directory = write(tmp_path, one(product, [-1, 16]), text)
    first = Loaded(directory, pool).run_one(x=array)["y"]
    assert list((tmp_path / "cache").glob("*.blob"))
    made = one(lambda x: op.relu(op.matmul(x, op.constant(-WEIGHTS), False, False)), [-1, 16])
    ov.save_model(made, directory / "1" / "model.xml", compress_to_fp16=False)
    second = Loaded(directory, pool).run_one(x=array)["y"]
    assert np.allclose(first, np.maximum(array @ WEIGHTS, 0), atol=1e-5)
    assert np.allclose(second, np.maximum(-array @ WEIGHTS, 0), atol=1e-5)


def test_weights_that_are_written_over_do_not_change_answers(tmp_path: Path, pool: SlabPool) -> None:
    big = one(lambda x: op.add(x, op.constant(np.full((1, 4096), 2, np.float32))), [-1, 4096])
    directory = write(tmp_path, big, config(["x FP32 [4096]"], ["y FP32 [4096]"], 2))
    loaded = Loaded(directory, pool)
    weights = directory / "1" / "model.bin"
    with weights.open("r+b") as file:
        file.write(np.full(weights.stat().st_size // 4, 9, np.float32).tobytes())
    assert set(loaded.run_one(x=np.zeros((1, 4096), np.float32))["y"].ravel()) == {2}
