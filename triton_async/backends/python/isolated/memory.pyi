from triton_async.memory.arena import Arena

class SharedMemory:
    nbytes: int
    fd: int
    arena: Arena | None
    def __init__(
        self, nbytes: int, writable: bool, *, fd: int = -1, lends: bool | None = None, kept: bool = False
    ) -> None: ...
    def close(self) -> None: ...
