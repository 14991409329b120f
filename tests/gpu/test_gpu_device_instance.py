"""DeviceInstance on a real GPU, around an engine of one kernel: results, CUDA graphs, the gather kernel, no leaks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triton_async.backends.base import execute_batches
from triton_async.backends.device.engine import DeviceEngine, DeviceTensor
from triton_async.backends.device.options import GraphSpec, Priority, SlotOptions
from triton_async.datatypes import from_name
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy
from triton_async.memory.slab import SlabPool

pytestmark = pytest.mark.gpu

COLUMNS, ROWS = 1000, 16
KERNEL = r"""
extern "C" __global__ void add_sub(const float *a, const float *b, float *sum, float *difference, long long count) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        sum[i] = a[i] + b[i];
        difference[i] = a[i] - b[i];
    }
}
"""


class OnStream:
    """A stream of ours for CuPy."""

    def __init__(self, stream: int) -> None:
        self.stream = stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.stream


class CupyEngine(DeviceEngine):
    """Sums and differences by a kernel of CuPy's. A buffer for each slot, and one more for what is captured in it."""

    capturable = True

    def __init__(self, cupy: Any, devices: Any) -> None:
        self.cupy, self.devices = cupy, devices
        self.kernel = cupy.RawKernel(KERNEL, "add_sub")
        self.kernel.compile()
        self.buffers = [devices.allocate(0, 2 * 4 * COLUMNS * ROWS) for _ in range(4)]
        self.plain_runs = 0

    def enqueue(
        self, slot: int, inputs: Sequence[DeviceTensor | None], stream: int, consumed: int
    ) -> Sequence[DeviceTensor | None]:
        a, b = inputs
        assert a is not None and b is not None
        self.plain_runs += consumed != 0
        begin = self.buffers[slot + (2 if consumed == 0 else 0)]
        outputs = [DeviceTensor(begin + i * 4 * COLUMNS * ROWS, a.dims, a.nbytes) for i in range(2)]
        count = a.nbytes // 4
        with self.cupy.cuda.Stream.from_external(OnStream(stream)):
            arguments = a.address, b.address, outputs[0].address, outputs[1].address, count
            self.kernel((count // 256 + 1,), (256,), arguments)
        return outputs

    def close(self) -> None:
        for buffer in self.buffers:
            self.devices.free(0, buffer)


@pytest.fixture(scope="module")
def cupy() -> Any:
    return pytest.importorskip("cupy", reason="gpu: CuPy is not installed")


@pytest.fixture(scope="module")
def pools() -> Any:
    from triton_async.memory.pools import Pools

    made = Pools(SlabPool(1 << 24))
    made.pinned()
    return made


@pytest.fixture(scope="module")
def devices(pools: Any) -> Any:
    return pools.devices


@pytest.fixture(autouse=True)
def device_memory_is_back(devices: Any) -> Iterator[None]:
    devices.use(0)
    before = devices.memory_info(0)[0]
    yield
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    assert devices.memory_info(0)[0] >= before - (32 << 20)  # modules, channels and graph memory that CUDA keeps


def signature(columns: int = COLUMNS) -> ModelSignature:
    fp32 = from_name("FP32")
    return ModelSignature("m", 1, [TensorSpec(name, fp32, (columns,)) for name in "AB"],
                          [TensorSpec(name, fp32, (columns,)) for name in ("SUM", "DIFF")], ROWS)  # fmt: skip


def request(number: int, rows: int) -> InferRequest:
    whole = np.full((rows, COLUMNS), number, np.float32)
    return InferRequest("m", inputs=[from_numpy("A", 2 * whole), from_numpy("B", -whole)])


OPTIONS = {
    "plain": SlotOptions(),
    "busy, urgent": SlotOptions(busy_wait=True, priority=Priority.MAX),
    "graphs": SlotOptions(graphs=True, graph_specs=(GraphSpec(ROWS, {}, 5), GraphSpec(1, {}, 1))),
    "no pinned memory": SlotOptions(pin_inputs=False, pin_outputs=False),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_every_batch_comes_back_right(
    kind: str, cupy: Any, pools: Any, devices: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from triton_async.backends.device.instance import DeviceInstance

    engine = CupyEngine(cupy, devices)
    with caplog.at_level(logging.WARNING):
        instance = DeviceInstance(
            "m_0", engine, signature(), devices, 0, OPTIONS[kind], pools.host, pinned_pool=pools.pinned()
        )
    try:
        assert caplog.text == ""
        assert instance.graph_count == (4 if kind == "graphs" else 0)
        captures = engine.plain_runs
        batches = [[request(10 * i + j, 1 + i % 4) for j in range(1 + i % 4)] for i in range(400)]
        for i, responses in enumerate(execute_batches(instance, signature(), batches)):
            for j, response in enumerate(responses):
                assert response.error is None, response.error
                found = {output.name: output.numpy() for output in response.outputs}
                assert found["SUM"].shape == (1 + i % 4, COLUMNS)
                assert (found["SUM"] == 10 * i + j).all()
                assert (found["DIFF"] == 3 * (10 * i + j)).all()
        # Batches of 1, 9 and 16 rows have graphs, those of 4 have none.
        assert engine.plain_runs - captures == (100 if kind == "graphs" else 400)
    finally:
        instance.close()


@pytest.mark.parametrize("source", ["as built", "gather.cu"])
def test_the_gather_kernel_copies_what_lies_anywhere(source: str, cupy: Any, devices: Any, tmp_path: Path) -> None:
    from triton_async.backends.device import kernels

    folder = Path(kernels.__file__).parent
    if source == "gather.cu":
        (tmp_path / source).write_bytes((folder / source).read_bytes())
        folder = tmp_path
    function = kernels.gather_kernel(devices, 0, folder)
    sizes = [1, 3, 4, 16, 17, 0, 4096, 100_001, 8, 1 << 20]
    sources = [cupy.arange(n + offset, dtype=cupy.uint8)[offset:] for n, offset in zip(sizes, range(10), strict=True)]
    table = np.zeros((len(sizes), 3), np.uint64)
    table[:, 0] = [array.data.ptr for array in sources]
    table[:, 1] = np.cumsum([0, *sizes[:-1]])
    table[:, 2] = sizes
    pieces = cupy.asarray(table)
    target = cupy.zeros(sum(sizes), cupy.uint8)
    arguments = np.array([target.data.ptr, pieces.data.ptr], np.uint64)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device(0).synchronize()
    _launch(function, len(sizes), stream.ptr, arguments)
    stream.synchronize()
    assert (target == cupy.concatenate(sources)).all()


def _launch(function: int, pieces: int, stream: int, arguments: np.ndarray) -> None:
    import ctypes

    each = (ctypes.c_void_p * 2)(*(arguments.ctypes.data + 8 * i for i in range(2)))
    driver = ctypes.CDLL("libcuda.so.1")
    result = driver.cuLaunchKernel(
        ctypes.c_void_p(function), pieces, 4, 1, 256, 1, 1, 0, ctypes.c_void_p(stream), each, None
    )
    assert result == 0
