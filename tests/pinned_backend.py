"""A backend for tests that, like one on a GPU, wants large requests in pinned memory, and notes where they lay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from triton_async.backends.base import Backend, LoadContext, LoadedModel, ModelInstance, PythonInstance
from triton_async.backends.registry import BackendRegistry
from triton_async.infer.tensor import Tensor

CPU, PINNED = 0, 1


class PinnedInstance(PythonInstance):
    def __init__(self, name: str, context: LoadContext, seen: list[int]) -> None:
        super().__init__(name, context.pool)
        self.seen = seen

    def run(self, inputs: list[Tensor | None]) -> list[Any]:
        (tensor,) = inputs
        assert tensor is not None
        self.seen.append(tensor.buffer.memory_type)
        return [tensor.numpy().copy()]


class PinnedModel(LoadedModel):
    def __init__(self, context: LoadContext, seen: list[int]) -> None:
        self.context = context
        self.seen = seen
        self.input_pool = context.pools.pinned()

    def create_instance(self, name: str, group: object, device_id: int) -> ModelInstance:
        return PinnedInstance(name, self.context, self.seen)


class PinnedBackend(Backend):
    """Also a registry: of itself as "pinned", and of the package's own. `seen`: memory type of each batch's input."""

    name = "pinned"

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.others = BackendRegistry()

    def get(self, name: str, place: object = None) -> Backend:
        return self if name == self.name else self.others.get(name)

    def load(self, context: LoadContext) -> LoadedModel:
        return PinnedModel(context, self.seen)


def write_pinned_model(root: Path, name: str, more: str = "") -> None:
    """FP32[-1] to FP32[-1]; `more` is added to its config.pbtxt."""
    (root / name / "1").mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(f"""
        backend: "pinned"
        input {{ name: "INPUT0" data_type: TYPE_FP32 dims: -1 }}
        output {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }}
        instance_group {{ count: 1 kind: KIND_CPU }}
        {more}
    """)
