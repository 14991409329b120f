from typing import Any

from triton_async.core.cache import ResponseCache

class SharedCache(ResponseCache):
    def __init__(self, store: Any, namespace: str = "") -> None: ...
