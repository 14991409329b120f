"""The config of one model, frozen: what `load` returns and everything above works with."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any

from triton_async.config.batching import BY_DEADLINE, STRICT_SIZES, automatic_delay, is_set
from triton_async.config.config_json import config_json
from triton_async.config.ensemble import EnsembleConfig, freeze_ensemble
from triton_async.config.metrics_config import given_buckets, unknown_families
from triton_async.config.padding import Padding, freeze_padding
from triton_async.config.ragged import BatchInput, BatchOutput, freeze_batch_inputs, freeze_batch_outputs
from triton_async.config.sequences import Control, SequenceBatching, State, freeze_sequences
from triton_async.config.warmup import WarmUpSample, warm_up_samples

__all__ = [
    "DynamicBatching",
    "Format",
    "Instance",
    "InstanceGroup",
    "InstanceKind",
    "ModelConfig",
    "QueuePolicy",
    "Resource",
    "TensorConfig",
    "TimeoutAction",
    "VersionPolicy",
    "config_json",
    "freeze",
]


class InstanceKind(IntEnum):
    """ModelInstanceGroup.Kind, same values."""

    AUTO = 0
    GPU = 1
    CPU = 2
    MODEL = 3


class Format(IntEnum):
    """ModelInput.Format, same values."""

    NONE = 0
    NHWC = 1
    NCHW = 2


class TimeoutAction(IntEnum):
    """ModelQueuePolicy.TimeoutAction, same values."""

    REJECT = 0
    DELAY = 1


@dataclass(frozen=True, slots=True)
class TensorConfig:
    """One input or output. `dims` without the batch dimension, -1 where requests choose; `reshape` is what
    the model sees instead (may be empty: a scalar per batch row). `datatype` is a number of `datatypes`.
    """

    name: str
    datatype: int
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    optional: bool = False
    ragged: bool = False
    is_shape_tensor: bool = False
    # The model takes any number of dimensions; `dims` are all that a config can say then.
    any_rank: bool = False
    is_non_linear: bool = False
    format: Format = Format.NONE
    label_filename: str = ""

    @property
    def model_dims(self) -> tuple[int, ...]:
        """The dims that the model sees, without the batch dimension."""
        return self.dims if self.reshape is None else self.reshape


@dataclass(frozen=True, slots=True)
class Instance:
    """One execution context. `device`: GPU, or 0 for the other kinds, as Triton logs them."""

    name: str
    kind: InstanceKind
    device: int
    passive: bool
    group: int
    # Triton's default where the group names none: cpu, model or gpu_<device>.
    host_policy: str


@dataclass(frozen=True, slots=True)
class Resource:
    """What an execution needs `count` copies of, for --rate-limit: of those of its device, or of all devices."""

    name: str
    is_global: bool
    count: int


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """`count` instances on each of `gpus`, or in all when the kind is not GPU. The kind is never AUTO."""

    name: str
    kind: InstanceKind
    count: int
    gpus: tuple[int, ...] = ()
    profile: tuple[str, ...] = ()
    passive: bool = False
    host_policy: str = ""
    # For --rate-limit: an instance of priority 2 gets half the turns of one of priority 1; 0 counts as 1.
    resources: tuple[Resource, ...] = ()
    priority: int = 0


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Limits of one queue. 0: no timeout, no bound. Timeouts in microseconds."""

    timeout_action: TimeoutAction = TimeoutAction.REJECT
    default_timeout_us: int = 0
    allow_timeout_override: bool = False
    max_queue_size: int = 0


