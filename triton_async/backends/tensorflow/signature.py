"""Compares configs with what a graph takes and returns, as leniently as Triton: graphs know little of their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from triton_async import datatypes
from triton_async.config.autocomplete import ModelIO, TensorInfo
from triton_async.errors import InvalidArg


def check_against_graph(proto: Any, found: ModelIO) -> None:
    """InvalidArg, naming model and tensor, when names, datatypes or dims of `proto` are not those of the graph.

    All inputs must be in the config, outputs may be left out. What an output's `reshape` says of the graph is not
    compared: a run shows whether its elements fill it.
    """
    for what, ios, tensors in (("input", proto.input, found.inputs), ("output", proto.output, found.outputs)):
        known = {tensor.name: tensor for tensor in tensors}
        for io in ios:
            tensor = known.get(io.name)
            if tensor is None:
                raise InvalidArg(
                    f"unexpected inference {what} '{io.name}', allowed {what}s are: {', '.join(sorted(known))} for "
                    f"{proto.name}"
                )
            _check_tensor(proto, io, tensor, what)
    names = {io.name for io in proto.input}
    missing = [tensor.name for tensor in found.inputs if tensor.name not in names]
    if missing:
        raise InvalidArg(
            f"unable to load model '{proto.name}', configuration expects {len(names)} inputs, model provides "
            f"{len(found.inputs)}: input '{missing[0]}' is missing"
        )


def _check_tensor(proto: Any, io: Any, tensor: TensorInfo, what: str) -> None:
    if tensor.datatype and io.data_type != tensor.datatype:
        raise InvalidArg(
            f"unable to load model '{proto.name}', configuration expects datatype "
            f"{datatypes.to_config_name(io.data_type)} for {what} '{io.name}', model provides "
            f"{datatypes.to_config_name(tensor.datatype)}"
        )
    if what == "input" and io.optional:
        raise InvalidArg(
            f"unable to load model '{proto.name}', input '{io.name}' is optional in the model configuration, but the "
            "graph does not run without it: remove 'optional: true'"
        )
    reshaped = io.HasField("reshape")
    if tensor.unranked or (what == "output" and reshaped):
        return
    dims = list(io.reshape.shape if reshaped else io.dims)
    if proto.max_batch_size > 0:
        dims = [-1 if proto.max_batch_size > 1 else 1, *dims]
    elif not tensor.dims and all(dim == 1 for dim in dims):
        return
    if not _fits(tensor.dims, dims, proto.max_batch_size > 1):
        batched = "with the batch dimension in front, " if proto.max_batch_size > 0 else ""
        raise InvalidArg(
            f"unable to load model '{proto.name}', {what} '{io.name}': the graph has shape {_shape(tensor.dims)}, the "
            f"configuration says {batched}{_shape(dims)}"
        )


def _fits(graph: Sequence[int], config: Sequence[int], batches: bool) -> bool:
    if len(graph) != len(config) or (batches and graph[0] != -1):
        return False
    return all(-1 in pair or pair[0] == pair[1] for pair in zip(graph, config, strict=True))


def _shape(dims: Sequence[int]) -> str:
    return "[" + ",".join(map(str, dims)) + "]"
