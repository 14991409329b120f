"""`allow_ragged_batch`, `batch_input` and `batch_output` of a config: their rules, in Triton's words, and frozen form.

What a `batch_input` names are inputs of the model that no client sends: the server makes them for each batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from triton_async import datatypes
from triton_async.errors import InvalidArg

_INT32, _FP32 = datatypes.from_name("INT32"), datatypes.from_name("FP32")


class BatchInputKind(IntEnum):
    """BatchInput.Kind, same values."""

    ELEMENT_COUNT = 0
    ACCUMULATED_ELEMENT_COUNT = 1
    ACCUMULATED_ELEMENT_COUNT_WITH_ZERO = 2
    MAX_ELEMENT_COUNT_AS_SHAPE = 3
    ITEM_SHAPE = 4
    ITEM_SHAPE_FLATTEN = 5


@dataclass(frozen=True, slots=True)
class BatchInput:
    """Inputs `targets` of the model, which tell of `source`, one of `input`. `datatype`: number of `datatypes`."""

    kind: BatchInputKind
    targets: tuple[str, ...]
    datatype: int
    source: str

    @property
    def dims(self) -> tuple[int, ...]:
        """All of them, as no dimension has the batch's rows."""
        return _dims(self.kind)


@dataclass(frozen=True, slots=True)
class BatchOutput:
    """BATCH_SCATTER_WITH_INPUT_SHAPE: the variable dimensions of outputs `targets` are those of input `source`."""

    targets: tuple[str, ...]
    source: str


def freeze_batch_inputs(proto: Any) -> tuple[BatchInput, ...]:
    """Those of a config, which need not be valid yet: what can not be right is left out."""
    return tuple(
        BatchInput(BatchInputKind(io.kind), tuple(io.target_name), io.data_type, io.source_input[0])
        for io in proto.batch_input
        if io.kind in tuple(BatchInputKind) and io.source_input
    )


def freeze_batch_outputs(proto: Any) -> tuple[BatchOutput, ...]:
    """The same of `batch_output`."""
    return tuple(BatchOutput(tuple(io.target_name), io.source_input[0]) for io in proto.batch_output if io.source_input)


def batch_tensors(proto: Any) -> list[tuple[str, int, tuple[int, ...]]]:
    """Name, data type and dims of the inputs that `batch_input` adds to a config."""
    return [
        (name, io.data_type, _dims(io.kind))
        for io in proto.batch_input
        for name in io.target_name
    ]


def _dims(kind: int) -> tuple[int, ...]:
    return (-1, -1) if kind == BatchInputKind.ITEM_SHAPE else (-1,)


def scattered(proto: Any) -> frozenset[str]:
    """Outputs of which the model has the parts of all requests behind each other, whatever their dims."""
    return frozenset(name for io in proto.batch_output for name in io.target_name)


def is_ragged(proto: Any) -> bool:
    """Whether the model knows of what its batches are made."""
    return bool(proto.batch_input or proto.batch_output or any(io.allow_ragged_batch for io in proto.input))


def is_listed(proto: Any) -> bool:
    """Whether a config says all of inputs and outputs, so that nothing is filled in from the model."""
    return bool(proto.input and proto.output) and all(io.dims for io in (*proto.input, *proto.output))


def ragged_problems(proto: Any, complete: bool = True) -> Iterator[InvalidArg]:
    """What is wrong, the first of each block. Not `complete`: inputs or outputs may still be filled in."""
    inputs = {io.name: io for io in proto.input}
    outputs = {io.name: io for io in proto.output}
    names: set[str] = set()
    checks: list[tuple[Any, Any]] = [(_check_batch_input, io) for io in proto.batch_input]
    checks += [(_check_batch_output, io) for io in proto.batch_output]
    if not (complete or is_listed(proto)):
        return
    for check, io in checks:
        try:
            check(proto.name, io, inputs, outputs, names)
        except InvalidArg as error:
            yield error
    if complete and proto.max_batch_size == 0:
        for io in proto.batch_input:
            if io.kind >= BatchInputKind.ITEM_SHAPE:
                kind = f"BATCH_{BatchInputKind(io.kind).name}"
                yield InvalidArg(
                    f"batch input kind '{kind}' tells of rows, which there are none of with 'max_batch_size: 0', for "
                    f"{proto.name}"
                )
    for io in proto.input:
        if io.allow_ragged_batch and io.is_shape_tensor:
            yield InvalidArg(f"input '{io.name}' can not have both 'allow_ragged_batch' and 'is_shape_tensor' for "
                             f"{proto.name}")  # fmt: skip


