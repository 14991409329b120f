from collections.abc import Iterable
from contextlib import AbstractContextManager

from triton_async.backends.base import ModelInstance
from triton_async.backends.capi.handles import ModelHandle
from triton_async.infer.signature import ModelSignature
from triton_async.memory.slab import SlabPool

class Turn: ...

class NativeInstance(ModelInstance):
    def __init__(
        self,
        name: str,
        model: ModelHandle,
        signature: ModelSignature,
        pool: SlabPool,
        kind: int,
        device_id: int,
        passive: bool,
        host_policy: str,
        profiles: Iterable[str],
        turn: Turn | None,
        starting: AbstractContextManager[object] | None,
        any_thread: bool = False,
    ) -> None: ...
