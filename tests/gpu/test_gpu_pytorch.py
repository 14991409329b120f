"""PyTorch models on a GPU against themselves on the CPU: batches, instances, streams, memory."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "backends"))

from inference import request, values
from torch_models import AddSub, Loaded, config, export, parameter, torch, write

from triton_async import datatypes
from triton_async.backends.base import execute_requests
from triton_async.backends.device.engine import DeviceTensor
from triton_async.backends.pytorch.calls import Caller
from triton_async.backends.pytorch.engine import CudaMemory, TorchEngine
from triton_async.backends.pytorch.tensors import Converter
from triton_async.config.model_config import InstanceGroup, InstanceKind
from triton_async.errors import InternalError
from triton_async.infer.tensor import from_numpy
from triton_async.memory.pools import Pools
from triton_async.memory.slab import SlabPool

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch sees no GPU"),
]

GPU = InstanceGroup("m", InstanceKind.GPU, 1, (0,))
PAIR = (["x FP32 [4]", "y FP32 [4]"], ["sum FP32 [4]", "difference FP32 [4]"])
NET = (["input FP32 [3, 32, 32]"], ["OUTPUT__0 FP32 [10]"])


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(inplace=True), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
            torch.nn.Linear(8, 10),
        )  # fmt: skip

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(input)
        return found


@pytest.fixture
def pool() -> Iterator[SlabPool]:
    made = SlabPool(1 << 20)
    yield made
    assert made.leased == 0


@pytest.fixture(params=["script", "exported"])
def net(request: pytest.FixtureRequest) -> Any:
    made = Net().eval()
    if request.param == "script":
        return made
    batch = torch.export.Dim("batch", min=1, max=64)
    return export(made, torch.zeros(2, 3, 32, 32), dynamic={"input": {0: batch}})


def test_batches_give_what_the_cpu_gives(tmp_path: Path, pool: SlabPool, net: Any) -> None:
    loaded = Loaded(write(tmp_path, net, config(*NET, 16)), pool)
    on_gpu = loaded.model.create_instance("m_1", GPU, 0)
    random = np.random.default_rng(0)
    for sizes in ((1,), (3,), (1, 2, 5), (16,), (1,)):
        requests = [request(input=random.random((rows, 3, 32, 32), np.float32)) for rows in sizes]
        expected = [values(r)["OUTPUT__0"] for r in loaded.run(*requests)]
        found = [values(r)["OUTPUT__0"] for r in execute_requests(on_gpu, loaded.signature, requests)]
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-2)  # TF32
    on_gpu.close()
    loaded.close()


@pytest.mark.parametrize("name", ["BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16"])
def test_number_types(tmp_path: Path, pool: SlabPool, name: str) -> None:
    class Identity(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    loaded = Loaded(write(tmp_path, Identity(), config([f"x {name} [-1]"], [f"y {name} [-1]"])), pool)
    on_gpu = loaded.model.create_instance("m_1", GPU, 0)
    datatype = datatypes.from_name(name)
    dtype = np.uint16 if name == "BF16" else datatypes.numpy_dtype(datatype)
    for count in (1, 1000, 0):
        array = (np.arange(count) % 2).astype(dtype)
        (response,) = execute_requests(on_gpu, loaded.signature, [request(x=from_numpy("x", array, datatype))])
        assert response.error is None
        assert b"".join(bytes(output) for output in response.outputs) == array.tobytes()
        del response
    on_gpu.close()
    loaded.close()


def test_several_instances_at_the_same_time(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, AddSub(), config(*PAIR, 16)), pool)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            mine = loaded.model.create_instance(f"m_{number}", GPU, 0)
            for i in range(100):
                a = np.full((1 + i % 5, 4), i + number * 1000, np.float32)
                (response,) = execute_requests(mine, loaded.signature, [request(x=a, y=a + 1)])
                np.testing.assert_array_equal(values(response)["sum"], a + a + 1)
                del response
            mine.close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    loaded.close()


def engine_of(loaded: Loaded, **options: Any) -> TorchEngine:
    model: Any = loaded.model
    device = "cuda:0"
    caller = Caller(torch, model._load(device), model._binding, model._options, 1)
    torch.cuda.synchronize(device)
    return TorchEngine(caller, Converter(torch, device), CudaMemory(torch, device), **options)


def tensor(value: Any) -> DeviceTensor:
    return DeviceTensor(value.data_ptr(), tuple(value.shape), value.numel() * value.element_size())


def test_a_run_goes_to_the_stream_it_is_given(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, AddSub(), config(*PAIR, 16)), pool)
    engine = engine_of(loaded)
    memory = CudaMemory(torch, "cuda:0")
    x = torch.zeros((2, 4), device="cuda:0")
    y = torch.full((2, 4), 3.0, device="cuda:0")
    stream = torch.cuda.Stream("cuda:0")
    for _ in range(3):  # compiles what is compiled first
        engine.enqueue(0, [tensor(x), tensor(y)], stream.cuda_stream, 0)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(2_000_000_000)
        x.fill_(5)  # behind the sleep: a run on another stream would not see it
    outputs = engine.enqueue(1, [tensor(x), tensor(y)], stream.cuda_stream, 0)
    assert not stream.query(), "enqueue waited for the device"
    stream.synchronize()
    total = outputs[0]
    assert total is not None
    assert memory.view(total.address, total.dims, torch.float32).cpu().tolist() == [[8.0] * 4] * 2
    engine.close()
    loaded.close()


def test_outputs_of_a_slot_stay_until_its_next_run(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, AddSub(), config(*PAIR, 16)), pool)
    engine = engine_of(loaded, clean_cache=True)
    memory = CudaMemory(torch, "cuda:0")
    stream = torch.cuda.Stream("cuda:0")
    values_of = [torch.full((1, 4), float(i), device="cuda:0") for i in range(4)]
    torch.cuda.synchronize()
    first = engine.enqueue(0, [tensor(values_of[1]), tensor(values_of[2])], stream.cuda_stream, 0)
    for i in range(20):
        engine.enqueue(1, [tensor(values_of[i % 4]), tensor(values_of[3])], stream.cuda_stream, 0)
    stream.synchronize()
    total = first[0]
    assert total is not None
    assert memory.view(total.address, total.dims, torch.float32).cpu().tolist() == [[3.0] * 4]
    engine.close()
    loaded.close()


def test_unloading_gives_the_memory_back(tmp_path: Path, pool: SlabPool) -> None:
    size = 8192
    text = config([f"input FP32 [{size}]"], [f"y FP32 [{size}]"], 4, parameter("ENABLE_CACHE_CLEANING", "true"))
    directory = write(tmp_path, torch.nn.Linear(size, size), text)
    x = np.ones((1, size), np.float32)
    before = torch.cuda.memory_allocated(0)
    for _ in range(3):
        loaded = Loaded(directory, pool)
        on_gpu = loaded.model.create_instance("m_1", GPU, 0)
        assert torch.cuda.memory_allocated(0) >= before + size * size * 4
        execute_requests(on_gpu, loaded.signature, [request(input=x)])
        on_gpu.close()
        loaded.close()
        del on_gpu, loaded
        # cuBLAS keeps a workspace for each stream.
        assert torch.cuda.memory_allocated(0) < before + size * size * 4 // 2


def test_reloads_take_no_more_of_the_device(tmp_path: Path, pool: SlabPool) -> None:
    """A matrix product on each new stream costs a workspace that PyTorch keeps."""
    directory = write(tmp_path, torch.nn.Linear(256, 256), config(["input FP32 [256]"], ["y FP32 [256]"], 4))
    x = np.ones((1, 256), np.float32)
    pools = Pools(pool)

    def used() -> int:
        for _ in range(5):
            loaded = Loaded(directory, pool, pools)
            on_gpu = loaded.model.create_instance("m_1", GPU, 0)
            execute_requests(on_gpu, loaded.signature, [request(input=x)])
            on_gpu.close()
            loaded.close()
        free, total = torch.cuda.mem_get_info(0)
        return int(total - free)

    used()
    before = used()
    assert used() - before < 8 << 20


def test_an_error_of_a_model_leaves_the_instance_usable(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, AddSub(), config(["x FP32 [-1]", "y FP32 [-1]"], ["sum FP32 [-1]"])), pool)
    on_gpu = loaded.model.create_instance("m_1", GPU, 0)
    a = np.ones(4, np.float32)
    for _ in range(2):
        (response,) = execute_requests(on_gpu, loaded.signature, [request(x=a, y=a[:3])])
        assert isinstance(response.error, InternalError)
        assert "PyTorch execute failure" in response.error.message
        (response,) = execute_requests(on_gpu, loaded.signature, [request(x=a, y=a)])
        assert values(response)["sum"].tolist() == [2] * 4
    del response
    on_gpu.close()
    loaded.close()
