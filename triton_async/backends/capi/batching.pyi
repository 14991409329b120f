from pathlib import Path
from typing import Any

from triton_async.backends.base import BatchRule
from triton_async.backends.capi.handles import Library, ModelHandle
from triton_async.infer.signature import ModelSignature

def has_hooks(library: Library) -> bool: ...

class NativeRule(BatchRule):
    def __init__(
        self,
        library: Library,
        signature: ModelSignature,
        *,
        model: ModelHandle | None = None,
        config: dict[str, Any] | None = None,
        directory: Path | None = None,
    ) -> None: ...
