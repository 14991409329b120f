from collections.abc import Mapping, Sequence

from triton_async.config.model_config import Instance, InstanceGroup
from triton_async.core.reactor import Reactor

GLOBAL: int

class Claim:
    priority: int
    held: bool
    turn: int

class RateLimiter:
    def __init__(self, reactor: Reactor, granted: Mapping[str, Mapping[int, int]] | None = None) -> None: ...
    def add(
        self, instances: Sequence[Instance], groups: Sequence[InstanceGroup], where: str
    ) -> list[Claim | None]: ...
    def remove(self, claims: Sequence[Claim | None]) -> None: ...
    def usage(self) -> list[tuple[str, int, int, int]]: ...
