"""Python models with tensors in GPU memory, on the fake CUDA driver."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_cuda
import numpy as np
import pytest
from fake_cuda import FakeDevices
from fake_dlpack import GpuArray, take
from python_stage import IO, Stage, body, request, stage, write

from triton_async.backends.python import local  # noqa: F401 (lets tensors be on GPUs)
from triton_async.backends.python.worker import tensors
from triton_async.backends.python.worker.tensors import Tensor, TritonModelException
from triton_async.config.model_config import InstanceKind
from triton_async.errors import InternalError

VALUES = np.arange(6, dtype=np.float32)
ON_GPU = 'instance_group { kind: KIND_GPU gpus: [ 1 ] }'
KEEP = 'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }'
ISOLATED = 'parameters { key: "ISOLATION" value { string_value: "process" } }'
# Doubles on the "GPU", which only the test can read.
GIVES = """
from fake_dlpack import GpuArray
""" + body("""
made = GpuArray(x * 2)
response = pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack('OUT', made)])
""")


@pytest.fixture(autouse=True)
def driver() -> Iterator[None]:
    fake_cuda.library()
    fake_cuda.recover()
    yield
    gc.collect()


@pytest.fixture
def array() -> Iterator[Callable[..., GpuArray]]:
    """Makes arrays on the GPU, all of whose capsules must be let go in the end."""
    made: list[GpuArray] = []

    def make(*arguments: Any, **more: Any) -> GpuArray:
        made.append(GpuArray(*arguments, **more))
        return made[-1]

    yield make
    gc.collect()
    for one in made:
        one.free()


def with_gpus(root: Path, *options: str) -> Any:
    return stage(root, *options, open_devices=lambda: FakeDevices(2))


def test_a_tensor_of_another_library(array: Callable[..., GpuArray]) -> None:
    source = array(VALUES.reshape(2, 3))
    tensor = Tensor.from_dlpack("x", source)
    assert source.streams == [1] and source.held == 1
    assert (tensor.name(), tensor.shape(), tensor.triton_dtype(), tensor.is_cpu()) == ("x", [2, 3], 11, False)
    assert tensor.__dlpack_device__() == (2, 0)
    with pytest.raises(TritonModelException, match=r"^Tensor is stored in GPU and cannot be converted to NumPy\.$"):
        tensor.as_numpy()
    address, shape, give_back = take(tensor.to_dlpack())
    assert (address, shape) == (source.address + 64, (2, 3))
    del tensor
    assert source.held == 1  # whoever took the capsule has it
    give_back()
    assert source.held == 0


def test_a_capsule_that_nobody_takes(array: Callable[..., GpuArray]) -> None:
    source = array(VALUES)
    tensor = Tensor.from_dlpack("x", source.__dlpack__())
    capsule = tensor.to_dlpack()
    again = Tensor.from_dlpack("y", capsule)
    with pytest.raises(TritonModelException, match="used before"):
        Tensor.from_dlpack("z", capsule)
    del tensor, capsule
    assert source.held == 1
    del again
    assert source.held == 0
    tensor = Tensor.from_dlpack("x", source)
    tensor.to_dlpack()
    del tensor
    assert source.held == 0


@pytest.mark.parametrize(("dtype", "datatype"), [
    ("?", "BOOL"), ("u1", "UINT8"), ("u2", "UINT16"), ("u4", "UINT32"), ("u8", "UINT64"), ("i1", "INT8"),
    ("i2", "INT16"), ("i4", "INT32"), ("i8", "INT64"), ("f2", "FP16"), ("f4", "FP32"), ("f8", "FP64"),
])  # fmt: skip
def test_types(array: Callable[..., GpuArray], dtype: str, datatype: str) -> None:
    source = array(np.ones(3, dtype))
    tensor = Tensor.from_dlpack("x", source)
    assert tensor.triton_dtype() == tensors.NUMBERS[datatype]
    again = Tensor.from_dlpack("y", tensor.to_dlpack())
    assert again.triton_dtype() == tensors.NUMBERS[datatype]


def test_bf16(array: Callable[..., GpuArray]) -> None:
    tensor = Tensor.from_dlpack("x", array(np.ones(3, np.uint16), code=4))
    with pytest.raises(TritonModelException, match="Tensor dtype is BF16 and cannot be converted to NumPy"):
        tensor.as_numpy()
    assert Tensor.from_dlpack("y", tensor.to_dlpack()).triton_dtype() == 14


@pytest.mark.parametrize(("make", "message"), [
    ({"strides": (1, 2)}, "contiguous"), ({"lanes": 2}, "type 2 with 32 bits"), ({"code": 5}, "type 5 with 32 bits"),
    ({"ndim": 17}, "17 dimensions"), ({"device_type": 10}, "device of type 10"),
])  # fmt: skip
def test_arrays_that_can_not_be_used(array: Callable[..., GpuArray], make: dict[str, Any], message: str) -> None:
    source = array(VALUES.reshape(2, 3), **make)
    capsule = source.__dlpack__()
    if make.get("device_type"):
        with pytest.raises(TritonModelException, match=r"'x' can not be used"):
            Tensor.from_dlpack("x", capsule)
    else:
        with pytest.raises(TritonModelException, match=message):
            Tensor.from_dlpack("x", capsule)
    source.held -= 1  # the capsule is as it was


@pytest.mark.parametrize("strides", [(3, 1), (99, 1), None])
def test_strides_of_one_row_say_nothing(array: Callable[..., GpuArray], strides: Any) -> None:
    assert Tensor.from_dlpack("x", array(VALUES.reshape(1, 6)[:, :3], strides=strides)).shape() == [1, 3]


def test_nothing_is_on_no_gpu(array: Callable[..., GpuArray]) -> None:
    tensor = Tensor.from_dlpack("x", array(np.zeros((0, 4), np.float32)))
    assert tensor.is_cpu() and tensor.as_numpy().shape == (0, 4)


def test_a_worker_process_gets_a_copy_on_the_host(
    array: Callable[..., GpuArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "take_gpu_capsule", None)
    source = array(VALUES)
    tensor = Tensor.from_dlpack("x", source)
    assert tensor.is_cpu() and tensor.as_numpy().tolist() == VALUES.tolist()
    with pytest.raises(TritonModelException, match="as objects with '__dlpack__', not as capsules"):
        Tensor.from_dlpack("x", source.__dlpack__())
    source.held -= 1


def test_clients_get_what_a_model_left_on_a_gpu(tmp_path: Path) -> None:
    write(tmp_path, "m", GIVES)
    with with_gpus(tmp_path) as served:
        for _ in range(3):
            assert served.ask("m", VALUES).tolist() == (VALUES * 2).tolist()


def test_inner_requests_keep_tensors_on_the_gpu(tmp_path: Path) -> None:
    write(tmp_path, "gives", GIVES)
    write(tmp_path, "takes", body("""
        tensor = pb_utils.get_input_tensor_by_name(request, 'IN')
        response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', x + 1)])
    """))  # fmt: skip
    write(tmp_path, "passes", """
