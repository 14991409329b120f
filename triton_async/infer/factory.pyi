from collections.abc import Callable
from typing import Any

from triton_async.errors import ServerError
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature
from triton_async.infer.tensor import Tensor

class ResponseFactory:
    request: InferRequest
    signature: ModelSignature
    inputs: list[Tensor | None] | None
    finished: bool
    released: bool
    is_cancelled: bool
    def send(
        self,
        outputs: list[Tensor],
        parameters: dict[str, Any] | None = None,
        error: ServerError | None = None,
        final: bool = True,
    ) -> int: ...
    def send_taken(self, outputs: list[Tensor], parameters: dict[str, Any] | None, final: bool) -> int: ...
    @property
    def congested(self) -> bool: ...
    def on_relief(self, resume: Callable[[], object]) -> int: ...
    def wait(self, timeout_s: float = -1) -> bool: ...
    def release(self) -> int: ...
    def reschedule(self) -> int: ...
