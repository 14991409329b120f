from typing import Any

from triton_async.errors import ServerError
from triton_async.infer.tensor import Tensor

class InferResponse:
    request: Any
    model_name: str
    model_version: int
    outputs: list[Tensor]
    parameters: dict[str, Any] | None
    error: ServerError | None
    final: bool
    def __init__(
        self,
        request: Any,
        model_name: str,
        model_version: int,
        outputs: list[Tensor],
        parameters: dict[str, Any] | None = None,
        error: ServerError | None = None,
        final: bool = True,
    ) -> None: ...

class ResponseSink:
    def on_response(self, response: InferResponse) -> None: ...
    def on_released(self, request: Any) -> None: ...

def live_responses() -> int: ...
