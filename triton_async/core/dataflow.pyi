from collections.abc import Iterable, Mapping

from triton_async.infer.signature import TensorSpec

class Wire:
    name: str
    tensor: int
    def __init__(
        self, name: str, tensor: int, spec: TensorSpec, gives: bool, takes: bool, outside: TensorSpec | None = None
    ) -> None: ...

class Step:
    model_name: str
    key: str
    model_version: int
    number: int
    inputs: tuple[Wire, ...]
    outputs: dict[str, int]
    level: int
    decoupled: bool
    limit: int
    def __init__(
        self,
        model_name: str,
        model_version: int,
        number: int,
        inputs: Iterable[Wire],
        outputs: Mapping[str, int],
        level: int,
        decoupled: bool,
        limit: int = 0,
        key: str | None = None,
    ) -> None: ...

class Dataflow:
    steps: tuple[Step, ...]
    n_tensors: int
    decoupled: bool
    def __init__(
        self, steps: Iterable[Step], inputs: Iterable[int], outputs: Iterable[Wire], levels: Iterable[int]
    ) -> None: ...
