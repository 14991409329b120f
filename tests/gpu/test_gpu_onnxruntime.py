"""ONNX models on a GPU: the CUDA provider, host and device memory in and out. Needs onnxruntime-gpu and a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triton_async.backends.base import LoadContext, ModelInstance, execute_requests
from triton_async.backends.onnxruntime import OnnxRuntimeBackend
from triton_async.config.load import load
from triton_async.config.model_config import InstanceKind, ModelConfig
from triton_async.config.placement import Gpus
from triton_async.core.opening import make_signature
from triton_async.errors import InternalError, ServerError
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.tensor import from_numpy, make
from triton_async.memory.slab import SlabPool

onnx = pytest.importorskip("onnx")
helper, TensorProto = onnx.helper, onnx.TensorProto


def _problem() -> str:
    try:
        return OnnxRuntimeBackend().gpu_problem
    except ServerError as error:
        return error.message


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(_problem()), reason=_problem())]

ONE = "max_batch_size: 8 instance_group { kind: KIND_GPU count: 1 gpus: 0 }"
CUDA = "optimization { execution_accelerators { gpu_execution_accelerator { name: 'cuda' %s } } }"


def write_matmul(root: Path, dims: list[int | str], config: str) -> Path:
    """y = x @ w + 1 with w = 2 * identity, 64 columns."""
    doubling = 2 * np.eye(64, dtype=np.float32)
    weights = helper.make_tensor("w", TensorProto.FLOAT, [64, 64], doubling.tobytes(), raw=True)
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Add", ["t", "one"], ["y"])], "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)], [weights, one],
    )  # fmt: skip
    directory = root / "m"
    (directory / "1").mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
              directory / "1" / "model.onnx")  # fmt: skip
    (directory / "config.pbtxt").write_text(config)
    return directory


class OnGpu:
    """A model directory, loaded as the server does it, with one instance on GPU 0."""

    def __init__(self, directory: Path) -> None:
        self.pool = SlabPool(1 << 22)
        backend = OnnxRuntimeBackend()
        assert InstanceKind.GPU in backend.kinds
        self.config: ModelConfig = load(
            directory, "m", inspect=lambda name, path, proto: backend.inspect(path, proto),
            find_gpus=lambda name, named: Gpus((0,)),
        )  # fmt: skip
        self.signature = make_signature(self.config, 1, directory)
        path = directory / "1" / self.config.default_model_filename
        self.model = backend.load(LoadContext(self.config, 1, path, self.signature, self.pool, {}))
        self.instance: ModelInstance = self.model.create_instance("m_0", self.config.instance_groups[0], 0)

    def run(self, *arrays: np.ndarray) -> list[InferResponse]:
        requests = [InferRequest("m", inputs=[from_numpy("x", array)]) for array in arrays]
        return execute_requests(self.instance, self.signature, requests)

    def close(self) -> None:
        self.instance.close()
        self.model.close()


@pytest.fixture
def on_gpu(tmp_path: Path) -> Iterator[OnGpu]:
    made = OnGpu(write_matmul(tmp_path, ["n", 64], ONE))
    yield made
    made.close()


def result(response: InferResponse) -> np.ndarray:
    if response.error is not None:
        raise response.error
    return response.outputs[0].numpy().copy()


def used_nbytes() -> int:
    """Of GPU 0, by the driver, without CuPy."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert ctypes.CDLL("libcuda.so.1").cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    return total.value - free.value


def test_batches_from_host_memory_come_back_in_host_memory(on_gpu: OnGpu) -> None:
    random = np.random.default_rng(0)
    # The first batches see shapes, mark slabs and only then write straight to them.
    for rows in ([1], [2], [3, 1], [1, 1, 6], [8]):
        arrays = [random.random((count, 64), np.float32) for count in rows]
        for array, response in zip(arrays, on_gpu.run(*arrays), strict=True):
            np.testing.assert_allclose(result(response), 2 * array + 1, rtol=1e-3)


def test_an_instance_on_a_gpu_takes_device_memory(on_gpu: OnGpu) -> None:
    assert on_gpu.instance.takes_device  # type: ignore[attr-defined]


class Recording:
    """Devices that remember the addresses they gave."""

    def __init__(self, devices: Any) -> None:
        self._devices = devices
        self.addresses: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._devices, name)

    def allocate(self, device: int, nbytes: int) -> int:
        self.addresses.append(self._devices.allocate(device, nbytes))
        return self.addresses[-1]


