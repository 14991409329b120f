"""What readers make of a model file: trees as plain arrays, and how their leaves become answers. Load threads."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_async.errors import InvalidArg

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Way(IntEnum):
    """Ways to treat missing values, as in csrc/forest.h."""

    NAN_RIGHT = 0
    NAN_LEFT = 1
    ZERO_RIGHT = 2
    ZERO_LEFT = 3


class Link(IntEnum):
    """How margins become answers, as in csrc/forest.h."""

    IDENTITY = 0
    SIGMOID = 1
    EXPONENTIAL = 2
    SOFTMAX = 3
    HINGE = 4
    SIGNED_SQUARE = 5
    LOG_ONE_PLUS_EXP = 6
    EXPONENTIAL_RATIO = 7
    NORMALISE = 8


@dataclass(slots=True)
class Categories:
    """The categories of one split. `members`: ascending. Members go left, or right; NaN likewise. `truncate`: what lies
    between -1 and 0 is category 0, else it is none.
    """

    members: NDArray[np.uint32]
    members_left: bool
    nan_left: bool
    truncate: bool = False


@dataclass(slots=True)
class Tree:
    """Arrays of nodes, the root is 0. `left`, `right`: -1 at leaves. `value`: of the leaves, (nodes,), or
    (nodes, outputs) where leaves are vectors. `way`: of `Way`. `cover`: how much of the training data reached the node.
    `output`: the margin that it adds to, -1 for vectors.
    """

    left: Ints
    right: Ints
    feature: Ints
    threshold: Floats
    way: NDArray[np.uint8]
    value: Floats
    output: int
    cover: Floats | None = None
    categories: dict[int, Categories] = field(default_factory=dict)


@dataclass(slots=True)
class Ensemble:
    """A model. `float32`: rows and sums are floats in the library it comes from; else only its rows are
    (`float32_rows`), or all is double. `or_equal`: a value that equals the threshold goes left. `base`: a margin for
    each output; `base_first`: sums begin with it. `n_classes`: outputs of one target, 1 for binary ones. `divisor`: of
    the sums. `tiny_is_zero`: values between -1e-35 and 1e-35 are zero. `format`: for people.
    """

    format: str
    trees: list[Tree]
    n_features: int
    n_outputs: int
    base: Floats
    link: Link
    alpha: float = 1.0
    n_classes: int = 1
    classifier: bool = False
    float32: bool = False
    float32_rows: bool = False
    or_equal: bool = True
    base_first: bool = False
    divisor: float = 1.0
    tiny_is_zero: bool = False
    notes: list[str] = field(default_factory=list)
    # A lightgbm.Booster that answers in place of the trees, which are linear.
    booster: Any = None

    @property
    def n_targets(self) -> int:
        """Targets of a row."""
        return self.n_outputs // self.n_classes


class Fault(InvalidArg):
    """Something in a model file is not as it must be. Readers raise it without the file's name."""


def number(text: Any, what: str, lowest: int, highest: int) -> int:
    """A whole number of a model file, which may be written as text. Fault when it is none, or out of its bounds."""
    try:
        value = int(text)
    except (TypeError, ValueError, OverflowError):
        raise Fault(f"{what} is {str(text)[:40]!r}, expected a whole number") from None
    if not lowest <= value <= highest:
        raise Fault(f"{what} is {value}, expected {lowest} to {highest}")
    return value
