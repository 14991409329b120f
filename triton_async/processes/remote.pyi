import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from triton_async.backends.python.isolated.memory import SharedMemory
from triton_async.config.settings import Settings
from triton_async.core.reactor import Reactor
from triton_async.core.servable import Servable
from triton_async.core.server import InferenceServer
from triton_async.memory.slab import SlabPool
from triton_async.processes.lane import Lane

class ModelsLane(Lane):
    in_flight: int
    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, rings: SharedMemory, mine: SharedMemory,
        theirs: SharedMemory, own_fd: int, other_fd: int, on_told: Callable[[dict[str, Any]], None],
        on_over: Callable[[str | None], None],
    ) -> None: ...  # fmt: skip
    async def ask(self, name: str, *arguments: Any) -> Any: ...

class RemoteServable(Servable):
    def retire(self) -> None: ...

class RemoteServer(InferenceServer):
    def __init__(
        self, settings: Settings, reactor: Reactor, loop: asyncio.AbstractEventLoop, pool: SlabPool,
        link: ModelsLane, n_frontends: int,
    ) -> None: ...  # fmt: skip
    def set_state(self, state: int, max_held_nbytes: int, reads_context: bool, models_asked: bool) -> None: ...
    def set_models(self, changed: Mapping[str, Any]) -> None: ...
    def set_regions(self, told: Sequence[Sequence[Any]]) -> None: ...
    def wake_readiness(self) -> None: ...
