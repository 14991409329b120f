from triton_async.config.sequences import SequenceBatching
from triton_async.infer.signature import ModelSignature
from triton_async.infer.tensor import Tensor

class Injection:
    n_states: int
    def __init__(
        self, signature: ModelSignature, batching: SequenceBatching, initial: list[Tensor], copies: bool = False
    ) -> None: ...
