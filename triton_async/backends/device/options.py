"""What the `optimization` part of a model config says about an instance on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any


class Priority(IntEnum):
    """ModelOptimizationPolicy.ModelPriority, same values."""

    DEFAULT = 0
    MAX = 1
    MIN = 2


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One `optimization.cuda.graph_spec`. `dims`: input -> dims without the batch dimension. `least_rows`: of
    `graph_lower_bound`; the batch size itself when there is none."""

    rows: int
    dims: Mapping[str, tuple[int, ...]]
    least_rows: int


@dataclass(frozen=True, slots=True)
class SlotOptions:
    """How a DeviceInstance works.

    `busy_wait`: spin on events. `pin_inputs`, `pin_outputs`: page-locked memory between the host and the device.
    `gather_threshold`: segments from which a kernel joins them, 0 never. `preferred`: batch sizes of the dynamic
    batcher.

    `cuda.output_copy_stream` and `eager_batching` are what a DeviceInstance always does: outputs have a stream of
    their own, and the next batch is brought to the device while one computes.
    """

    priority: Priority = Priority.DEFAULT
    busy_wait: bool = False
    pin_inputs: bool = True
    pin_outputs: bool = True
    gather_threshold: int = 0
    graphs: bool = False
    graph_specs: tuple[GraphSpec, ...] = ()
    preferred: tuple[int, ...] = ()


def slot_options(config: Any) -> SlotOptions:
    """Options of a `config.ModelConfig`, which is valid."""
    optimization = config.proto.optimization
    batching = config.dynamic_batching
    return SlotOptions(
        priority=Priority(optimization.priority),
        busy_wait=optimization.cuda.busy_wait_events,
        pin_inputs=_enabled(optimization, "input_pinned_memory"),
        pin_outputs=_enabled(optimization, "output_pinned_memory"),
        gather_threshold=optimization.gather_kernel_buffer_threshold,
        graphs=optimization.cuda.graphs,
        graph_specs=tuple(_spec(spec) for spec in optimization.cuda.graph_spec),
        preferred=() if batching is None else tuple(batching.preferred_batch_sizes),
    )


def stream_priority(priority: Priority, least: int, most_urgent: int) -> int:
    """The priority of the streams, out of a device's range; lower is more urgent."""
    return {Priority.DEFAULT: 0, Priority.MAX: most_urgent, Priority.MIN: least}[priority]


def _enabled(optimization: Any, field: str) -> bool:
    return not optimization.HasField(field) or getattr(optimization, field).enable


def _spec(spec: Any) -> GraphSpec:
    bound = spec.graph_lower_bound.batch_size if spec.HasField("graph_lower_bound") else spec.batch_size
    dims = {name: tuple(shape.dim) for name, shape in spec.input.items()}
    return GraphSpec(spec.batch_size, MappingProxyType(dims), bound)
