"""The `ensemble_scheduling` of a config: its steps, frozen, and the rules that need no look at the steps' models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from triton_async.config.paths import safe_name
from triton_async.defines import MAX_ENSEMBLE_STEPS
from triton_async.errors import InvalidArg

PLATFORM = "ensemble"


@dataclass(frozen=True, slots=True)
class EnsembleStep:
    """A step. `model_version` -1: the newest. The maps: tensor of the step's model -> tensor of the ensemble."""

    model_name: str
    model_version: int
    input_map: Mapping[str, str]
    output_map: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EnsembleConfig:
    """`max_inflight_requests`: of one step, for the sake of all requests of the ensemble; 0: any number."""

    steps: tuple[EnsembleStep, ...]
    max_inflight_requests: int = 0


def is_ensemble(proto: Any) -> bool:
    """Whether the config says that it is one of an ensemble."""
    return bool(proto.HasField("ensemble_scheduling") or proto.platform == PLATFORM)


def freeze_ensemble(proto: Any) -> EnsembleConfig | None:
    """EnsembleConfig of a validated config; None for that of a model."""
    if not proto.HasField("ensemble_scheduling"):
        return None
    scheduling = proto.ensemble_scheduling
    return EnsembleConfig(
        tuple(
            EnsembleStep(
                step.model_name,
                step.model_version,
                MappingProxyType({key: step.input_map[key] for key in sorted(step.input_map)}),
                MappingProxyType({key: step.output_map[key] for key in sorted(step.output_map)}),
            )
            for step in scheduling.step
        ),
        scheduling.max_inflight_requests,
    )


def check_ensemble(proto: Any) -> None:
    """InvalidArg for the first rule that the config of an ensemble breaks; nothing for one of a model."""
    name = proto.name
    if proto.HasField("ensemble_scheduling") and (proto.platform != PLATFORM or proto.backend):
        raise InvalidArg(f"ensemble scheduling cannot be set for model '{name}' whose platform is not ensemble")
    if proto.platform != PLATFORM:
        return
    if not proto.HasField("ensemble_scheduling"):
        raise InvalidArg(f"ensemble scheduling must be set for ensemble {name} whose platform is ensemble")
    if proto.instance_group:
        raise InvalidArg(f"instance group should not be specified for ensemble '{name}'")
    if proto.HasField("optimization"):
        raise InvalidArg(f"optimization should not be specified for ensemble '{name}'")
    if proto.model_warmup:
        raise InvalidArg(f"model_warmup can not be specified for ensemble '{name}'")
    for io in proto.input:
        if io.allow_ragged_batch:
            raise InvalidArg(f"input '{io.name}' of ensemble '{name}' can not have 'allow_ragged_batch': its steps may")
    _check_steps(proto)
    _check_graph(proto)


def _check_steps(proto: Any) -> None:
    name, steps = proto.name, proto.ensemble_scheduling.step
    if not steps:
        raise InvalidArg(f"must specify 'step' for ensemble '{name}'")
    if len(steps) > MAX_ENSEMBLE_STEPS:
        raise InvalidArg(f"ensemble '{name}' has {len(steps)} steps, at most {MAX_ENSEMBLE_STEPS} are supported")
    for index, step in enumerate(steps):
        for field in ("model_name", "input_map", "output_map"):
            if not getattr(step, field):
                raise InvalidArg(f"must specify '{field}' in step {index} of ensemble '{name}'")
        safe_name(step.model_name, f"model_name in step {index} of ensemble '{name}'")
        for field, tensors in (("input_map", step.input_map), ("output_map", step.output_map)):
            for key in sorted(tensors):
                if not tensors[key]:
                    raise InvalidArg(
                        f"must specify the ensemble tensor of '{key}' in '{field}' of step {index} of ensemble '{name}'"
                    )


def _check_graph(proto: Any) -> None:
    """Every tensor is written once and read; every output can be reached from the inputs."""
    name, steps = proto.name, proto.ensemble_scheduling.step
    inputs = [io.name for io in proto.input]
    outputs = [io.name for io in proto.output]
    writer: dict[str, Any] = {}
    for index, step in enumerate(steps):
        for key in sorted(step.output_map):
            tensor = step.output_map[key]
            if tensor in writer or tensor in inputs:
                more = ": it is an input of the ensemble" if tensor in inputs else ""
                raise InvalidArg(
                    f"ensemble tensor '{tensor}' can appear in an output map only once for ensemble '{name}' step "
                    f"{index}{more}"
                )
            writer[tensor] = step
    read = {step.input_map[key] for step in steps for key in step.input_map}
    for tensor in inputs:
        if tensor not in read and tensor not in outputs:
            raise InvalidArg(f"ensemble input '{tensor}' for ensemble {name}' is not used")
    for tensor in outputs:
        if tensor not in writer and tensor not in inputs and tensor not in read:
            raise InvalidArg(f"ensemble output '{tensor}' for ensemble {name}' is not used")
    for tensor in sorted(writer):
        if tensor not in read and tensor not in outputs:
            raise InvalidArg(f"ensemble tensor '{tensor}' is unused in ensemble '{name}'")
    connected = _connected(inputs, steps)
    for tensor in [*outputs, *sorted(read)]:
        if tensor not in connected:
            lost = sorted(set(_behind(tensor, writer)) - connected - {tensor})
            why = f": at least one of its depending tensors, '{lost[0]}', is not connected" if lost else ""
            what = "output" if tensor in outputs else "ensemble tensor"
            raise InvalidArg(f"{what} '{tensor}' for ensemble '{name}' is not written{why}")


def _connected(inputs: list[str], steps: Any) -> set[str]:
    """Tensors that come to be once the inputs are there."""
    found = set(inputs)
    left = list(steps)
    while left:
        ready = [step for step in left if all(step.input_map[key] in found for key in step.input_map)]
        if not ready:
            break
        found.update(step.output_map[key] for step in ready for key in step.output_map)
        left = [step for step in left if step not in ready]
    return found


def _behind(tensor: str, writer: Mapping[str, Any]) -> Iterator[str]:
    """The tensors that `tensor` is made of, and itself."""
    seen, left = {tensor}, [tensor]
    while left:
        at = left.pop()
        yield at
        step = writer.get(at)
        if step is not None:
            more = {step.input_map[key] for key in step.input_map} - seen
            seen |= more
            left += more
