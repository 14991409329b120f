"""The samples of `model_warmup`: what each instance runs before its model is ready. Rules, and the frozen form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

from triton_async import datatypes, defines
from triton_async.config.paths import safe_relative
from triton_async.errors import InvalidArg

# Where the files of `input_data_file` lie in a model's directory.
FOLDER = "warmup"


class WarmUpData(Enum):
    """Where the bytes of an input come from: the names of the `oneof`."""

    ZERO = "zero_data"
    RANDOM = "random_data"
    FILE = "input_data_file"


@dataclass(frozen=True, slots=True)
class WarmUpInput:
    """An input of each request of a sample. `dims` without the batch dimension; `filename`: below `warmup`, of FILE."""

    name: str
    datatype: int
    dims: tuple[int, ...]
    data: WarmUpData
    filename: str = ""

    @property
    def nbytes(self) -> int:
        """Of the tensor; of BYTES that are all empty."""
        return prod(self.dims) * (datatypes.element_size(self.datatype) or 4)


@dataclass(frozen=True, slots=True)
class WarmUpSample:
    """`batch_size` equal requests of one row, run together `count` times. None of the two is 0."""

    name: str
    batch_size: int
    count: int
    inputs: tuple[WarmUpInput, ...]


def warm_up_samples(proto: Any) -> tuple[WarmUpSample, ...]:
    """Those of a valid config, in its order. A `batch_size` of 0 leaves a sample out, a `count` of 0 is 1."""
    return tuple(
        WarmUpSample(
            sample.name,
            sample.batch_size,
            max(1, sample.count),
            tuple(_input(name, sample.inputs[name]) for name in sorted(sample.inputs)),
        )
        for sample in proto.model_warmup
        if sample.batch_size
    )


def _input(name: str, given: Any) -> WarmUpInput:
    data = WarmUpData(given.WhichOneof("input_data_type"))
    return WarmUpInput(name, given.data_type, tuple(given.dims), data, given.input_data_file)


def check_warm_up(proto: Any) -> None:
    """InvalidArg for the first sample that could not be made, whatever the model."""
    for index, sample in enumerate(proto.model_warmup):
        where = f" in model_warmup sample '{sample.name or index}' of model '{proto.name}'"
        for problem, remedy in _problems(proto, sample):
            raise InvalidArg(problem + where + remedy)


def _problems(proto: Any, sample: Any) -> Iterator[tuple[str, str]]:
    """What is wrong, in Triton's words where it has some, and what to do about it."""
    for name in sorted(sample.inputs):
        given = sample.inputs[name]
        if not 0 < given.data_type < len(datatypes.NAMES):
            yield f"warmup setting expects input '{name}' to have 'data_type' set", ""
            continue
        if -1 in given.dims:
            yield f"warmup setting expects all variable-size dimensions are specified for input '{name}'", (
                ": give a number for each -1 of 'dims'"
            )
        if any(dim < 0 for dim in given.dims):
            yield f"warmup setting expects no negative 'dims' for input '{name}'", ""
        if len(given.dims) >= defines.MAX_RANK:
            yield f"warmup setting expects at most {defines.MAX_RANK - 1} 'dims' for input '{name}'", ""
        nbytes = prod(given.dims) * (datatypes.element_size(given.data_type) or 4)
        if nbytes > defines.MAX_WARMUP_NBYTES:
            most = defines.MAX_WARMUP_NBYTES
            yield f"warmup setting expects at most {most} bytes for input '{name}', got {nbytes}", ""
        kind = given.WhichOneof("input_data_type")
        if kind is None:
            yield f"warmup setting expects input '{name}' to have input_data_type set", (
                ": 'zero_data', 'random_data' or 'input_data_file'"
            )
        if kind == WarmUpData.FILE.value:
            safe_relative(
                given.input_data_file,
                f"input_data_file of input '{name}' in model_warmup sample '{sample.name}' of model '{proto.name}'",
            )
