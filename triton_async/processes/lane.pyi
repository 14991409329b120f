import asyncio
import socket

from triton_async.backends.python.isolated.memory import SharedMemory

NO_ROOM: str

class Held: ...

class Lane:
    rings: SharedMemory
    mine: SharedMemory
    theirs: SharedMemory
    closed: bool
    n_sent: int
    n_received: int
    n_rings: int
    waiting: int
    n_lent: int
    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, rings: SharedMemory, mine: SharedMemory,
        theirs: SharedMemory, own_fd: int, other_fd: int, *, front_end: bool,
    ) -> None: ...  # fmt: skip
    def open(self) -> None: ...
    def close(self) -> None: ...
    def on_end(self, problem: str | None) -> None: ...
    def tell(self, text: bytes) -> None: ...
    def call(self, number: int, text: bytes) -> None: ...
    def answer(self, number: int, text: bytes) -> None: ...

def rings_nbytes() -> int: ...
def lease_rings(memory: SharedMemory) -> None: ...
