"""ONNX models made on the fly, and what it takes to run requests through them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx
from inference import request, signature_of, value, values  # noqa: F401
from onnx import TensorProto, helper

from triton_async.backends.base import LoadContext, ModelInstance, execute_requests
from triton_async.backends.onnxruntime import OnnxRuntimeBackend
from triton_async.config.autocomplete import ModelIO
from triton_async.config.load import load
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.memory.slab import SlabPool

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING

Dims = Sequence[int | str] | None


def tensor(name: str, element_type: int, dims: Dims) -> Any:
    return helper.make_tensor_value_info(name, element_type, dims)


def model(
    nodes: Iterable[Any],
    inputs: Iterable[Any],
    outputs: Iterable[Any],
    initializers: Iterable[Any] = (),
    opset: int = 17,
) -> Any:
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    return helper.make_node(operator, list(inputs), list(outputs), **attributes)


def identity(element_type: int, dims: Dims) -> Any:
    return model([node("Identity", ["x"], ["y"])], [tensor("x", element_type, dims)], [tensor("y", element_type, dims)])


def add_sub(dims: Dims = ("n", 16)) -> Any:
    return model(
        [node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]), node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"])],
        [tensor(name, FLOAT, dims) for name in ("INPUT0", "INPUT1")],
        [tensor(name, FLOAT, dims) for name in ("OUTPUT0", "OUTPUT1")],
    )


def write(root: Path, made: Any, config: str | None = None, name: str = "m") -> Path:
    """A model directory with this model as version 1."""
    directory = root / name
    (directory / "1").mkdir(parents=True)
    onnx.save(made, directory / "1" / "model.onnx")
    if config is not None:
        (directory / "config.pbtxt").write_text(config)
    return directory


class Loaded:
    """A model directory, configured and loaded as the server does it, with one instance."""

    def __init__(self, directory: Path, pool: SlabPool, backend_config: dict[str, str] | None = None) -> None:
        backend = OnnxRuntimeBackend()
        backend.settings = backend_config or {}
        found: list[ModelIO] = []

        def inspect(name: str, path: Path, proto: Any) -> ModelIO:
            found.append(backend.inspect(path, proto))
            return found[-1]

        self.config = load(directory, directory.name, inspect=inspect)
        self.signature = signature_of(self.config)
        path = directory / "1" / self.config.default_model_filename
        self.context = LoadContext(
            self.config, 1, path, self.signature, pool, backend.settings, opened=found[0].opened
        )
        self.model = backend.load(self.context)
        self.instance = self.make_instance("m_0")

    def make_instance(self, name: str) -> ModelInstance:
        return self.model.create_instance(name, self.config.instance_groups[0], 0)

    def run(self, *requests: InferRequest) -> list[InferResponse]:
        return execute_requests(self.instance, self.signature, requests)

    def run_one(self, **arrays: Any) -> dict[str, Any]:
        """Outputs by name of one request; raises its error."""
        return values(self.run(request(**arrays))[0])
