from typing import Any

from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature

def scan(
    model_name: str,
    model_version: int,
    signature: ModelSignature,
    body: Any,
    header_length: int,
    received_ns: int = 0,
) -> InferRequest | None: ...
