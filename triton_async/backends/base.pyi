from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from pathlib import Path
from typing import Any, Protocol

from triton_async.config.autocomplete import ModelIO, Opened
from triton_async.config.model_config import InstanceGroup, InstanceKind, ModelConfig
from triton_async.config.placement import PreferredGroup
from triton_async.errors import ServerError
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature
from triton_async.infer.tensor import Tensor
from triton_async.memory.pools import Pools
from triton_async.memory.slab import SlabPool

class InferenceCall:
    decoupled: bool
    def responded(self, response: InferResponse) -> None: ...
    def refused(self, error: ServerError) -> None: ...
    def released(self) -> None: ...

class InferenceService:
    def submit(self, request: InferRequest, call: InferenceCall, caller: ModelInstance) -> Callable[[], None]: ...
    @property
    def keeps_inputs(self) -> bool: ...
    def signature(self, name: str, version: int) -> ModelSignature: ...
    @property
    def over(self) -> bool: ...
    def ask(self, what: str, texts: list[bytes], context: Context | None = None) -> bytes | int | None: ...
    def load_model(self, name: str, parameters: Mapping[str, Any]) -> None: ...
    def unload_model(self, name: str, unload_dependents: bool) -> None: ...
    def model_ready(self, name: str, version: int) -> bool: ...

class Watcher(Protocol):
    def watch(self, fd: int, handler: Callable[[], object]) -> bool: ...
    def forget(self, fd: int) -> None: ...

class Backend:
    name: str
    accelerators: bool
    assembles: frozenset[str]
    gets_requests: bool
    prefers_cpu: bool
    preferred_groups: tuple[PreferredGroup, ...]
    @property
    def kinds(self) -> tuple[InstanceKind, ...]: ...
    @property
    def gpu_problem(self) -> str: ...
    settings: Mapping[str, str]
    pools: Any
    cores: int
    processes: int
    inference: InferenceService | None
    watcher: Watcher | None
    def prepare(self) -> None: ...
    def inspect(self, path: Path, proto: Any) -> ModelIO | None: ...
    def families(self, name: str = "") -> Iterable[Any]: ...
    def load(self, context: LoadContext) -> LoadedModel: ...
    def close(self) -> None: ...

class LoadContext:
    config: ModelConfig
    version: int
    path: Path
    signature: ModelSignature
    pool: SlabPool
    backend_config: Mapping[str, str]
    pools: Pools
    opened: Opened | None
    has_strategy: bool
    def __init__(
        self,
        config: ModelConfig,
        version: int,
        path: Path,
        signature: ModelSignature,
        pool: SlabPool,
        backend_config: Mapping[str, str],
        pools: Pools | None = None,
        opened: Opened | None = None,
        has_strategy: bool = False,
    ) -> None: ...

class BatchRule:
    signature: ModelSignature
    def close(self) -> None: ...

class LoadedModel:
    input_pool: SlabPool | None
    thread_bound: bool
    counts_instances: bool
    follows_memory_policy: bool
    batch_rule: BatchRule | None
    unload_limit_s: float
    def create_instance(self, name: str, group: InstanceGroup, device_id: int) -> ModelInstance: ...
    def close(self) -> None: ...

class ModelInstance:
    name: str
    takes_device: bool
    broken: bool
    unavailable: bool
    asks_ready: bool
    def __init__(self, name: str) -> None: ...
    def is_ready(self) -> bool: ...
    def give_up(self, reason: str) -> None: ...
    def begin_to_close(self) -> None: ...
    def close(self) -> None: ...

def execute_requests(
    instance: ModelInstance, signature: ModelSignature, requests: Iterable[InferRequest]
) -> list[InferResponse]: ...
def execute_batches(
    instance: ModelInstance, signature: ModelSignature, batches: Iterable[Iterable[InferRequest]]
) -> list[list[InferResponse]]: ...

class PythonInstance(ModelInstance):
    def __init__(self, name: str, pool: SlabPool) -> None: ...
    def run(self, inputs: list[Tensor | None]) -> list[Tensor | Any | None]: ...
