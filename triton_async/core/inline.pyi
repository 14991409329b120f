from collections.abc import Sequence

class InlinePolicy:
    allowed: bool
    ended: bool
    watched: int
    def noted(
        self,
        execution_ns: int,
        mean_ns: int,
        here: bool,
        displaced: bool = False,
        dims: Sequence[int] = (1,),
        rows: int = 8,
    ) -> bool: ...

def switches() -> tuple[int, int]: ...
