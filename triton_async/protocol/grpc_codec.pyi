from typing import Any

from triton_async.infer.request import InferRequest
from triton_async.memory.regions import RegionRegistry

def decode_request(
    message: Any, received_ns: int = 0, regions: RegionRegistry | None = None
) -> InferRequest: ...
def request_id(message: Any) -> str: ...
def requested_model(message: Any) -> str: ...
