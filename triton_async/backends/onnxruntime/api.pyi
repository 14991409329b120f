from pathlib import Path

from triton_async.backends.onnxruntime.options import ThreadPools

def clean(text: str) -> str: ...
def find_library() -> Path: ...
def pick_library(capi: Path) -> Path | None: ...

class Library:
    version: str
    providers: tuple[str, ...]
    def __init__(self) -> None: ...

class Environment:
    library: Library
    pools: ThreadPools | None
    def __init__(self, library: Library, pools: ThreadPools | None = None) -> None: ...
