"""Rules of the inputs and outputs of a config, with Triton's messages; its own follow the same form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import prod
from typing import Any

from triton_async import datatypes, defines
from triton_async.config.model_config import Format
from triton_async.config.paths import safe_relative
from triton_async.errors import InvalidArg


def validate_io(proto: Any, complete: bool = True) -> None:
    """InvalidArg for the first input or output that cannot be used. Not `complete`: what is left out may still be
    filled in from the model; only what is written is looked at.
    """
    for problem in io_problems(proto, complete):
        raise problem


def io_problems(proto: Any, complete: bool = True) -> Iterator[InvalidArg]:
    """What is wrong with the inputs and outputs, one of each."""
    checks: list[Callable[[], None]] = [
        partial(_check_list, proto, proto.input, "input", complete),
        partial(_check_list, proto, proto.output, "output", complete),
        *(partial(_check_input, proto, io, complete) for io in proto.input),
        *(partial(_check_output, proto, io, complete) for io in proto.output),
    ]
    for check in checks:
        try:
            check()
        except InvalidArg as error:
            yield error


def _check_input(proto: Any, io: Any, complete: bool) -> None:
    _check_tensor(proto, io, "input", complete)
    if io.format in (Format.NHWC, Format.NCHW) and len(io.dims) != 3 and (io.dims or complete):
        raise InvalidArg(f"model input NHWC/NCHW require 3 dims for {proto.name}: input '{io.name}'")
    if io.format not in tuple(Format):
        raise InvalidArg(f"model input '{io.name}' has unknown 'format' {io.format} for {proto.name}")


def _check_output(proto: Any, io: Any, complete: bool) -> None:
    _check_tensor(proto, io, "output", complete)
    if io.label_filename:
        safe_relative(io.label_filename, f"label_filename of output '{io.name}' of model '{proto.name}'")


def _check_list(proto: Any, ios: Any, what: str, complete: bool) -> None:
    # Python models may be called for what they do.
    if not ios and complete and proto.backend != "python":
        raise InvalidArg(f"model configuration must specify one or more '{what}' for {proto.name}")
    if len(ios) > defines.MAX_TENSORS_PER_REQUEST:
        raise InvalidArg(
            f"model configuration specifies {len(ios)} '{what}', at most "
            f"{defines.MAX_TENSORS_PER_REQUEST} are supported for {proto.name}"
        )
    seen: set[str] = set()
    for io in ios:
        if io.name in seen:
            raise InvalidArg(f"model {what} '{io.name}' is specified more than once for {proto.name}")
        seen.add(io.name)


def _check_tensor(proto: Any, io: Any, what: str, complete: bool) -> None:
    if not io.name:
        raise InvalidArg(f"model {what} must specify 'name' for {proto.name}")
    problem = _problem(io, proto.max_batch_size, complete)
    if problem:
        raise InvalidArg(f"model {what} '{io.name}' {problem} for {proto.name}")
    if proto.platform != "tensorrt_plan":
        if io.is_shape_tensor:
            raise InvalidArg(
                f"shape tensors are only supported for TensorRT platform for {proto.name}: {what} '{io.name}'"
            )
        if io.is_non_linear_format_io:
            raise InvalidArg(
                f"Non-linear IO format is only supported for the TensorRT platform for {proto.name}: "
                f"{what} '{io.name}'"
            )
    elif io.is_non_linear_format_io and len(io.dims) != 3:
        raise InvalidArg(f"Non-linear IO format {what} requires 3 dims for {proto.name}: '{io.name}'")


def _problem(io: Any, max_batch_size: int, complete: bool) -> str | None:
    """What is wrong with datatype, dims and reshape of a tensor, worded to follow its name; or None."""
    if not io.data_type and complete:
        return "must specify 'data_type'"
    if not 0 <= io.data_type < len(datatypes.NAMES):
        return f"has unknown 'data_type' {io.data_type}"
    if not io.dims and complete:
        return "must specify 'dims'"
    reshaped = io.HasField("reshape")
    if reshaped and not io.reshape.shape and max_batch_size == 0 and complete:
        return "cannot have empty reshape for non-batching model as scalar tensors are not supported"
    most = defines.MAX_RANK - (1 if max_batch_size > 0 else 0)
    if len(io.dims) > most or len(io.reshape.shape) > most:
        return f"has more than {most} dimensions"
    if any(dim < 1 and dim != -1 for dim in io.dims):
        return "dimension must be integer >= 1, or -1 to indicate a variable-size dimension"
    if any(dim < 1 and dim != -1 for dim in io.reshape.shape):
        return "reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension"
    if prod(dim for dim in io.dims if dim > 0) > defines.MAX_TENSOR_NBYTES:
        return "dimensions give more elements than can be addressed"
    return _reshape_problem(io.dims, io.reshape.shape) if reshaped and io.dims else None


def _reshape_problem(dims: Iterable[int], shape: Iterable[int]) -> str | None:
    # The fixed parts between variable dimensions must be equally large, as [2,4,-1,6] and [8,-1,1,6].
    ours, theirs = _trunks(dims), _trunks(shape)
    # One of them being fixed is a difference in size for Triton, both variable one in the number of them.
    if (len(ours) == 1) != (len(theirs) == 1):
        return "has different size for dims and reshape"
    if len(ours) != len(theirs):
        return "has different number of variable-size dimensions for dims and reshape"
    return None if ours == theirs else "has different size for dims and reshape"


def _trunks(dims: Iterable[int]) -> list[int]:
    trunks = [1]
    for dim in dims:
        if dim == -1:
            trunks.append(1)
        else:
            trunks[-1] *= dim
    return trunks
