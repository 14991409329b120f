from collections.abc import Callable
from collections.abc import Sequence as Items

from triton_async.config.sequences import SequenceBatching
from triton_async.core.injection import Injection
from triton_async.core.scheduler import Scheduler
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature

class SequenceBatcher(Scheduler):
    live: int
    backlogged: int
    free_slots: int
    iterative: bool
    wake: Callable[[], object] | None
    def __init__(
        self,
        signature: ModelSignature,
        batching: SequenceBatching,
        injection: Injection,
        instances: Items[object],
        pads: bool = False,
        hold_queued: int = 0,
        hold_backlog: int = 0,
    ) -> None: ...
    def done(self, request: InferRequest, now_ns: int) -> int: ...
    def reschedule(self, request: InferRequest, now_ns: int) -> int: ...
    def close(self) -> int: ...