@dataclass(frozen=True, slots=True)
class DynamicBatching:
    """`preferred_batch_sizes` ascending, never empty when max_batch_size > 0. `priority_levels` 0: one queue;
    else levels 1 (first) to priority_levels, each with `policy(level)`. `auto_delay`: the server finds the delay, of at
    most max_queue_delay_us where that is not 0; None: where the operator says so. `strict_sizes`: preferred sizes are
    waited for. `by_deadline`: within a level what is due first goes first.
    """

    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int = 0
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority_level: int = 0
    default_policy: QueuePolicy = QueuePolicy()
    priority_policies: Mapping[int, QueuePolicy] = field(default_factory=lambda: MappingProxyType({}))
    auto_delay: bool | None = None
    strict_sizes: bool = False
    by_deadline: bool = False

    def policy(self, level: int) -> QueuePolicy:
        """Policy of a priority level; the default policy where none is set for it."""
        return self.priority_policies.get(level, self.default_policy)


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions to serve: the `latest` highest when not 0, else `specific` when given, else all."""

    latest: int = 1
    specific: tuple[int, ...] | None = None

    def select(self, available: Iterable[int]) -> tuple[int, ...]:
        """The served ones of the available versions, ascending."""
        versions = sorted(set(available))
        if self.latest:
            return tuple(versions[-self.latest :])
        if self.specific is not None:
            return tuple(version for version in versions if version in self.specific)
        return tuple(versions)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Complete and valid. `proto` is the completed `inference.ModelConfig`; nobody changes it any more."""

    proto: Any
    name: str
    platform: str
    backend: str
    max_batch_size: int
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]
    instance_groups: tuple[InstanceGroup, ...]
    dynamic_batching: DynamicBatching | None
    version_policy: VersionPolicy
    # `parameters { key value { string_value } }`: settings that the backend reads.
    parameters: Mapping[str, str]
    metric_tags: Mapping[str, str]
    decoupled: bool
    default_model_filename: str
    # optimization.graph.level: -1 basic, 0 the engine's default, 1 extended, 2 none.
    graph_level: int
    # What every instance runs before the model is ready.
    warm_up: tuple[WarmUpSample, ...] = ()
    # None: requests have nothing to do with each other.
    sequences: SequenceBatching | None = None
    batch_inputs: tuple[BatchInput, ...] = ()
    batch_outputs: tuple[BatchOutput, ...] = ()
    # None: only requests of equal shapes share a batch, but for ragged inputs.
    padding: Padding | None = None
    # Lines for the log: what was filled in that the operator should know.
    warnings: tuple[str, ...] = ()
    # Of an ensemble, which has no backend and no instances.
    ensemble: EnsembleConfig | None = None
    # Metric family -> upper bounds of its histogram for this model, in the family's unit.
    metric_buckets: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: MappingProxyType({}))
    _instances: tuple[Instance, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_instances", tuple(_instances(self.instance_groups)))

    @property
    def platform_or_backend(self) -> str:
        """`platform` of the model's metadata."""
        return self.platform or self.backend

    @property
    def engine_inputs(self) -> tuple[TensorConfig, ...]:
        """What the model takes: `inputs`, then the controls of sequences, their states, and what the server makes for a
        batch: of `batch_inputs`, then masks and lengths of padding.
        """
        found = list(self.inputs)
        if self.sequences is not None:
            found += map(_control_tensor, self.sequences.controls)
            found += (_state_tensor(state.input_name, state) for state in self.sequences.states)
        found += (TensorConfig(name, told.datatype, told.dims) for told in self.batch_inputs for name in told.targets)
        if self.padding is not None:
            for name, datatype, dims in self.padding.made:
                found.append(TensorConfig(name, datatype, dims or (1,), None if dims else ()))
        return tuple(found)

    @property
    def engine_outputs(self) -> tuple[TensorConfig, ...]:
        """What the model returns: `outputs`, then the states of sequences that are not among them."""
        if self.sequences is None:
            return self.outputs
        listed = {tensor.name for tensor in self.outputs}
        states = [state for state in self.sequences.states if state.output_name not in listed]
        return (*self.outputs, *(_state_tensor(state.output_name, state) for state in states))

    def instances(self) -> tuple[Instance, ...]:
        """All instances in the order they are made; names are `<group>_<i>`, i counted over the group."""
        return self._instances

    def json(self) -> dict[str, Any]:
        """Triton's JSON form, for GET .../config."""
        return config_json(self.proto)


def _instances(groups: Iterable[InstanceGroup]) -> Iterator[Instance]:
    for index, group in enumerate(groups):
        devices = group.gpus if group.kind is InstanceKind.GPU else (0,)
        places = [device for device in devices for _ in range(group.count)]
        for i, device in enumerate(places):
            policy = group.host_policy or _host_policy(group.kind, device)
            yield Instance(f"{group.name}_{i}", group.kind, device, group.passive, index, policy)


def _control_tensor(control: Control) -> TensorConfig:
    return TensorConfig(control.name, control.datatype, (1,))


def _state_tensor(name: str, state: State) -> TensorConfig:
    return TensorConfig(name, state.datatype, state.dims)


def _host_policy(kind: InstanceKind, device: int) -> str:
    return f"gpu_{device}" if kind is InstanceKind.GPU else kind.name.lower()


def host_policies(proto: Any) -> set[str]:
    """Of the instances of a config whose groups are complete."""
    groups = map(_group, proto.instance_group)
    return {group.host_policy or _host_policy(group.kind, gpu) for group in groups for gpu in group.gpus or (0,)}


def freeze(proto: Any, warnings: Iterable[str] = (), any_rank: Container[str] = ()) -> ModelConfig:
    """ModelConfig of a completed and validated proto, which it keeps. `any_rank`: inputs of any rank, by name."""
    return ModelConfig(
        proto=proto,
        name=proto.name,
        platform=proto.platform,
        backend=proto.backend,
        max_batch_size=proto.max_batch_size,
        inputs=tuple(_input(io, io.name in any_rank) for io in proto.input),
        outputs=tuple(_output(io) for io in proto.output),
        instance_groups=tuple(_group(group) for group in proto.instance_group),
        dynamic_batching=_batching(proto) if proto.HasField("dynamic_batching") else None,
        version_policy=version_policy(proto),
        parameters=MappingProxyType({key: proto.parameters[key].string_value for key in proto.parameters}),
        metric_tags=MappingProxyType(dict(proto.metric_tags)),
        decoupled=proto.model_transaction_policy.decoupled,
        default_model_filename=proto.default_model_filename,
        graph_level=proto.optimization.graph.level,
        warm_up=warm_up_samples(proto),
        sequences=freeze_sequences(proto),
        batch_inputs=freeze_batch_inputs(proto),
        batch_outputs=freeze_batch_outputs(proto),
        padding=freeze_padding(proto),
        warnings=(*warnings, *unknown_families(proto)),
        ensemble=freeze_ensemble(proto),
        metric_buckets=MappingProxyType(given_buckets(proto)),
    )


def version_policy(proto: Any) -> VersionPolicy:
    """Version policy of a config; latest 1 when it says nothing."""
    choice = proto.version_policy.WhichOneof("policy_choice")
    if choice == "all":
        return VersionPolicy(latest=0)
    if choice == "specific":
        return VersionPolicy(latest=0, specific=tuple(proto.version_policy.specific.versions))
    return VersionPolicy(latest=max(1, proto.version_policy.latest.num_versions))


def _reshape(io: Any) -> tuple[int, ...] | None:
    return tuple(io.reshape.shape) if io.HasField("reshape") else None


def _input(io: Any, any_rank: bool) -> TensorConfig:
    return TensorConfig(
        any_rank=any_rank,
        name=io.name,
        datatype=io.data_type,
        dims=tuple(io.dims),
        reshape=_reshape(io),
        optional=io.optional,
        ragged=io.allow_ragged_batch,
        is_shape_tensor=io.is_shape_tensor,
        is_non_linear=io.is_non_linear_format_io,
        format=Format(io.format),
    )


def _output(io: Any) -> TensorConfig:
    return TensorConfig(
        name=io.name,
        datatype=io.data_type,
        dims=tuple(io.dims),
        reshape=_reshape(io),
        is_shape_tensor=io.is_shape_tensor,
        is_non_linear=io.is_non_linear_format_io,
        label_filename=io.label_filename,
    )


def _group(group: Any) -> InstanceGroup:
    limits = group.rate_limiter
    return InstanceGroup(
        name=group.name,
        kind=InstanceKind(group.kind),
        count=group.count,
        gpus=tuple(group.gpus),
        profile=tuple(group.profile),
        passive=group.passive,
        host_policy=group.host_policy,
        resources=tuple(Resource(given.name, getattr(given, "global"), given.count) for given in limits.resources),
        priority=limits.priority,
    )


def _policy(policy: Any) -> QueuePolicy:
    return QueuePolicy(
        timeout_action=TimeoutAction(policy.timeout_action),
        default_timeout_us=policy.default_timeout_microseconds,
        allow_timeout_override=policy.allow_timeout_override,
        max_queue_size=policy.max_queue_size,
    )


def _batching(proto: Any) -> DynamicBatching:
    batching = proto.dynamic_batching
    policies = batching.priority_queue_policy
    return DynamicBatching(
        preferred_batch_sizes=tuple(sorted(set(batching.preferred_batch_size))),
        max_queue_delay_us=batching.max_queue_delay_microseconds,
        preserve_ordering=batching.preserve_ordering,
        priority_levels=batching.priority_levels,
        default_priority_level=batching.default_priority_level,
        default_policy=_policy(batching.default_queue_policy),
        priority_policies=MappingProxyType({level: _policy(policies[level]) for level in policies}),
        auto_delay=automatic_delay(proto),
        strict_sizes=is_set(proto, STRICT_SIZES),
        by_deadline=is_set(proto, BY_DEADLINE),
    )
