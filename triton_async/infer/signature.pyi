from collections.abc import Iterable, Sequence

from triton_async.infer.plan import BatchPlan
from triton_async.infer.request import InferRequest

class TensorSpec:
    name: str
    datatype: int
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None
    optional: bool
    any_rank: bool
    labels: tuple[str, ...]
    def __init__(
        self,
        name: str,
        datatype: int,
        dims: Sequence[int],
        reshape: Sequence[int] | None = None,
        optional: bool = False,
        labels: Iterable[str] = (),
        any_rank: bool = False,
        injected: bool = False,
    ) -> None: ...

class ModelSignature:
    model_name: str
    model_version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    client_inputs: tuple[TensorSpec, ...]
    client_outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    decoupled: bool
    plan: BatchPlan | None
    def __init__(
        self,
        model_name: str,
        model_version: int,
        inputs: Iterable[TensorSpec],
        outputs: Iterable[TensorSpec],
        max_batch_size: int = 0,
        decoupled: bool = False,
        injected_inputs: Iterable[TensorSpec] = (),
        injected_outputs: Iterable[TensorSpec] = (),
        plan: BatchPlan | None = None,
    ) -> None: ...
    def validate(self, request: InferRequest) -> int: ...
    def validated(self, request: InferRequest) -> InferRequest: ...
    def labels(self, output: str) -> tuple[str, ...]: ...

def format_dims(dims: Iterable[int]) -> str: ...
