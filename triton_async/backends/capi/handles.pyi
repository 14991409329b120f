from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from triton_async.backends.base import InferenceService
from triton_async.infer.signature import ModelSignature

class Library:
    file: str
    threads: str | None
    def __init__(self, path: Path | str) -> None: ...

class BackendHandle:
    library: Library
    name: str
    device_blocking: bool
    parallel_loading: bool
    groups: tuple[tuple[int, int, tuple[int, ...] | None], ...]
    def __init__(self, name: str, library: Library, location: str, config: str, memory: Any) -> None: ...
    def close(self) -> None: ...

class ModelHandle:
    backend: BackendHandle
    name: str
    initialised: bool
    completed: dict[str, Any] | None
    memory: dict[int, tuple[tuple[int, int, int], ...]]
    def __init__(
        self,
        backend: BackendHandle,
        name: str,
        version: int,
        location: str,
        config: dict[str, Any],
        auto_complete: bool,
        on_config: Callable[[dict[str, Any]], dict[str, Any]],
        inference: InferenceService | None = None,
    ) -> None: ...
    def initialise(self) -> None: ...
    def set_config(self, config: dict[str, Any]) -> None: ...
    def set_signature(self, signature: ModelSignature, states: Iterable[str], iterative: bool) -> None: ...
    def close(self) -> None: ...
