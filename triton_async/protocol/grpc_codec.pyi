from typing import Any

from triton_async.infer.request import InferRequest

def decode_request(message: Any, received_ns: int = 0) -> InferRequest: ...
