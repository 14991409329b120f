from collections.abc import Sequence
from typing import Any

NAMES: tuple[str, str, str]

def response_coding(accept: str) -> tuple[str, bool]: ...
def worth(required: bool, parts: Sequence[Any]) -> bool: ...
