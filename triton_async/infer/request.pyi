from typing import Any

from triton_async.infer.tensor import Tensor
from triton_async.infer.trace import Trace
from triton_async.memory.buffer import Buffer

class Origin:
    def leave(self) -> None: ...

class RequestedOutput:
    name: str
    binary: bool
    classification: int
    parameters: dict[str, Any] | None
    region: Buffer | None
    anywhere: bool
    def __init__(
        self,
        name: str,
        binary: bool = False,
        classification: int = 0,
        parameters: dict[str, Any] | None = None,
        region: Buffer | None = None,
        anywhere: bool = False,
    ) -> None: ...

class InferRequest:
    model_name: str
    model_version: int
    id: str
    inputs: list[Tensor]
    outputs: list[RequestedOutput]
    parameters: dict[str, Any] | None
    priority: int
    timeout_us: int
    sequence_id: int | str
    flags: int
    binary_default: bool
    received_ns: int
    end_by_ns: int
    context: Any
    trace: Trace | None
    trace_parent: Any
    origin: Origin | None
    is_cancelled: bool
    batch_size: int
    def __init__(
        self,
        model_name: str,
        model_version: int = -1,
        id: str = "",
        inputs: list[Tensor] | None = None,
        outputs: list[RequestedOutput] | None = None,
        parameters: dict[str, Any] | None = None,
        priority: int = 0,
        timeout_us: int = 0,
        sequence_id: int | str = 0,
        flags: int = 0,
        binary_default: bool = False,
        received_ns: int = 0,
        end_by_ns: int = 0,
    ) -> None: ...
    def resume(self) -> None: ...
    def log_prefix(self) -> str: ...

def live_requests() -> int: ...