@pytest.mark.parametrize("offset", [0, 64, 3])
@pytest.mark.parametrize("counts", [[4], [1, 3], [2, 2, 4]])
def test_inputs_in_device_memory_are_taken_from_there(on_gpu: OnGpu, offset: int, counts: list[int]) -> None:
    device = pytest.importorskip("triton_async.memory.device")
    devices = Recording(pytest.importorskip("triton_async.memory.devices").open_devices())
    pool = device.DevicePool(devices, 0, 0)
    driver = ctypes.CDLL("libcuda.so.1")
    arrays = [np.random.default_rng(i).random((count, 64), np.float32) for i, count in enumerate(counts)]
    requests = []
    for array in arrays:
        buffer = pool.acquire(offset + array.nbytes)
        to = ctypes.c_uint64(devices.addresses[-1] + offset)
        assert driver.cuMemcpyHtoD_v2(to, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)) == 0
        requests.append(InferRequest("m", inputs=[make("x", 11, array.shape, buffer, offset, array.nbytes)]))
    if len(counts) == 2:  # one in host memory may share the batch
        arrays.append(np.ones((1, 64), np.float32))
        requests.append(InferRequest("m", inputs=[from_numpy("x", arrays[-1])]))
    for _ in range(3):
        responses = execute_requests(on_gpu.instance, on_gpu.signature, requests)
        for array, response in zip(arrays, responses, strict=True):
            np.testing.assert_allclose(result(response), 2 * array + 1, rtol=1e-3)


def test_shapes_that_requests_choose(tmp_path: Path) -> None:
    made = OnGpu(write_matmul(tmp_path, ["n", "m", 64], ONE))
    for middle in (1, 5, 2):
        array = np.random.default_rng(middle).random((2, middle, 64), np.float32)
        np.testing.assert_allclose(result(made.run(array)[0]), 2 * array + 1, rtol=1e-3)
    made.close()


def test_a_model_for_gpus_alone_completes_its_config_there(tmp_path: Path) -> None:
    directory = write_matmul(tmp_path, ["n", 64], ONE)
    spectrum = helper.make_node("Rfft", ["x"], ["y"], domain="com.microsoft", signal_ndim=1, normalized=0, onesided=1)
    graph = helper.make_graph(
        [spectrum], "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 9, 2])],
    )  # fmt: skip
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=9), directory / "1" / "model.onnx")
    made = OnGpu(directory)
    assert [output.dims for output in made.config.outputs] == [(9, 2)]
    array = np.random.default_rng(0).random((3, 16), np.float32)
    expected = np.fft.rfft(array)
    found = result(made.run(array)[0])
    np.testing.assert_allclose(found[..., 0] + 1j * found[..., 1], expected, rtol=1e-3, atol=1e-4)
    made.close()


@pytest.mark.parametrize("parameters", [
    "", "parameters { key: 'cudnn_conv_algo_search' value: 'HEURISTIC' }",
    "parameters { key: 'gpu_mem_limit' value: '1073741824' }",
    "parameters { key: 'arena_extend_strategy' value: 'kSameAsRequested' }",
    "parameters { key: 'do_copy_in_default_stream' value: 'false' }",
    "parameters { key: 'cudnn_conv_use_max_workspace' value: '0' }", "parameters { key: 'use_tf32' value: '0' }",
])  # fmt: skip
def test_options_of_the_provider_are_taken(tmp_path: Path, parameters: str) -> None:
    made = OnGpu(write_matmul(tmp_path, ["n", 64], ONE + CUDA % parameters))
    array = np.ones((1, 64), np.float32)
    np.testing.assert_allclose(result(made.run(array)[0]), 2 * array + 1)
    made.close()


def test_an_option_that_the_provider_does_not_know_fails_the_load(tmp_path: Path) -> None:
    directory = write_matmul(tmp_path, ["n", 64], ONE + CUDA % "parameters { key: 'nonsense' value: '1' }")
    with pytest.raises(ServerError, match=r"unable to load model 'm' on GPU 0: .*nonsense"):
        OnGpu(directory)


def test_a_memory_limit_is_kept(tmp_path: Path) -> None:
    parameters = "parameters { key: 'gpu_mem_limit' value: '16777216' }"
    config = "max_batch_size: 100000 instance_group { kind: KIND_GPU count: 1 gpus: 0 }" + CUDA % parameters
    made = OnGpu(write_matmul(tmp_path, ["n", 64], config))
    error = made.run(np.ones((100_000, 64), np.float32))[0].error
    assert isinstance(error, InternalError)
    # A batch that fits is served afterwards.
    array = np.ones((2, 64), np.float32)
    np.testing.assert_allclose(result(made.run(array)[0]), 2 * array + 1)
    made.close()


def test_instances_on_one_gpu_share_their_session(tmp_path: Path) -> None:
    made = OnGpu(write_matmul(tmp_path, ["n", 64], ONE))
    before = used_nbytes()
    others = [made.model.create_instance(f"m_{i}", made.config.instance_groups[0], 0) for i in range(1, 4)]
    assert used_nbytes() - before < 64 << 20
    for instance in others:
        instance.close()
    made.close()


def test_loads_and_unloads_leave_no_memory_behind(tmp_path: Path) -> None:
    directory = write_matmul(tmp_path, ["n", 64], ONE)

    def once() -> None:
        made = OnGpu(directory)
        made.run(np.ones((8, 64), np.float32))
        made.close()
        del made

    once()
    before = used_nbytes()
    for _ in range(5):
        once()
    assert used_nbytes() - before < 32 << 20
