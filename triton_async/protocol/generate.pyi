from typing import Any

from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature

def decode_generate(
    model_name: str,
    model_version: int,
    signature: ModelSignature,
    body: Any,
    max_nbytes: int,
    received_ns: int,
) -> InferRequest: ...
def encode_generate(response: InferResponse) -> bytes: ...
def encode_long_generate(response: InferResponse) -> list[bytes]: ...
def is_long_generate(response: InferResponse) -> bool: ...
