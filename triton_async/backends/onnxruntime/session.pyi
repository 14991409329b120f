from collections.abc import Container
from pathlib import Path

from triton_async.backends.onnxruntime.api import Environment
from triton_async.backends.onnxruntime.options import SessionSettings
from triton_async.config.autocomplete import ModelIO, TensorInfo

class Session:
    device: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    initializers: tuple[TensorInfo, ...]
    def __init__(
        self, environment: Environment, path: Path, settings: SessionSettings, model: bytes | None = None
    ) -> None: ...
    def model_io(self) -> ModelIO: ...
    bounded: bool
    def mark_unranked(self, names: Container[str]) -> None: ...
