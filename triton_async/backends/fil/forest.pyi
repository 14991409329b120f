from typing import Any

from numpy.typing import NDArray

from triton_async.backends.fil.ensemble import Ensemble
from triton_async.backends.fil.layout import Layout

def ranks_usable() -> bool: ...

class Forest:
    double_rows: bool
    double_answers: bool
    def __init__(
        self,
        ensemble: Ensemble,
        layout: Layout,
        answer: int,
        link: int,
        threshold: float = 0.5,
        missing: float | None = None,
        double_rows: bool = False,
        double_answers: bool = False,
    ) -> None: ...
    @property
    def answer_width(self) -> int: ...
    @property
    def n_columns(self) -> int: ...
    @property
    def n_outputs(self) -> int: ...
    @property
    def scratch_nbytes(self) -> int: ...
    def answers(self, rows: NDArray[Any]) -> NDArray[Any]: ...
    def linked(self, margins: NDArray[Any]) -> NDArray[Any]: ...
    def contributions(self, rows: NDArray[Any]) -> NDArray[Any]: ...
