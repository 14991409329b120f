import asyncio
from collections.abc import Sequence

from triton_async.config.model_config import ModelConfig, QueuePolicy
from triton_async.core.inline import InlinePolicy
from triton_async.core.instances import Instance
from triton_async.core.stats import ModelStatistics
from triton_async.infer.signature import ModelSignature

class Model:
    signature: ModelSignature
    config: ModelConfig
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
        policies: Sequence[QueuePolicy],
        default_level: int,
    ) -> None: ...
    async def drain(self) -> None: ...
    def take_instances(self) -> list[Instance]: ...
