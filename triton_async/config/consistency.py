"""Compares a completed config with the model that it describes, in the words of Triton's ONNX backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from triton_async import datatypes
from triton_async.config.autocomplete import ModelIO, TensorInfo
from triton_async.config.ragged import batch_tensors, scattered
from triton_async.errors import InvalidArg


def check_against_model(proto: Any, model_io: ModelIO) -> None:
    """InvalidArg when inputs, outputs, datatypes or dims of `proto` are not those of the model. Outputs may
    be left out; inputs only when the model can do without.
    """
    _check_input_names(proto, model_io)
    inputs = {tensor.name: tensor for tensor in model_io.inputs}
    outputs = {tensor.name: tensor for tensor in model_io.outputs}
    states = {state.output_name for state in proto.sequence_batching.state}
    told = {name for name, _, _ in batch_tensors(proto)}
    for io in proto.input:
        _check_tensor(proto, io, inputs[io.name], "input", exact=False, by_rows=io.name not in told)
    for io in proto.output:
        if io.name not in outputs:
            raise InvalidArg(
                f"unexpected inference output '{io.name}', allowed outputs are: {', '.join(sorted(outputs))}"
                f" for {proto.name}"
            )
        # Triton: what a model promises must be said exactly, what it accepts may be narrowed. A state is both.
        _check_tensor(
            proto, io, outputs[io.name], "output", exact=io.name not in states, by_rows=io.name not in scattered(proto)
        )


def _check_input_names(proto: Any, model_io: ModelIO) -> None:
    allowed = {tensor.name for tensor in model_io.inputs}
    needed = {tensor.name for tensor in model_io.inputs if not tensor.optional}
    configured = {io.name for io in proto.input}
    counts = (
        f"unable to load model '{proto.name}', configuration expects {len(configured)} inputs, model provides "
        f"{len(needed)}"
    )
    if len(configured) > len(allowed):
        unknown = sorted(configured - allowed)
        raise InvalidArg(f"{counts}: it has no input '{unknown[0]}'")
    for io in proto.input:
        if io.name not in allowed:
            raise InvalidArg(
                f"unexpected inference input '{io.name}', allowed inputs are: {', '.join(sorted(allowed))}"
                f" for {proto.name}"
            )
    missing = sorted(needed - configured)
    if missing:
        raise InvalidArg(f"{counts}: input '{missing[0]}' is missing")


def _check_tensor(proto: Any, io: Any, tensor: TensorInfo, what: str, *, exact: bool, by_rows: bool) -> None:
    if io.data_type != tensor.datatype:
        raise InvalidArg(
            f"unable to load model '{proto.name}', configuration expects datatype "
            f"{datatypes.to_config_name(io.data_type)} for {what} '{io.name}', model provides "
            f"{datatypes.to_config_name(tensor.datatype)}"
        )
    if what == "input" and io.optional and not tensor.optional:
        raise InvalidArg(
            f"unable to load model '{proto.name}', input '{io.name}' is optional in the model configuration, but the "
            "model does not run without it: remove 'optional: true'"
        )
    if tensor.unranked:
        return
    if what == "input" and io.allow_ragged_batch:
        if tensor.dims != (-1,):
            raise InvalidArg(
                f"unable to load model '{proto.name}', configuration expects model provides input with shape [-1] for "
                f"ragged input '{io.name}', model provides {_shape(tensor.dims)}"
            )
        return
    if not by_rows:
        if what == "input" and not _fits(tensor.dims, io.dims, exact=False):
            raise InvalidArg(
                f"unable to load model '{proto.name}', batch input '{io.name}' has shape {_shape(io.dims)}, model "
                f"provides {_shape(tensor.dims)}"
            )
        return
    dims = tuple(io.reshape.shape) if io.HasField("reshape") else tuple(io.dims)
    if proto.max_batch_size > 0:
        _check_batched(proto, tensor, dims, exact)
    elif not tensor.dims:
        if any(dim != 1 for dim in dims):
            raise InvalidArg(
                f"unable to load model '{proto.name}', scalar tensor '{io.name}', should only "
                "provide 1 in the model configuration when the model doesn't support batching. Model "
                f"configuration provided: {_shape(dims)}."
            )
    elif not _fits(tensor.dims, dims, exact):
        raise InvalidArg(
            f"model '{proto.name}', tensor '{io.name}': the model expects {len(tensor.dims)} dimensions "
            f"(shape {_shape(tensor.dims)}) but the model configuration specifies {len(dims)} dimensions "
            f"(shape {_shape(dims)})"
        )


def _check_batched(proto: Any, tensor: TensorInfo, dims: tuple[int, ...], exact: bool) -> None:
    if not tensor.dims or tensor.dims[0] != -1:
        raise InvalidArg(
            f"model '{proto.name}', tensor '{tensor.name}': for the model to support batching "
            "the shape should have at least 1 dimension and the first dimension must be -1; but shape "
            f"expected by the model is {_shape(tensor.dims)}"
        )
    full = (-1, *dims)
    if not _fits(tensor.dims, full, exact):
        raise InvalidArg(
            f"model '{proto.name}', tensor '{tensor.name}': the model expects {len(tensor.dims)} dimensions "
            f"(shape {_shape(tensor.dims)}) but the model configuration specifies {len(full)} dimensions "
            "(an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, "
            f"making complete shape {_shape(full)})"
        )


def _fits(model: Sequence[int], config: Sequence[int], exact: bool) -> bool:
    if len(model) != len(config):
        return False
    for ours, theirs in zip(model, config, strict=True):
        # A config has no word for a fixed size of zero, it says -1 then.
        if ours != theirs and not (ours == 0 and theirs == -1) and (exact or -1 not in (ours, theirs)):
            return False
    return True


def _shape(dims: Sequence[int]) -> str:
    return "[" + ",".join(map(str, dims)) + "]"
