from collections.abc import Callable
from typing import Any

from triton_async.config.model_config import ModelConfig
from triton_async.core.instances import Instance

def change_instances(
    model: Any, config: ModelConfig, instances: list[Instance], gone: list[Instance], on_gone: Callable[[Instance], Any]
) -> None: ...
