from typing import Any

from triton_async.config.model_config import ModelConfig
from triton_async.core.cache import ResponseCache
from triton_async.core.stats import ModelStatistics
from triton_async.infer.signature import ModelSignature
from triton_async.memory.slab import SlabPool

class Servable:
    signature: ModelSignature
    config: ModelConfig
    input_pool: SlabPool | None
    statistics: ModelStatistics
    in_flight: int
    cache: ResponseCache | None
    number: int
    identity: bytes
    @property
    def pending(self) -> int: ...
    @property
    def available(self) -> bool: ...
    def asked_for_readiness(self) -> list[Any]: ...
    def follow(self, old: Servable) -> None: ...
    async def drain(self) -> None: ...
    def interrupt(self) -> None: ...
    def take_instances(self) -> list[Any]: ...
