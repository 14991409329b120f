"""PyTorch models in a DeviceInstance on the fake CUDA driver: the engine is on the host, copies and slots are real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_cuda
import numpy as np
from inference import request, values
from torch_models import AddSub, Loaded, config, torch, write

from triton_async.backends.base import execute_batches
from triton_async.backends.device.instance import DeviceInstance
from triton_async.backends.device.options import SlotOptions
from triton_async.backends.pytorch.engine import HostMemory, TorchEngine
from triton_async.backends.pytorch.tensors import Converter
from triton_async.errors import InternalError
from triton_async.memory.slab import SlabPool

MARK = (1 << 62) - 1  # the fake's device addresses are host addresses with a bit more


class FakeDeviceMemory(HostMemory):
    """The fake's memory, read when all that was put on the stream before is done."""

    def __init__(self, library: Any) -> None:
        super().__init__(torch)
        self._library = library

    def view(self, address: int, dims: Any, dtype: Any) -> Any:
        return super().view(address & MARK, dims, dtype)

    def use(self, stream: int) -> None:
        self._library.cuStreamSynchronize(stream)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 16)

    def forward(self, x: torch.Tensor):  # type: ignore[no-untyped-def]
        return self.layer(x), x


class OnDevice:
    """A model in a DeviceInstance."""

    def __init__(self, loaded: Loaded, pool: SlabPool) -> None:
        devices = fake_cuda.FakeDevices()
        caller = loaded.instance._caller  # type: ignore[attr-defined]
        engine = TorchEngine(caller, Converter(torch), FakeDeviceMemory(devices.library))
        self.signature = loaded.signature
        self.instance = DeviceInstance("m_1", engine, loaded.signature, devices, 0, SlotOptions(), pool)

    def run(self, batches: list[list[Any]]) -> list[list[Any]]:
        """Answers of batches that are on their way at once."""
        found: list[list[Any]] = execute_batches(self.instance, self.signature, batches)
        return found


def test_batches_on_their_way_at_once(tmp_path: Path, pool: SlabPool) -> None:
    directory = write(tmp_path, Net(), config(["x FP32 [64]"], ["y FP32 [16]", "z FP32 [64]"], 16))
    on_device = OnDevice(Loaded(directory, pool), pool)
    random = np.random.default_rng(0)
    batches = [
        [request(x=random.random((rows, 64), np.float32)) for rows in sizes]
        for sizes in [(1,), (2, 3), (16,), (1, 1, 1)] * 5
    ]
    on_host = Loaded(directory, pool)
    for batch, responses in zip(batches, on_device.run(batches), strict=True):
        for expected, response in zip(on_host.run(*batch), responses, strict=True):
            for name, array in values(expected).items():
                np.testing.assert_allclose(values(response)[name], array, atol=1e-6)
    on_device.instance.close()
    del responses, response, expected


def test_errors_and_tensors_without_elements_on_a_device(tmp_path: Path, pool: SlabPool) -> None:
    text = config(["x FP32 [-1]", "y FP32 [-1]"], ["a FP32 [-1]", "b FP32 [-1]"])
    on_device = OnDevice(Loaded(write(tmp_path, AddSub(), text), pool), pool)
    lengths = [(3, 3), (0, 0), (3, 2), (1, 1)]
    batches = [[request(x=np.ones(n, np.float32), y=np.ones(m, np.float32))] for n, m in lengths]
    (first,), (empty,), (bad,), (last,) = on_device.run(batches)
    assert values(first)["a"].tolist() == [2] * 3
    assert values(empty)["a"].shape == (0,)
    assert isinstance(bad.error, InternalError)
    assert "PyTorch execute failure" in bad.error.message
    assert values(last)["b"].tolist() == [0]
    on_device.instance.close()
