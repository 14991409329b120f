from collections.abc import Iterable, Mapping
from typing import Any

from triton_async.infer.request import InferRequest

def make_request(
    model: str,
    inputs: Mapping[str, Any],
    *,
    version: int = -1,
    outputs: Iterable[str] | None = None,
    request_id: str = "",
    parameters: Mapping[str, Any] | None = None,
    sequence_id: int | str = 0,
    sequence_start: bool = False,
    sequence_end: bool = False,
    priority: int = 0,
    timeout_us: int = 0,
) -> InferRequest: ...
