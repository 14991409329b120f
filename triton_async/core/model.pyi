import asyncio

from triton_async.config.model_config import ModelConfig
from triton_async.core.inline import InlinePolicy
from triton_async.core.instances import Instance
from triton_async.core.stats import ModelStatistics
from triton_async.infer.signature import ModelSignature
from triton_async.memory.slab import SlabPool

class Model:
    signature: ModelSignature
    config: ModelConfig
    input_pool: SlabPool | None
    statistics: ModelStatistics
    in_flight: int
    pending: int
    run_ahead: int
    inline: InlinePolicy
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        signature: ModelSignature,
        config: ModelConfig,
        instances: list[Instance],
        input_pool: SlabPool | None = None,
    ) -> None: ...
    async def drain(self) -> None: ...
    def take_instances(self) -> list[Instance]: ...
