from pathlib import Path

def clean(text: str) -> str: ...
def find_library() -> Path: ...

class Library:
    version: str
    providers: tuple[str, ...]
    def __init__(self) -> None: ...

class Environment:
    library: Library
    global_threads: bool
    def __init__(self, library: Library, global_threads: tuple[int, int] | None = None) -> None: ...
