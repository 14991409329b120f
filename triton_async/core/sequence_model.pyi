from collections.abc import Callable, Sequence
from typing import Any

from triton_async.config.model_config import ModelConfig
from triton_async.core.instances import Instance
from triton_async.core.model import Model
from triton_async.core.reactor import Reactor
from triton_async.core.sequences import SequenceBatcher
from triton_async.infer.signature import ModelSignature
from triton_async.memory.slab import SlabPool

class SequenceModel(Model):
    sequences: SequenceBatcher
    lingers: bool
    def __init__(
        self,
        reactor: Reactor,
        signature: ModelSignature,
        config: ModelConfig,
        instances: Sequence[Instance],
        scheduler: SequenceBatcher,
        input_pool: SlabPool | None = None,
        runs_here: bool = True,
        identity: bytes = b"",
    ) -> None: ...
    def change_instances(
        self, config: ModelConfig, instances: list[Instance], gone: list[Instance], on_gone: Callable[[Instance], Any]
    ) -> None: ...
