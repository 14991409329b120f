import asyncio
import socket
from collections.abc import Callable
from typing import Any

from triton_async.core.turn import Turn

class Clients:
    turn: Turn
    def __init__(self, turn: Turn, on_end: Callable[[], object]) -> None: ...
    def adopt(self, sock: socket.socket, peer: Any, protocol: asyncio.BaseProtocol) -> None: ...
    def close(self) -> None: ...
