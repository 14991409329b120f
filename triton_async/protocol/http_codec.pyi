from typing import Any

from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature
from triton_async.infer.tensor import Tensor
from triton_async.memory.regions import RegionRegistry

JSON: str
BINARY: str

def decode_infer(
    model_name: str,
    model_version: int,
    signature: ModelSignature,
    body: Any,
    header_length: int,
    max_input_nbytes: int,
    received_ns: int,
    regions: RegionRegistry | None = None,
) -> InferRequest: ...
def is_long_json(nbytes: int) -> bool: ...
def is_long_answer(request: InferRequest, response: InferResponse) -> bool: ...
def encode_long(
    request: InferRequest, response: InferResponse, signature: ModelSignature
) -> tuple[bytes, list[bytes | Tensor], int | None, str]: ...
def decode_long(
    model_name: str,
    model_version: int,
    signature: ModelSignature,
    body: Any,
    header_length: int,
    max_input_nbytes: int,
    received_ns: int,
    regions: RegionRegistry | None = None,
) -> InferRequest: ...
def encode_infer(
    request: InferRequest, response: InferResponse, signature: ModelSignature
) -> tuple[bytes, list[bytes | Tensor], int | None, str]: ...
