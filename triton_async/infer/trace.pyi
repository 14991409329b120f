from collections.abc import Callable
from typing import Any

from triton_async.infer.tensor import Tensor

class Trace:
    id: int
    parent_id: int
    model_name: str
    model_version: int
    request_id: str
    levels: int
    events: list[tuple[str, int]]
    tensors: list[tuple[str, Tensor]]
    group: Any
    span: Any
    def __init__(
        self,
        id: int,
        model_name: str,
        model_version: int,
        request_id: str,
        levels: int,
        done: Callable[[tuple[Any, ...]], None] | None,
        parent_id: int = 0,
        group: Any = None,
        span: Any = None,
    ) -> None: ...
    def record(self) -> tuple[Any, ...]: ...
    def context(self) -> str | None: ...
    def add(self, name: str, at_ns: int) -> None: ...
