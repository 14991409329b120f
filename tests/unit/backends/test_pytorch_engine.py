"""The engine that runs PyTorch models on a GPU, here with the host as its device."""

from __future__ import annotations

import ctypes
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_pytorch_instance import NUMBERS, Counter, Grow, Identity
from torch_models import BACKEND, AddSub, Loaded, config, script, torch, write

from triton_async import datatypes
from triton_async.backends.device.engine import DeviceTensor
from triton_async.backends.pytorch.engine import HostMemory, TorchEngine
from triton_async.backends.pytorch.tensors import Converter
from triton_async.config.model_config import InstanceKind
from triton_async.errors import InternalError, InvalidArg
from triton_async.memory.slab import SlabPool

PAIR = (["x FP32 [4]", "y FP32 [4]"], ["sum FP32 [4]", "difference FP32 [4]"])


def engine_of(loaded: Loaded) -> TorchEngine:
    caller = loaded.instance._caller  # type: ignore[attr-defined]
    return TorchEngine(caller, Converter(torch), HostMemory(torch))


def tensor(array: Any) -> DeviceTensor:
    return DeviceTensor(array.ctypes.data if array.nbytes else 0, array.shape, array.nbytes)


def array(output: DeviceTensor | None, dtype: Any = np.float32) -> Any:
    assert output is not None
    block = (ctypes.c_char * output.nbytes).from_address(output.address)
    return np.frombuffer(block, dtype).reshape(output.dims).copy()


def test_runs_of_two_slots_keep_their_outputs(tmp_path: Path, pool: SlabPool) -> None:
    engine = engine_of(Loaded(write(tmp_path, AddSub(), config(*PAIR, 8)), pool))
    assert not engine.capturable
    a, b = np.full((2, 4), 5, np.float32), np.full((2, 4), 3, np.float32)
    first = engine.enqueue(0, [tensor(a), tensor(b)], 7, 0)
    second = engine.enqueue(1, [tensor(b), tensor(a)], 7, 0)
    assert [array(t)[0, 0] for t in (*first, *second)] == [8, 2, 8, -2]
    third = engine.enqueue(0, [tensor(a[:1]), tensor(a[:1])], 7, 0)
    assert [array(t).tolist() for t in third] == [[[10] * 4], [[0] * 4]]
    assert array(second[1])[0, 0] == -2
    engine.close()


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_type(tmp_path: Path, pool: SlabPool, name: str) -> None:
    text = config([f"x {name} [3]"], [f"y {name} [3]"], 8)
    engine = engine_of(Loaded(write(tmp_path, Identity(), text), pool))
    dtype = np.uint16 if name == "BF16" else datatypes.numpy_dtype(datatypes.from_name(name))
    rows = np.array([NUMBERS[name], NUMBERS[name][::-1]], dtype=dtype)
    (output,) = engine.enqueue(0, [tensor(rows)], 0, 0)
    assert array(output, dtype).tobytes() == rows.tobytes()
    assert output is not None
    assert output.address != rows.ctypes.data, "the slot's input is overwritten by the next batch"


def test_an_empty_batch_of_elements(tmp_path: Path, pool: SlabPool) -> None:
    engine = engine_of(Loaded(write(tmp_path, AddSub(), config(["x FP32 [-1]", "y FP32 [-1]"], ["s FP32 [-1]"])), pool))
    empty = np.zeros(0, np.float32)
    (output,) = engine.enqueue(0, [tensor(empty), tensor(empty)], 0, 0)
    assert output is not None
    assert (output.dims, output.nbytes) == ((0,), 0)


def test_inputs_and_state_are_not_handed_out(tmp_path: Path, pool: SlabPool) -> None:
    text = config(["x FP32 [2, 3]"], ["a__0 FP32 [2, 3]", "b__1 FP32 [2, 3]"])
    engine = engine_of(Loaded(write(tmp_path, Grow(), text), pool))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    before, after = engine.enqueue(0, [tensor(x)], 0, 0)
    assert x.reshape(-1).tolist() == list(range(6))
    assert (array(after) - array(before)).tolist() == np.ones((2, 3)).tolist()
    engine = engine_of(Loaded(write(tmp_path, Counter(), config(["x FP32 [1]"], ["y FP32 [1]"]), "n"), pool))
    one = np.ones(1, np.float32)
    outputs = [engine.enqueue(slot, [tensor(one)], 0, 0)[0] for slot in range(3)]
    assert [array(output)[0] for output in outputs] == [1, 2, 3]


def test_errors_leave_the_engine_usable(tmp_path: Path, pool: SlabPool) -> None:
    engine = engine_of(Loaded(write(tmp_path, AddSub(), config(*PAIR, 8)), pool))
    a = np.zeros((1, 4), np.float32)
    with pytest.raises(InternalError, match=r"PyTorch execute failure: .*must match the size"):
        engine.enqueue(0, [tensor(a), tensor(np.zeros((1, 3), np.float32))], 0, 0)
    assert not engine.broken
    assert len(engine.enqueue(0, [tensor(a), tensor(a)], 0, 0)) == 2
    engine = engine_of(Loaded(write(tmp_path, AddSub(), config(PAIR[0], ["a INT32 [4]"], 8), "n"), pool))
    with pytest.raises(InvalidArg, match="expects datatype TYPE_INT32 for output 'a', model provides TYPE_FP32"):
        engine.enqueue(0, [tensor(a), tensor(a)], 0, 0)


def test_an_error_of_the_device_marks_the_engine_broken(tmp_path: Path, pool: SlabPool) -> None:
    engine = engine_of(Loaded(write(tmp_path, AddSub(), config(*PAIR, 8)), pool))

    class Failing(HostMemory):
        def view(self, *arguments: Any) -> Any:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    engine._memory = Failing(torch)
    a = np.zeros((1, 4), np.float32)
    with pytest.raises(InternalError, match="PyTorch execute failure: CUDA error: an illegal memory access"):
        engine.enqueue(0, [tensor(a), tensor(a)], 0, 0)
    assert engine.broken


def test_closing_frees_program_and_outputs(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, torch.nn.Linear(4, 4), config(["x FP32 [4]"], ["y FP32 [4]"], 2)), pool)
    engine = engine_of(loaded)
    program = weakref.ref(engine._caller._program)
    a = np.zeros((1, 4), np.float32)
    engine.enqueue(0, [tensor(a)], 0, 0)
    result = weakref.ref(engine._results[0][0])
    engine.close()
    loaded.close()
    gc.collect()
    assert program() is None
    assert result() is None


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch is built for CUDA")
def test_a_pytorch_without_cuda_says_so() -> None:
    assert BACKEND.kinds == (InstanceKind.CPU, InstanceKind.MODEL)
    assert BACKEND.gpu_problem == f"PyTorch {torch.__version__} was built without CUDA"


def test_a_model_that_places_itself_runs_where_its_file_says(tmp_path: Path, pool: SlabPool) -> None:
    text = config(*PAIR, 8, "instance_group { kind: KIND_MODEL }")
    loaded = Loaded(write(tmp_path, script(AddSub()), text), pool)
    a = np.ones((1, 4), np.float32)
    assert loaded.run_one(x=a, y=a)["sum"].tolist() == [[2] * 4]
