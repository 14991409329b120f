from collections.abc import Mapping

from triton_async.config.model_config import QueuePolicy
from triton_async.infer.request import InferRequest

class RequestQueue:
    size: int
    rows: int
    next_deadline_ns: int
    has_timeouts: bool
    has_rules: bool
    level_sizes: dict[int, int]
    def __init__(
        self,
        policy: QueuePolicy = ...,
        levels: int = 0,
        default_level: int = 0,
        level_policies: Mapping[int, QueuePolicy] | None = None,
        by_deadline: bool = False,
    ) -> None: ...
    def push(self, request: InferRequest, now_ns: int) -> int: ...
    def first(self) -> InferRequest | None: ...
    def after(self, request: InferRequest) -> InferRequest | None: ...
    def pop(self, count: int) -> list[InferRequest]: ...
    def requeue(self, requests: list[InferRequest]) -> int: ...
    def remove(self, request: InferRequest) -> int: ...
    def expire(self, now_ns: int) -> list[InferRequest]: ...
