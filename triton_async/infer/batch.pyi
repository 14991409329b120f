from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature

class Batch:
    requests: list[InferRequest]
    signature: ModelSignature
    rows: int
    def __init__(self, signature: ModelSignature) -> None: ...

def live_batches() -> int: ...
