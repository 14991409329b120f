from triton_async.memory.arena import Arena
from triton_async.memory.buffer import Buffer

class SlabPool:
    leased: int
    leased_nbytes: int
    cached_nbytes: int
    budget_nbytes: int
    fallbacks: int
    def __init__(
        self, cache_limit: int, arena: Arena | None = None, fallback: SlabPool | None = None, shared_nbytes: int = -1
    ) -> None: ...
    def acquire(self, nbytes: int) -> Buffer: ...
    def trim(self) -> None: ...

def transient(nbytes: int) -> Buffer:
    """Writable lease of `nbytes` bytes of ordinary memory that no pool keeps; large ones are unmapped by a thread."""
