from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature

def encode_answer(key: bytes, response: InferResponse, most_nbytes: int) -> bytes | None: ...
def decode_answer(
    value: bytes, key: bytes, request: InferRequest, signature: ModelSignature
) -> InferResponse | None: ...
