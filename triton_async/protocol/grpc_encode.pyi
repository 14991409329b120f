from typing import Any

from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature
from triton_async.infer.tensor import Tensor

PREFIX_NBYTES: int

def chosen_outputs(response: InferResponse, signature: ModelSignature) -> list[Tensor]: ...
def encode_response(response: InferResponse, outputs: list[Tensor] | None = None) -> list[Any]: ...
def encode_stream_response(response: InferResponse, outputs: list[Tensor] | None = None) -> list[Any]: ...
def encode_stream_error(
    message: str, id: str = "", model_name: str = "", model_version: str = "", final: bool = True
) -> bytes: ...
