from collections.abc import Sequence
from contextlib import AbstractContextManager

def watching(signals: Sequence[int], limit_s: float, again_s: float) -> AbstractContextManager[None]: ...
