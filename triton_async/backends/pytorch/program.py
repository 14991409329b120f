"""A model file that PyTorch can call, whatever its format: what its arguments and results are called, and the call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from triton_async.errors import Unsupported

#: Operators of ATen that may return an argument, or a view of one, and do not declare it.
UNDECLARED = re.compile(
    r"aten::(dropout|alpha_dropout|feature_dropout|feature_alpha_dropout|type_as|atleast_[123]d|einsum|broadcast_tensors"
    r"|meshgrid|_cast_[A-Z][a-z]+)\Z"
)


@dataclass(frozen=True, slots=True)
class Port:
    """One argument or one result. `path`: its place, in the words of Triton's AOTInductor models (`ARGS[0]`).

    `datatype` 0 and `dims` None: the file does not say; dims are all of them, -1 where dynamic.
    """

    name: str
    path: str = ""
    datatype: int = 0
    dims: tuple[int, ...] | None = None
    strings: bool = False


class Program:
    """One loaded copy of a model. Called by the thread of its instance; several with ENABLE_WEIGHT_SHARING."""

    #: Arguments in the order of the call; those of a dictionary have none: any name is a key.
    arguments: tuple[Port, ...] = ()
    #: The one argument is a dictionary of tensors.
    takes_dictionary = False
    #: Results in the order of `call`, None where only a call can tell.
    results: tuple[Port, ...] | None = None

    def writes(self, argument: int) -> bool:
        """Whether a call may write into the memory of this argument. A dictionary is argument 0."""
        return True

    def lends(self, result: int) -> bool:
        """Whether this result may be memory of the model's state, or of an argument."""
        return True

    def call(self, arguments: Sequence[Any]) -> list[Any] | dict[str, Any]:
        """Results of one run: tensors and lists of strings, in order or by name."""
        raise Unsupported("this program has no call")
