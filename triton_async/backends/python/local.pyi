from typing import Any

from triton_async.backends.base import InferenceCall, InferenceService, ModelInstance
from triton_async.backends.python.metrics import CustomMetrics
from triton_async.infer.signature import ModelSignature
from triton_async.memory.slab import SlabPool

# A worker.channel.Channel, which it registers with.
class LocalChannel:
    instance: ModelInstance | None
    def __init__(
        self,
        signature: ModelSignature,
        pool: SlabPool,
        inference: InferenceService | None,
        metrics: CustomMetrics,
        reschedules: bool = False,
    ) -> None: ...
    def close(self) -> None: ...

class LocalCall(InferenceCall):
    def __init__(self, call: Any, model: str) -> None: ...
