"""What every config gets, completed from its model or not: defaults of policies and instance groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from triton_async.config.ensemble import PLATFORM, is_ensemble
from triton_async.config.model_config import InstanceKind
from triton_async.config.placement import PreferredGroup
from triton_async.config.sequences import normalise_sequences

# Triton: these run faster on CPU with two instances, the others do not gain.
_TWO_ON_CPU = frozenset(("onnxruntime", "tensorflow"))


def normalise(proto: Any) -> None:
    """Fills `proto`: version policy latest 1, preferred batch size, pinned memory. Safe to call again."""
    if proto.version_policy.WhichOneof("policy_choice") is None:
        proto.version_policy.latest.num_versions = 1
    batching = proto.HasField("dynamic_batching") and proto.max_batch_size > 0
    if batching and not proto.dynamic_batching.preferred_batch_size:
        proto.dynamic_batching.preferred_batch_size.append(proto.max_batch_size)
    normalise_sequences(proto)
    if proto.HasField("ensemble_scheduling") and not proto.backend:
        proto.platform = proto.platform or PLATFORM
    if not is_ensemble(proto):
        optimization = proto.optimization
        if not optimization.HasField("input_pinned_memory"):
            optimization.input_pinned_memory.enable = True
        if not optimization.HasField("output_pinned_memory"):
            optimization.output_pinned_memory.enable = True


def normalise_instances(
    proto: Any, gpus: Sequence[int] = (), cpu_first: bool = False, preferred: Sequence[PreferredGroup] = ()
) -> None:
    """Fills the instance groups: one at least, name, kind (not AUTO), count, GPUs. `gpus`: those usable; `cpu_first`:
    by groups that name them; `preferred`: of the backend, the best first.
    """
    if proto.HasField("ensemble_scheduling"):
        return
    if not proto.instance_group:
        made = proto.instance_group.add(name=proto.name)
        for group in preferred:
            if group.kind != InstanceKind.GPU or gpus:
                made.kind, made.count = group.kind, group.count
                made.gpus.extend(gpu for gpu in group.gpus if gpu in gpus)
                break
    for index, group in enumerate(proto.instance_group):
        if not group.name:
            group.name = f"{proto.name}_{index}"
        if group.kind == InstanceKind.AUTO:
            wanted = bool(group.gpus) or not cpu_first
            usable = wanted and bool(gpus) and all(gpu in gpus for gpu in group.gpus)
            group.kind = InstanceKind.GPU if usable else InstanceKind.CPU
        if group.count < 1:
            group.count = next((best.count for best in preferred if best.kind == group.kind), 0)
        if group.count < 1:
            on_cpu = group.kind == InstanceKind.CPU
            group.count = 2 if on_cpu and proto.backend in _TWO_ON_CPU else 1
        if group.kind == InstanceKind.GPU and not group.gpus:
            group.gpus.extend(gpus)
