"""The options of `optimization` that only models on a GPU have: what is valid, and who does not use them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from triton_async.errors import InvalidArg, Unsupported

# Backends whose instances on GPUs are DeviceInstances (backends.device).
_BACKENDS = frozenset(("pytorch", "tensorrt"))

# Field -> whether the config sets it.
_FIELDS: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    ("cuda", lambda o: o.cuda.ByteSize() > 0),
    ("gather_kernel_buffer_threshold", lambda o: o.gather_kernel_buffer_threshold > 0),
    ("eager_batching", lambda o: o.eager_batching),
    ("priority", lambda o: o.priority != 0),
)


def unused_device_options(proto: Any) -> list[str]:
    """A line for the log for each option that the backend does not use. Configs are moved from one to another, so
    that is no error; Triton says nothing.
    """
    if proto.backend in _BACKENDS:
        return []
    return [
        f"'optimization.{field}' of model '{proto.name}' has no effect: backend '{proto.backend}' does not use it"
        for field, is_set in _FIELDS
        if is_set(proto.optimization)
    ]


def validate_graph_specs(proto: Any) -> None:
    """InvalidArg for the first `graph_spec` that does not fit the model, whose inputs are complete; Unsupported for a
    lower bound that would have other dims than the batch dimension padded.
    """
    for number, spec in enumerate(proto.optimization.cuda.graph_spec):
        where = f"'optimization.cuda.graph_spec' {number} of model '{proto.name}'"
        _check_batch_size(proto, spec.batch_size, f"batch_size of {where}")
        _check_inputs(proto, spec.input, where)
        if not spec.HasField("graph_lower_bound"):
            continue
        bound = spec.graph_lower_bound
        _check_batch_size(proto, bound.batch_size, f"batch_size of the graph_lower_bound of {where}")
        _check_inputs(proto, bound.input, f"the graph_lower_bound of {where}")
        if bound.batch_size > spec.batch_size:
            raise InvalidArg(
                f"batch_size of the graph_lower_bound of {where} must not be larger than that of the graph, "
                f"{spec.batch_size}, got {bound.batch_size}"
            )
        for name, shape in bound.input.items():
            if name not in spec.input or list(shape.dim) != list(spec.input[name].dim):
                raise Unsupported(
                    f"the graph_lower_bound of {where} has other dims than the graph for input '{name}': only batches "
                    "are padded, as padded tensors would distort the results"
                )


def _check_batch_size(proto: Any, batch_size: int, where: str) -> None:
    least = 1 if proto.max_batch_size else 0
    if not least <= batch_size <= proto.max_batch_size:
        expected = f"between 1 and max_batch_size {proto.max_batch_size}" if least else "0, as it does not batch"
        raise InvalidArg(f"{where} must be {expected}, got {batch_size}")


def _check_inputs(proto: Any, shapes: Any, where: str) -> None:
    inputs = {io.name: io for io in proto.input}
    for name, shape in shapes.items():
        if name not in inputs:
            raise InvalidArg(f"{where} names input '{name}', which the model does not have")
        io = inputs[name]
        dims = list(io.reshape.shape if io.HasField("reshape") else io.dims)
        fits = len(dims) == len(shape.dim) and all(
            want in (-1, got) for want, got in zip(dims, shape.dim, strict=True)
        )
        if not fits or any(dim < 0 for dim in shape.dim):
            raise InvalidArg(
                f"{where} has dims {list(shape.dim)} for input '{name}', but the model expects {dims}"
            )