def _check_batch_input(model: str, io: Any, inputs: dict[str, Any], outputs: Any, names: set[str]) -> None:
    if io.kind not in tuple(BatchInputKind):
        raise InvalidArg(f"unknown batch input kind '{io.kind}' for {model}")
    kind = f"BATCH_{BatchInputKind(io.kind).name}"
    if len(io.source_input) != 1:
        raise InvalidArg(
            f"batch input kind '{kind}' expects 1 source input, got {len(io.source_input)} for {model}"
        )
    if io.data_type not in (_INT32, _FP32):
        raise InvalidArg(f"batch input data type must be TYPE_INT32 or TYPE_FP32 for {model}: kind '{kind}'")
    source = _source(model, io, inputs, f"batch input kind '{kind}'")
    if not io.target_name:
        raise InvalidArg(f"batch input kind '{kind}' must specify one or more 'target_name' for {model}")
    for name in io.target_name:
        if not name or name in inputs or name in names:
            raise InvalidArg(
                f"batch input kind '{kind}' has 'target_name' '{name}', which is empty, an 'input' as well or the "
                f"target of two batch inputs, for {model}"
            )
        names.add(name)
    if io.kind >= BatchInputKind.ITEM_SHAPE and source.HasField("reshape"):
        raise InvalidArg(
            f"batch input kind '{kind}' tells the shapes of input '{source.name}' as clients send them: it can not "
            f"have 'reshape' for {model}"
        )


def _check_batch_output(model: str, io: Any, inputs: dict[str, Any], outputs: dict[str, Any], names: set[str]) -> None:
    if io.kind != 0:
        raise InvalidArg(f"unknown batch output kind '{io.kind}' for {model}")
    kind = "BATCH_SCATTER_WITH_INPUT_SHAPE"
    if len(io.source_input) != 1:
        raise InvalidArg(
            f"batch output kind '{kind}' expects 1 source input, got {len(io.source_input)} for {model}"
        )
    source = _source(model, io, inputs, f"batch output kind '{kind}'")
    if not io.target_name:
        raise InvalidArg(f"batch output kind '{kind}' must specify one or more 'target_name' for {model}")
    for name in io.target_name:
        if name not in outputs:
            raise InvalidArg(f"unknown target output name '{name}' for {model}")
        if f"output {name}" in names:
            raise InvalidArg(f"target output name '{name}' can only be specified once for {model}")
        names.add(f"output {name}")
        output = outputs[name]
        if output.HasField("reshape") or source.HasField("reshape"):
            raise InvalidArg(
                f"batch output '{name}' has the dimensions of input '{source.name}': neither can have 'reshape' for "
                f"{model}"
            )
        places = [place for place, dim in enumerate(output.dims) if dim == -1]
        if places and places[-1] >= len(source.dims):
            raise InvalidArg(
                f"batch output '{name}' has a variable dimension {places[-1]}, which input '{source.name}' does not "
                f"have, for {model}"
            )


def _source(model: str, io: Any, inputs: dict[str, Any], what: str) -> Any:
    name = io.source_input[0]
    if name not in inputs:
        raise InvalidArg(f"unknown source input name '{name}' for {model}")
    if inputs[name].optional:
        raise InvalidArg(f"{what} has source input '{name}', which is 'optional' and may be missing, for {model}")
    return inputs[name]
