"""OpenVINO models made on the fly, and what it takes to run requests through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inference import request, signature_of, values

from triton_async.backends.base import LoadContext, ModelInstance, execute_requests
from triton_async.config.autocomplete import ModelIO
from triton_async.config.load import load
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.memory.slab import SlabPool

ov = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
op = ov.opset13

EXACT = 'parameters { key: "INFERENCE_PRECISION" value { string_value: "f32" } }\n'


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


def config(inputs: Sequence[str], outputs: Sequence[str], batch: int = 0, more: str = EXACT) -> str:
    """A config from lines such as "x FP32 [4, 4]"."""
    lines = ['backend: "openvino"', f"max_batch_size: {batch}"]
    for what, ios in (("input", inputs), ("output", outputs)):
        for io in ios:
            name, kind, dims = io.split(" ", 2)
            lines.append(f'{what} {{ name: "{name}" data_type: TYPE_{kind} dims: {dims} }}')
    return "\n".join([*lines, more])


def inlet(name: str, shape: Any, dtype: Any = np.float32) -> Any:
    made = op.parameter(shape, dtype, name=name)
    made.output(0).get_tensor().set_names({name})
    return made


def outlet(node: Any, *names: str) -> Any:
    node.output(0).get_tensor().set_names(set(names))
    return node


def one(function: Callable[[Any], Any], shape: Any, dtype: Any = np.float32) -> Any:
    """A model of one input `x` and one output `y`."""
    x = inlet("x", shape, dtype)
    return ov.Model([outlet(function(x), "y")], [x], "m")


def write(root: Path, made: Any, text: str | None = None, name: str = "m") -> Path:
    """A model directory with this model as version 1."""
    directory = root / name
    (directory / "1").mkdir(parents=True)
    ov.save_model(made, directory / "1" / "model.xml", compress_to_fp16=False)
    if text is not None:
        (directory / "config.pbtxt").write_text(text)
    return directory


class Loaded:
    """A model directory, configured and loaded as the server does it, with one instance."""

    def __init__(
        self, directory: Path, pool: SlabPool, settings: dict[str, str] | None = None, backend: Any = None
    ) -> None:
        if backend is None:
            from triton_async.backends.openvino import OpenVINOBackend

            backend = OpenVINOBackend()
        backend.settings = settings or {}
        found: list[ModelIO | None] = []

        def inspect(name: str, path: Path, proto: Any) -> ModelIO | None:
            found.append(backend.inspect(path, proto))
            return found[-1]

        self.config = load(directory, directory.name, inspect=inspect)
        self.signature = signature_of(self.config)
        opened = None if found[0] is None else found[0].opened
        path = directory / "1" / self.config.default_model_filename
        self.context = LoadContext(self.config, 1, path, self.signature, pool, backend.settings, opened=opened)
        self.model = backend.load(self.context)
        self.instance = self.make_instance("m_0")

    def make_instance(self, name: str) -> ModelInstance:
        return self.model.create_instance(name, self.config.instance_groups[0], 0)

    def run(self, *requests: InferRequest) -> list[InferResponse]:
        return execute_requests(self.instance, self.signature, requests)

    def run_one(self, **arrays: Any) -> dict[str, Any]:
        """Outputs by name of one request; raises its error."""
        return values(self.run(request(**arrays))[0])
