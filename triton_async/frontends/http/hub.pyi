from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any

from triton_async.core.server import InferenceServer
from triton_async.frontends.entry import Entry
from triton_async.frontends.http.body import Receiving
from triton_async.memory.slab import SlabPool

class Hub:
    connections: set[Any]
    leaving: bool
    stopping: bool
    loop: AbstractEventLoop
    max_unsent_nbytes: int
    unsent_nbytes: int
    def __init__(
        self,
        server: InferenceServer,
        pool: SlabPool,
        max_input_nbytes: int,
        loop: AbstractEventLoop,
        make_relay: Callable[[Any, Any], Any],
        check: Callable[[Any], object],
        on_empty: Callable[[], None],
        receiving: Receiving,
        infers: bool = True,
        max_connections: int = ...,
        entry: Entry | None = None,
    ) -> None: ...
    def tick(self) -> None: ...
    def leave(self) -> None: ...
    def stop(self) -> None: ...
    def abort(self) -> None: ...
