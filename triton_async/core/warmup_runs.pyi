import asyncio

from triton_async.config.model_config import ModelConfig
from triton_async.core.injection import Injection
from triton_async.core.instances import Instance
from triton_async.core.model import Model
from triton_async.core.reactor import Reactor
from triton_async.errors import ServerError
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature

class WarmUpModel(Model):
    def __init__(
        self,
        reactor: Reactor,
        signature: ModelSignature,
        config: ModelConfig,
        instance: Instance,
        injection: Injection | None = None,
    ) -> None: ...
    def run(self, requests: list[InferRequest]) -> asyncio.Future[ServerError | None]: ...
