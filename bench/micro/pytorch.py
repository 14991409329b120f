"""CPU time per run of a small model: our instance against a bare loop of the TorchScript module.

`ours` is a whole batch of one request: request, validation, batch, run, response. `floor` is the same with the
`identity` backend, so `ours - floor` is what the instance and PyTorch cost. Each figure is the least of several rounds,
in µs of CPU time, one thread.

    python bench/micro/pytorch.py
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triton_async.backends.base import LoadContext, execute_requests
from triton_async.backends.identity import IdentityInstance
from triton_async.backends.pytorch import PyTorchBackend
from triton_async.config.load import load
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy
from triton_async.memory.slab import SlabPool

FP32 = 11
ROUNDS, RUNS = 15, 400
CONFIG = """
backend: "pytorch"
max_batch_size: 32
input { name: "x" data_type: TYPE_FP32 dims: 64 }
output { name: "y" data_type: TYPE_FP32 dims: 16 }
parameters { key: "INTRA_OP_THREAD_COUNT" value { string_value: "1" } }
"""


class Perceptron(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(x)
        return found


def least_us(run: Callable[[], Any]) -> float:
    """CPU µs of one call: the least mean of several rounds."""
    found = []
    for _ in range(ROUNDS):
        start = time.thread_time_ns()
        for _ in range(RUNS):
            run()
        found.append((time.thread_time_ns() - start) / RUNS / 1000)
    return min(found)


def signature(name: str, columns: int) -> ModelSignature:
    return ModelSignature(name, 1, [TensorSpec("x", FP32, [64])], [TensorSpec("y", FP32, [columns])], 32)


def main() -> None:
    pool = SlabPool(1 << 20)
    backend = PyTorchBackend()
    with tempfile.TemporaryDirectory() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        directory = Path(root) / "m"
        path = directory / "1" / "model.pt"
        path.parent.mkdir(parents=True)
        (directory / "config.pbtxt").write_text(CONFIG)
        torch.jit.save(torch.jit.script(Perceptron().eval()), path)
        config = load(directory, "m", inspect=lambda name, file, proto: backend.inspect(file, proto))
        served, floor = signature("m", 16), signature("floor", 64)
        model = backend.load(LoadContext(config, 1, path, served, pool, {}))
        instance = model.create_instance("m_0", config.instance_groups[0], 0)
        identity = IdentityInstance("floor_0", pool, 0)
        module = torch.jit.load(path)
        print("| batch | bare module | ours | floor | ours - floor - bare |\n|---|---|---|---|---|")
        for rows in (1, 32):
            x = np.random.default_rng(0).random((rows, 64), np.float32)
            tensor = torch.from_numpy(x)
            request = InferRequest("m", inputs=[from_numpy("x", x)])
            with torch.inference_mode():
                bare = least_us(lambda tensor=tensor: module(tensor))
            ours = least_us(lambda request=request: execute_requests(instance, served, [request]))
            least = least_us(lambda request=request: execute_requests(identity, floor, [request]))
            print(f"| {rows} | {bare:.1f} | {ours:.1f} | {least:.1f} | {ours - least - bare:.1f} |")
        instance.close()
        model.close()


if __name__ == "__main__":
    main()
