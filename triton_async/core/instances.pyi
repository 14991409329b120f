from collections.abc import Callable

from triton_async.backends.base import ModelInstance
from triton_async.core.reactor import Reactor
from triton_async.errors import ServerError
from triton_async.memory.slab import SlabPool

class Instance:
    name: str
    in_flight: int
    by_request: bool
    def __init__(
        self, name: str, reactor: Reactor, pool: SlabPool, use: Callable[[int], int], device_id: int = -1
    ) -> None: ...
    def start(
        self, make_engine: Callable[[], ModelInstance], on_started: Callable[[ServerError | None], None]
    ) -> None: ...
    def adopt(self, engine: ModelInstance, make_engine: Callable[[], ModelInstance]) -> None: ...
    @property
    def started(self) -> bool: ...
    def close(self) -> None: ...
    def stop(self, on_stopped: Callable[[], None]) -> None: ...
