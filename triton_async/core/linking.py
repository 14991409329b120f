"""Joins an ensemble to the models of its steps: checks that their tensors fit, and lays out how these go. Pure.

Triton's texts. A tensor of the ensemble is described by everyone who gives or takes it; the first one counts: the
ensemble itself, then the step that gives it, then those that take it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from triton_async import datatypes
from triton_async.config.ensemble import EnsembleStep
from triton_async.config.model_config import ModelConfig, TensorConfig, freeze
from triton_async.core.dataflow import Dataflow, Step, Wire
from triton_async.errors import InvalidArg
from triton_async.infer.signature import ModelSignature, TensorSpec, format_dims
from triton_async.memory.slab import SlabPool

# Labels of outputs, by the name of the output.
Labels = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Target:
    """The model of a step, as the ensemble finds it. `key`: that it is served by, its name where that is all;
    `namespace`: where it has one.
    """

    signature: ModelSignature
    input_pool: SlabPool | None = None
    # Of this load of it; and what its answers depend on, b"" where that is not known.
    number: int = 0
    identity: bytes = b""
    key: str = ""
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """An ensemble that fits its steps. `key`: what of their models matters to it, equal while it still fits. `steps`:
    what answers of their models depend on, in order.
    """

    config: ModelConfig
    flow: Dataflow
    labels: Labels
    input_pool: SlabPool | None
    key: tuple[Any, ...]
    steps: tuple[bytes, ...]

    def signature(self, version: int) -> ModelSignature:
        """Of a version of the ensemble."""
        inputs = [_spec(tensor) for tensor in self.config.inputs]
        outputs = [_spec(tensor, self.labels.get(tensor.name, ())) for tensor in self.config.outputs]
        return ModelSignature(
            self.config.name, version, inputs, outputs, self.config.max_batch_size, self.config.decoupled
        )


def link(config: ModelConfig, labels: Labels, targets: Sequence[Target]) -> Link:
    """Link of the ensemble to the models of its steps, in order. `labels`: those of its own. InvalidArg, with Triton's
    text, where they do not fit.
    """
    assert config.ensemble is not None
    steps = config.ensemble.steps
    _check_batching(config, targets)
    _check_maps(config, targets)
    numbers = _number(config, steps)
    gives = _check_tensors(config, targets)
    levels = _Levels(config, targets)
    flow = Dataflow(
        [
            Step(
                step.model_name, step.model_version, number,
                _inputs(step, target, numbers, gives),
                {name: numbers[tensor] for name, tensor in step.output_map.items()},
                len(levels.join(step.input_map.values())), target.signature.decoupled,
                config.ensemble.max_inflight_requests, target.key or step.model_name,
            )
            for number, (step, target) in enumerate(zip(steps, targets, strict=True))
        ],
        [numbers[tensor.name] for tensor in config.inputs],
        [Wire(tensor.name, numbers[tensor.name], _inside(tensor), gives[tensor.name], config.max_batch_size > 0,
              None if tensor.reshape is None else _spec(tensor))
         for tensor in config.outputs],
        [len(levels.of(tensor)) for tensor in numbers],
    )  # fmt: skip
    return Link(
        _decided(config, flow.decoupled, targets), flow, {**_labels_of_steps(steps, targets), **labels},
        _input_pool(config, targets), tuple(_key(target, config) for target in targets),
        tuple(target.identity for target in targets),
    )  # fmt: skip


def _check_batching(config: ModelConfig, targets: Sequence[Target]) -> None:
    for target in targets:
        most = target.signature.max_batch_size
        if 0 < most < config.max_batch_size:
            raise InvalidArg(
                f"ensemble {config.name} allows maximum batch size {config.max_batch_size}, but it contains model "
                f"{target.signature.model_name} which only allows maximum batch size to be {most}"
            )


def _check_maps(config: ModelConfig, targets: Sequence[Target]) -> None:
    assert config.ensemble is not None
    for step, target in zip(config.ensemble.steps, targets, strict=True):
        known = {spec.name for spec in target.signature.client_inputs}
        for name, tensor in step.input_map.items():
            if name not in known:
                raise InvalidArg(
                    f"in ensemble {config.name}, ensemble tensor {tensor} is mapping to non-existing input {name} in "
                    f"model {step.model_name}"
                )
        for spec in target.signature.client_inputs:
            if not spec.optional and spec.name not in step.input_map:
                raise InvalidArg(
                    f"in ensemble {config.name}, input {spec.name} in model {step.model_name} is not mapped to any "
                    "ensemble tensors"
                )
        known = {spec.name for spec in target.signature.client_outputs}
        for name, tensor in step.output_map.items():
            if name not in known:
                raise InvalidArg(
                    f"in ensemble {config.name}, ensemble tensor {tensor} is mapped from non-existing output {name} in "
                    f"model {step.model_name}"
                )


def _number(config: ModelConfig, steps: Sequence[EnsembleStep]) -> dict[str, int]:
    """All tensors of the ensemble, numbered."""
    names = [tensor.name for tensor in config.inputs]
    names += [name for step in steps for name in step.output_map.values()]
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


@dataclass(frozen=True, slots=True)
class _Seen:
    """How a tensor looks to the ensemble, or to the model `where`."""

    where: str
    spec: TensorSpec
    batching: bool

    @property
    def dims(self) -> tuple[int, ...]:
        return self.spec.dims

    @property
    def full_dims(self) -> tuple[int, ...]:
        return (-1, *self.spec.dims) if self.batching else self.spec.dims

    def fits(self, other: _Seen) -> bool:
        """Whether what the one has the other can be. What is variable is looked at when it comes."""
        if self.spec.any_rank or other.spec.any_rank:
            return True
        return _alike(self.dims, other.dims) or _alike(self.full_dims, other.full_dims)


def _alike(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(-1 in (a, b) or a == b for a, b in zip(one, other, strict=True))


def _check_tensors(config: ModelConfig, targets: Sequence[Target]) -> dict[str, bool]:
    """Whether each tensor has a batch dimension where it is given."""
    assert config.ensemble is not None
    steps = list(zip(config.ensemble.steps, targets, strict=True))
    first: dict[str, _Seen] = {}
    gives: dict[str, bool] = {}

    def see(tensor: str, where: str, spec: TensorSpec, batching: bool) -> None:
        seen = _Seen(where, spec, batching)
        known = first.setdefault(tensor, seen)
        if known.spec.datatype != spec.datatype:
            types = [f"TYPE_{_config_name(one.spec.datatype)}" for one in (known, seen)]
            raise InvalidArg(
                f"in ensemble {config.name}, ensemble tensor {tensor}: inconsistent data type: {types[0]} is inferred "
                f"from model {known.where} while {types[1]} is inferred from model {where}"
            )
        if not known.fits(seen):
            raise InvalidArg(
                f"in ensemble {config.name}, ensemble tensor {tensor}: inconsistent shape: "
                f"{format_dims(known.full_dims)} is inferred from model {known.where} while "
                f"{format_dims(seen.full_dims)} is inferred from model {where}"
            )

    for tensor in (*config.inputs, *config.outputs):
        see(tensor.name, config.name, _inside(tensor), config.max_batch_size > 0)
    gives.update((tensor.name, config.max_batch_size > 0) for tensor in config.inputs)
    for step, target in steps:
        batching = target.signature.max_batch_size > 0
        specs = {spec.name: spec for spec in target.signature.client_outputs}
        for name, tensor_name in step.output_map.items():
            see(tensor_name, step.model_name, specs[name], batching)
            gives[tensor_name] = batching
    for step, target in steps:
        specs = {spec.name: spec for spec in target.signature.client_inputs}
        for name, tensor_name in step.input_map.items():
            see(tensor_name, step.model_name, specs[name], target.signature.max_batch_size > 0)
    return gives


def _config_name(datatype: int) -> str:
    name = datatypes.to_name(datatype)
    return "STRING" if name == "BYTES" else name


class _Levels:
    """The decoupled steps, by number, that each tensor of an ensemble is behind, first to last."""

    def __init__(self, config: ModelConfig, targets: Sequence[Target]) -> None:
        assert config.ensemble is not None
        self._name = config.name
        self._behind: dict[str, tuple[int, ...]] = {tensor.name: () for tensor in config.inputs}
        left = list(enumerate(zip(config.ensemble.steps, targets, strict=True)))
        while left:
            ready = [entry for entry in left if all(name in self._behind for name in entry[1][0].input_map.values())]
            assert ready, "the config's own check has found the ensemble connected"
            for number, (step, target) in ready:
                behind = self.join(step.input_map.values())
                if target.signature.decoupled:
                    behind = (*behind, number)
                self._behind.update((name, behind) for name in step.output_map.values())
            left = [entry for entry in left if entry not in ready]
        self.join(tensor.name for tensor in config.outputs)

    def of(self, tensor: str) -> tuple[int, ...]:
        """Those of a tensor."""
        return self._behind[tensor]

    def join(self, tensors: Iterable[str]) -> tuple[int, ...]:
        """Those of what takes all of `tensors`: one response of each, so that they must be behind one another."""
        longest: tuple[int, ...] = ()
        for tensor in tensors:
            behind = self._behind[tensor]
            longest, shorter = (behind, longest) if len(behind) > len(longest) else (longest, behind)
            if longest[: len(shorter)] != shorter:
                raise InvalidArg(
                    f"in ensemble {self._name}, step of model '{self._name}' receives inputs originated from different "
                    "decoupled models"
                )
        return longest


def _inputs(
    step: EnsembleStep, target: Target, numbers: Mapping[str, int], gives: Mapping[str, bool]
) -> list[Wire]:
    signature = target.signature
    specs = {spec.name: spec for spec in signature.client_inputs}
    return [
        Wire(name, numbers[tensor], specs[name], gives[tensor], signature.max_batch_size > 0)
        for name, tensor in step.input_map.items()
    ]


def _spec(tensor: TensorConfig, labels: tuple[str, ...] = ()) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.datatype, tensor.dims, tensor.reshape, tensor.optional, labels)


def _inside(tensor: TensorConfig) -> TensorSpec:
    """An input or output of the ensemble as its steps see it."""
    return TensorSpec(tensor.name, tensor.datatype, tensor.model_dims)


def _decided(config: ModelConfig, decoupled: bool, targets: Sequence[Target]) -> ModelConfig:
    """The config with the transaction policy that the steps have, whatever it says itself, and their namespaces."""
    same = config.decoupled == decoupled and config.proto.HasField("model_transaction_policy")
    if same and not any(target.namespace for target in targets):
        return config
    proto = type(config.proto)()
    proto.CopyFrom(config.proto)
    proto.model_transaction_policy.decoupled = decoupled
    for step, target in zip(proto.ensemble_scheduling.step, targets, strict=True):
        step.model_namespace = target.namespace
    return replace(freeze(proto), warnings=config.warnings)


def _labels_of_steps(steps: Sequence[EnsembleStep], targets: Sequence[Target]) -> Labels:
    """What models have for their outputs counts where the ensemble has nothing of its own."""
    return {
        step.output_map[spec.name]: spec.labels
        for step, target in zip(steps, targets, strict=True)
        for spec in target.signature.client_outputs
        if spec.labels and spec.name in step.output_map
    }


def _input_pool(config: ModelConfig, targets: Sequence[Target]) -> SlabPool | None:
    """Where the first step that takes an input of the ensemble likes to have it."""
    assert config.ensemble is not None
    inputs = {tensor.name for tensor in config.inputs}
    for step, target in zip(config.ensemble.steps, targets, strict=True):
        if target.input_pool is not None and not inputs.isdisjoint(step.input_map.values()):
            return target.input_pool
    return None


def _key(target: Target, config: ModelConfig) -> tuple[Any, ...]:
    signature = target.signature

    def of(specs: Sequence[TensorSpec]) -> tuple[Any, ...]:
        return tuple((spec.name, spec.datatype, spec.dims, spec.optional, spec.any_rank, spec.labels) for spec in specs)

    # An ensemble's own answers, where they are kept, are those of the models that it was joined to.
    load = target.number if config.proto.response_cache.enable else 0
    given = of(signature.client_inputs), of(signature.client_outputs)
    return *given, signature.max_batch_size, signature.decoupled, load, target.key
