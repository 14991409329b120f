from typing import Any

from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature
from triton_async.memory.regions import RegionRegistry

def scan_twice(
    model_name: str,
    model_version: int,
    signature: ModelSignature,
    first: Any,
    first_length: int,
    second: Any,
    second_length: int,
    regions: RegionRegistry | None = None,
) -> InferRequest | None: ...
