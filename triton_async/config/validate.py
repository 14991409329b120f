"""Rules of a config apart from its tensors, with Triton's messages; its own name model, field and reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from triton_async import defines
from triton_async.config.batching import check_batching_parameters
from triton_async.config.ensemble import check_ensemble, is_ensemble
from triton_async.config.metrics_config import buckets_problem
from triton_async.config.model_config import InstanceKind, TimeoutAction
from triton_async.config.paths import safe_name, safe_relative
from triton_async.config.placement import Gpus
from triton_async.config.sequences import sequence_problems
from triton_async.errors import InvalidArg

# Backends that belong to platforms; any other backend goes with any platform.
_PLATFORMS = {
    "onnxruntime": ("onnxruntime_onnx",),
    "tensorflow": ("tensorflow_graphdef", "tensorflow_savedmodel"),
    "tensorrt": ("tensorrt_plan",),
    "pytorch": ("pytorch_libtorch", "libtorch", "torch_aoti"),
}
# What Prometheus takes for the name of a label, after the `_` that is put in front.
_METRIC_TAG = re.compile(r"[a-zA-Z0-9_]+\Z", re.ASCII)


def validate_name(proto: Any, directory: str) -> None:
    """InvalidArg unless the config is of the model in this directory, whose name must be one plain name."""
    safe_name(directory, "model name")
    if proto.name and proto.name != directory:
        raise InvalidArg(
            f"unexpected directory name '{directory}' for model '{proto.name}', directory name must "
            "equal model name"
        )


def validate_config(proto: Any) -> None:
    """InvalidArg for the first rule that a normalised config breaks, but for tensors and instance groups."""
    for problem in config_problems(proto):
        raise problem


def config_problems(proto: Any) -> Iterator[InvalidArg]:
    """What is wrong with it, the first of each kind of rule."""
    for check in (check_ensemble, _check_backend, _check_batch_size, _check_version_policy, _check_batching,
                  check_batching_parameters, check_cache, _check_model_metrics, _check_rest):  # fmt: skip
        try:
            check(proto)
        except InvalidArg as error:
            yield error
    yield from sequence_problems(proto)


def _check_batch_size(proto: Any) -> None:
    if proto.max_batch_size < 0:
        raise InvalidArg(f"'max_batch_size' must be non-negative value for {proto.name}")


def _check_rest(proto: Any) -> None:
    name = proto.name
    for key in proto.metric_tags:
        if not _METRIC_TAG.match(key):
            raise InvalidArg(
                f"'metric_tags' key '{key}' must consist of letters, digits and underscores for {name}"
            )
    level = proto.optimization.graph.level
    if not -1 <= level <= 2:
        raise InvalidArg(f"'optimization.graph.level' must be -1, 0, 1 or 2, got {level} for {name}")
    for capability in sorted(proto.cc_model_filenames):
        safe_relative(proto.cc_model_filenames[capability], f"cc_model_filenames of model '{name}'")


def _check_backend(proto: Any) -> None:
    name, platform, backend = proto.name, proto.platform, proto.backend
    if is_ensemble(proto):
        return
    if not platform and not backend:
        raise InvalidArg(f"must specify 'platform' or 'backend' for '{name}'")
    if not backend:
        raise InvalidArg(f"unexpected platform type '{platform}' for {name}")
    safe_name(backend, f"backend of model '{name}'")
    if backend in _PLATFORMS and platform not in _PLATFORMS[backend]:
        raise InvalidArg(f"unexpected 'platform' and 'backend' pair, got:{platform}, {backend} for {name}")
    if proto.runtime:
        safe_name(proto.runtime, f"runtime of model '{name}'")


def check_cache(proto: Any) -> None:
    """InvalidArg where answers are to be kept that cannot be."""
    if not proto.response_cache.enable:
        return
    kinds = (
        (proto.model_transaction_policy.decoupled, "'decoupled' transaction policy"),
        (proto.HasField("sequence_batching"), "sequence batching scheduler"),
    )
    for asked, kind in kinds:
        if asked:
            raise InvalidArg(
                f"Response Cache does not currently support model {proto.name} with {kind}. Please disable the "
                "response cache."
            )


def _check_version_policy(proto: Any) -> None:
    if proto.version_policy.WhichOneof("policy_choice") != "specific":
        return
    for version in proto.version_policy.specific.versions:
        if version < 1:
            raise InvalidArg(
                f"'version_policy.specific' has version {version}, must be >= 1 for {proto.name}"
            )


def _check_batching(proto: Any) -> None:
    if not proto.HasField("dynamic_batching"):
        return
    batching, name = proto.dynamic_batching, proto.name
    for size in batching.preferred_batch_size:
        if size <= 0:
            raise InvalidArg(f"dynamic batching preferred size must be positive for {name}")
        if size > proto.max_batch_size:
            raise InvalidArg(f"dynamic batching preferred size must be <= max batch size for {name}")
    _check_delay(batching.max_queue_delay_microseconds, "max_queue_delay_microseconds", name)
    levels = batching.priority_levels
    if levels and not 1 <= batching.default_priority_level <= levels:
        raise InvalidArg(f"default priority level must be in range [1, {levels}] for {name}")
    for level in batching.priority_queue_policy:
        if levels and not 1 <= level <= levels:
            raise InvalidArg(
                f"priority queue policy must have priority level in range [1, {levels}] for {name}"
            )
    policies = [batching.priority_queue_policy[level] for level in batching.priority_queue_policy]
    for policy in (batching.default_queue_policy, *policies):
        _check_policy(policy, batching.preserve_ordering, name)
    if batching.preserve_ordering and levels > 1:
        raise InvalidArg(f"Only one priority level is allowed when 'preserve_ordering' is true for {name}")


def _check_policy(policy: Any, preserve_ordering: bool, name: str) -> None:
    if policy.timeout_action not in tuple(TimeoutAction):
        raise InvalidArg(f"queue policy has unknown 'timeout_action' {policy.timeout_action} for {name}")
    _check_delay(policy.default_timeout_microseconds, "default_timeout_microseconds", name)
    delays = policy.timeout_action == TimeoutAction.DELAY and policy.default_timeout_microseconds != 0
    if preserve_ordering and delays:
        raise InvalidArg(
            f"Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for {name}"
        )


def _check_delay(value: int, field: str, name: str) -> None:
    if value > defines.MAX_DELAY_US:
        raise InvalidArg(f"dynamic batching '{field}' must be <= {defines.MAX_DELAY_US} for {name}")


def _check_model_metrics(proto: Any) -> None:
    for control in proto.model_metrics.metric_control:
        if not control.HasField("metric_identifier"):
            raise InvalidArg(f"metric control must specify 'metric_identifier' for {proto.name}")
        if not control.metric_identifier.family:
            raise InvalidArg(f"metric identifier must specify non-empty 'family' for {proto.name}")
        if not control.HasField("histogram_options"):
            raise InvalidArg(f"metric control must specify 'histogram_options' for {proto.name}")
        buckets = list(control.histogram_options.buckets)
        if not buckets:
            raise InvalidArg(f"histogram options must specify non-empty 'buckets' for {proto.name}")
        if problem := buckets_problem(buckets):
            raise InvalidArg(f"histogram options 'buckets' {problem} for {proto.name}")


def validate_instances(proto: Any, gpus: Gpus) -> None:
    """InvalidArg for the first instance group that cannot be made here."""
    if proto.HasField("ensemble_scheduling"):
        return
    total = 0
    names: set[str] = set()
    for group in proto.instance_group:
        where = f"instance group {group.name} of model {proto.name}"
        if group.name in names:
            raise InvalidArg(f"{where} has the name of another instance group")
        names.add(group.name)
        _check_placement(group, where, gpus)
        total += group.count * (len(group.gpus) if group.kind == InstanceKind.GPU else 1)
        if total > defines.MAX_INSTANCES_PER_MODEL:
            raise InvalidArg(
                f"{where} has count {group.count}: a model can have at most "
                f"{defines.MAX_INSTANCES_PER_MODEL} instances"
            )
        _check_profiles(proto, group, where)
    if all(group.passive for group in proto.instance_group):
        raise InvalidArg(
            f"model '{proto.name}' has passive instances only, which take no requests: set 'passive: false' in one "
            "instance_group at least"
        )


def _check_placement(group: Any, where: str, gpus: Gpus) -> None:
    if group.kind not in (InstanceKind.GPU, InstanceKind.CPU, InstanceKind.MODEL):
        raise InvalidArg(f"{where} has unknown kind {group.kind}")
    if group.kind != InstanceKind.GPU:
        if group.gpus:
            raise InvalidArg(f"{where} has kind {_kind_name(group.kind)} but specifies one or more GPUs")
        return
    if not gpus.usable:
        raise InvalidArg(f"{where} has kind KIND_GPU but no GPUs are available: {gpus.problem}")
    if not group.gpus:
        raise InvalidArg(f"{where} has kind KIND_GPU but specifies no GPUs")
    for gpu in group.gpus:
        if gpu not in gpus.usable:
            raise InvalidArg(
                f"{where} specifies invalid or unsupported gpu id {gpu}. GPUs that may be used are: "
                + ", ".join(map(str, gpus.usable))
            )


def _check_profiles(proto: Any, group: Any, where: str) -> None:
    if group.profile and proto.platform != "tensorrt_plan":
        raise InvalidArg(
            f"{where} and platform {proto.platform} specifies profile field which is only supported for "
            "TensorRT models"
        )
    for profile in group.profile:
        if not (profile.isascii() and profile.isdigit()):
            raise InvalidArg(
                f"{where} and platform {proto.platform} specifies invalid profile {profile}. The field "
                "should contain the string representation of a non-negative integer."
            )


def _kind_name(kind: int) -> str:
    return f"KIND_{InstanceKind(kind).name}"
