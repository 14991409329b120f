from triton_async.backends.base import BatchRule
from triton_async.config.model_config import DynamicBatching
from triton_async.core.auto_delay import AutoDelay
from triton_async.core.queue import RequestQueue
from triton_async.core.scheduler import Scheduler
from triton_async.infer.signature import ModelSignature

class DynamicBatcher(Scheduler):
    queue: RequestQueue
    auto: AutoDelay | None
    def __init__(
        self,
        signature: ModelSignature,
        queue: RequestQueue,
        dynamic_batching: DynamicBatching | None = None,
        hold_queued: int = 0,
        auto: AutoDelay | None = None,
        rule: BatchRule | None = None,
    ) -> None: ...
