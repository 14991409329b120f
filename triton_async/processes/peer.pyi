import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Any

from triton_async.backends.python.isolated.memory import SharedMemory
from triton_async.core.servable import Servable
from triton_async.core.server import InferenceServer
from triton_async.infer.response import ResponseSink
from triton_async.processes.calls import Answering
from triton_async.processes.lane import Lane

class RemoteSink(ResponseSink): ...

class FrontEnd(Lane):
    pid: int
    told: dict[str, Any] | None
    in_flight: int
    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, rings: SharedMemory, mine: SharedMemory,
        theirs: SharedMemory, own_fd: int, other_fd: int, server: InferenceServer, answering: Answering,
        on_told: Callable[[FrontEnd, dict[str, Any]], None], on_over: Callable[[FrontEnd, str | None], None],
    ) -> None: ...  # fmt: skip
    def know(self, models: Iterable[Servable]) -> None: ...
    def forget(self, numbers: Iterable[int]) -> None: ...
    def known(self) -> set[int]: ...
