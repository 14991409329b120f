from typing import Any

from triton_async.config.model_config import ModelConfig
from triton_async.core.cache import ResponseCache
from triton_async.core.dataflow import Dataflow
from triton_async.core.reactor import Reactor
from triton_async.core.servable import Servable
from triton_async.infer.signature import ModelSignature
from triton_async.memory.slab import SlabPool

class Ensemble(Servable):
    def __init__(
        self,
        reactor: Reactor,
        signature: ModelSignature,
        config: ModelConfig,
        flow: Dataflow,
        serving: Any,
        input_pool: SlabPool | None = None,
        cache: ResponseCache | None = None,
        identity: bytes = b"",
    ) -> None: ...
    def asked_for_readiness(self) -> list[Any]: ...