class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            tensor = request.inputs()[0]
            where = np.float32([tensor.is_cpu(), *tensor.shape()])
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor('OUT', where)]))
        return responses
""", IO + KEEP)  # fmt: skip
    write(tmp_path, "outer", body("""
        preferred = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_GPU, 0)
        def ask(model, tensor, memory=None):
            return pb_utils.InferenceRequest(model_name=model, requested_output_names=['OUT'], inputs=[tensor],
                                             preferred_memory=memory).exec().output_tensors()[0]
        far = ask('gives', pb_utils.Tensor('IN', x), preferred)
        assert not far.is_cpu()
        near = ask('gives', pb_utils.Tensor('IN', x))
        assert near.is_cpu() and near.as_numpy().tolist() == (x * 2).tolist()
        moved = pb_utils.Tensor.from_dlpack('IN', far.to_dlpack())
        added = ask('takes', moved).as_numpy()
        kept = ask('passes', moved).as_numpy()
        response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', np.concatenate([added, kept]))])
    """))  # fmt: skip
    with with_gpus(tmp_path) as served:
        assert served.ask("outer", VALUES).tolist() == [*(VALUES * 2 + 1).tolist(), 0.0, 6.0]


def test_a_copy_that_fails_is_the_error_of_its_request(tmp_path: Path) -> None:
    write(tmp_path, "m", GIVES)
    with with_gpus(tmp_path) as served:
        assert served.ask("m", VALUES).tolist() == (VALUES * 2).tolist()
        fake_cuda.fail_at(2, fake_cuda.ILLEGAL_ADDRESS)  # behind the two calls that make the model's array
        error = served.error(request("m", IN=VALUES))
        assert isinstance(error, InternalError)
        assert "failed to copy output 'OUT' of model 'm' from GPU 0" in error.message
        fake_cuda.recover()
        assert served.ask("m", VALUES).tolist() == (VALUES * 2).tolist()


WHERE = body("response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', x * 0 + self.device)])").replace(
    "def execute",
    "def initialize(self, args):\n        self.device = float(args['model_instance_device_id'])\n"
    "        self.device += 10 * ['CPU', 'GPU', 'MODEL'].index(args['model_instance_kind'])\n\n    def execute",
)


def test_instances_on_gpus(tmp_path: Path) -> None:
    write(tmp_path, "gpu", WHERE, IO + ON_GPU)
    write(tmp_path, "isolated", WHERE, IO + ON_GPU + ISOLATED)
    with with_gpus(tmp_path) as served:
        assert served.ask("gpu", [1]).tolist() == [11]
        assert served.ask("isolated", [1]).tolist() == [11]


def test_without_a_place_python_models_are_on_the_cpu(tmp_path: Path) -> None:
    def not_to_be_opened() -> Any:
        raise AssertionError("nothing here is for a GPU")

    write(tmp_path, "none", WHERE)
    write(tmp_path, "auto", WHERE, IO + "instance_group { kind: KIND_AUTO count: 1 }")
    with stage(tmp_path, open_devices=not_to_be_opened) as served:
        assert served.ask("none", [1]).tolist() == [0]
        assert served.ask("auto", [1]).tolist() == [0]


def test_a_group_without_a_kind_beside_one_on_a_gpu(tmp_path: Path) -> None:
    write(tmp_path, "m", WHERE, IO + ON_GPU + "instance_group { count: 1 } instance_group { gpus: 0 count: 1 }")
    with with_gpus(tmp_path) as served:
        groups = served.call(served.server.model_config, "m").instance_group
        assert [(InstanceKind(group.kind).name, list(group.gpus)) for group in groups] == [
            ("GPU", [1]), ("CPU", []), ("GPU", [0]),
        ]  # fmt: skip


def test_a_machine_without_gpus_says_so(tmp_path: Path) -> None:
    write(tmp_path, "m", WHERE, IO + ON_GPU)
    with stage(tmp_path, "--exit-on-error=false") as served:
        assert isinstance(served, Stage)
        assert "has kind KIND_GPU but no GPUs are available" in served.reason("m")
