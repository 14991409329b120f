from collections.abc import Sequence

from triton_async.config.model_config import ModelConfig
from triton_async.core.cache import ResponseCache
from triton_async.core.inline import InlinePolicy
from triton_async.core.instances import Instance
from triton_async.core.limiter import Claim, RateLimiter
from triton_async.core.reactor import Reactor
from triton_async.core.scheduler import Scheduler
from triton_async.core.servable import Servable
from triton_async.infer.signature import ModelSignature
from triton_async.memory.slab import SlabPool

class Model(Servable):
    run_ahead: int
    inline: InlinePolicy
    def __init__(
        self,
        reactor: Reactor,
        signature: ModelSignature,
        config: ModelConfig,
        instances: Sequence[Instance],
        scheduler: Scheduler,
        input_pool: SlabPool | None = None,
        cache: ResponseCache | None = None,
        runs_here: bool = True,
        identity: bytes = b"",
    ) -> None: ...
    def limit(self, limiter: RateLimiter, claims: Sequence[Claim | None]) -> None: ...
    def take_instances(self) -> list[Instance]: ...
