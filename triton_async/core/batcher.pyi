from triton_async.config.model_config import DynamicBatching
from triton_async.core.queue import RequestQueue
from triton_async.infer.batch import Batch
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature

class DynamicBatcher:
    queue: RequestQueue
    wait_until_ns: int
    def __init__(
        self, signature: ModelSignature, queue: RequestQueue, dynamic_batching: DynamicBatching | None = None
    ) -> None: ...
    def enqueue(self, request: InferRequest, now_ns: int) -> int: ...
    def take(self, now_ns: int, idle: bool) -> Batch | None: ...
    def take_lost(self) -> list[InferRequest]: ...
