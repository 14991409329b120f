"""Which CUDA graphs an instance captures. Pure: from options and shapes, by Triton's rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from triton_async.backends.device.options import GraphSpec, SlotOptions

# Batch sizes captured when the dynamic batcher prefers none.
_USUAL_SIZES = (1, 2, 3, 4, 6, 8, 12, 16)

Dims = tuple[int, ...]


class GraphShape(NamedTuple):
    """One graph. `rows`: its batch size, 0 when the model does not batch; `dims`: of each input, in signature order,
    without the batch dimension; batches of `least_rows` to `rows` may run in it, padded."""

    rows: int
    dims: tuple[Dims, ...]
    least_rows: int


def graph_shapes(
    options: SlotOptions, names: Sequence[str], default_dims: Sequence[Dims | None], max_batch_size: int
) -> tuple[GraphShape, ...]:
    """The graphs to capture, in the order in which a batch looks for one that it fits in.

    `default_dims`: of each input where a spec does not name it; None when the model leaves them open, which rules out
    a graph that does not say. Only the batch dimension is ever padded: Triton also runs smaller tensors in a graph of
    larger ones, and says itself that this distorts results.
    """
    if not options.graphs:
        return ()
    specs = options.graph_specs or _default_specs(options.preferred, max_batch_size)
    shapes: dict[tuple[int, tuple[Dims, ...]], GraphShape] = {}
    for spec in specs:
        dims = [spec.dims.get(name, default) for name, default in zip(names, default_dims, strict=True)]
        complete = tuple(one for one in dims if one is not None)
        if len(complete) < len(dims):
            continue
        known = shapes.get((spec.rows, complete))
        least = spec.least_rows if known is None else min(known.least_rows, spec.least_rows)
        shapes[spec.rows, complete] = GraphShape(spec.rows, complete, least)
    return tuple(sorted(shapes.values()))


def _default_specs(preferred: Iterable[int], max_batch_size: int) -> list[GraphSpec]:
    if max_batch_size == 0:
        return [GraphSpec(0, {}, 0)]
    sizes = {1, max_batch_size, *(tuple(preferred) or _USUAL_SIZES)}
    return [GraphSpec(size, {}, size) for size in sorted(sizes) if size <= max_batch_size]
