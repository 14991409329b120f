"""PyTorch models made on the fly, and what it takes to run requests through them."""

from __future__ import annotations

import linecache
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from inference import request, signature_of, values

from triton_async.backends.base import LoadContext, ModelInstance, execute_requests
from triton_async.backends.pytorch import PyTorchBackend
from triton_async.config.load import load
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.memory.pools import Pools
from triton_async.memory.slab import SlabPool

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

# PyTorch's process-wide settings are the library's, so there is one backend as in a server.
BACKEND = PyTorchBackend()


class AddSub(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor):  # type: ignore[no-untyped-def]
        return x + y, x - y


def script(module: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module)


def export(module: Any, *args: Any, dynamic: Any = None, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module, args, kwargs, dynamic_shapes=dynamic)


def config(inputs: Sequence[str], outputs: Sequence[str], batch: int = 0, rest: str = "") -> str:
    """A config whose tensors are `NAME TYPE DIMS`, such as `INPUT__0 FP32 [4]`."""
    lines = ["backend: 'pytorch'", f"max_batch_size: {batch}"]
    for what, ios in (("input", inputs), ("output", outputs)):
        for io in ios:
            name, datatype, dims = io.split(" ", maxsplit=2)
            lines.append(f"{what} {{ name: '{name}' data_type: TYPE_{datatype} dims: {dims} }}")
    return "\n".join([*lines, rest])


def parameter(key: str, value: str) -> str:
    return f"parameters {{ key: '{key}' value {{ string_value: '{value}' }} }}\n"


def write(root: Path, module: Any, text: str | None, name: str = "m") -> Path:
    """A model directory with this module, scripted, or this exported program as version 1."""
    directory = root / name
    (directory / "1").mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(module, torch.export.ExportedProgram):
            torch.export.save(module, directory / "1" / "model.pt2")
        elif isinstance(module, bytes):
            (directory / "1" / "model.pt").write_bytes(module)
        else:
            made = module if isinstance(module, torch.jit.ScriptModule) else script(module)
            torch.jit.save(made, directory / "1" / "model.pt")
    if text is not None:
        (directory / "config.pbtxt").write_text(text)
    return directory


def from_source(path: Path, body: str, head: str = "def forward(self, x: torch.Tensor):") -> Any:
    """A module whose forward is written to the file `path`, where PyTorch looks for it."""
    path.write_text(f"import torch\n\nclass M(torch.nn.Module):\n  {head}\n{body}\n")
    space: dict[str, Any] = {"__name__": path.stem}
    exec(compile(path.read_text(), str(path), "exec"), space)
    linecache.checkcache()
    return space["M"]()


class Loaded:
    """A model directory, configured and loaded as the server does it, with one instance."""

    def __init__(self, directory: Path, pool: SlabPool, pools: Pools | None = None) -> None:
        self.config = load(directory, directory.name, inspect=lambda name, path, proto: BACKEND.inspect(path, proto))
        self.signature = signature_of(self.config)
        path = directory / "1" / self.config.default_model_filename
        self.model = BACKEND.load(LoadContext(self.config, 1, path, self.signature, pool, {}, pools))
        self.instance = self.make_instance("m_0")

    def make_instance(self, name: str) -> ModelInstance:
        return self.model.create_instance(name, self.config.instance_groups[0], 0)

    def run(self, *requests: InferRequest) -> list[InferResponse]:
        return execute_requests(self.instance, self.signature, requests)

    def run_one(self, **arrays: Any) -> dict[str, Any]:
        """Outputs by name of one request; raises its error."""
        return values(self.run(request(**arrays))[0])

    def close(self) -> None:
        self.instance.close()
        self.model.close()
