from typing import Any

from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature
from triton_async.memory.regions import RegionRegistry

def scan(
    model_name: str,
    model_version: int,
    signature: ModelSignature,
    body: Any,
    header_length: int,
    received_ns: int = 0,
    regions: RegionRegistry | None = None,
) -> InferRequest | None: ...
