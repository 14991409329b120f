from collections.abc import Callable
from typing import Any

class Arena:
    nbytes: int
    leased: int
    leased_nbytes: int
    def __init__(self, address: int, nbytes: int, free: Callable[[int], Any]) -> None: ...
