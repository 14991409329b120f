"""Optimization profiles: which an instance uses, and which of them takes a batch. Pure functions over a Plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from triton_async.backends.tensorrt.describe import Dims, Plan, PlanTensor, Range
from triton_async.errors import InvalidArg
from triton_async.infer.signature import format_dims


def group_profiles(names: Sequence[str], plan: Plan, instance: str) -> tuple[int, ...]:
    """Profiles of an instance group's `profile` entries, each once; the first of the plan when there are none.

    `instance`: for the error, in Triton's words, when the plan has no such profile.
    """
    found: list[int] = []
    for name in names or ("0",):
        if not (name.isascii() and name.isdigit() and len(name) < 10 and int(name) < plan.profiles):
            raise InvalidArg(
                f"Can not set the specified optimization profile {name[:20]}[{name[:20]}] for {instance}. "
                f"Expected optimization profile index range 0-{plan.profiles - 1}"
            )
        if int(name) not in found:
            found.append(int(name))
    return tuple(found)


def max_batch_size(plan: Plan, profiles: Sequence[int]) -> int:
    """Rows of the largest batch that the plan takes, 0 when it does not batch: Triton's rule, by which the first
    dimension of every input is the batch, as long as all tensors agree on it.

    A plan with shape tensors counts as one that does not batch: requests of different values cannot share a run.
    """
    if plan.has_shape_tensors or not plan.inputs or any(not tensor.dims for tensor in plan.tensors):
        return 0
    if len({tensor.dims[0] for tensor in plan.tensors}) != 1:
        return 0
    return max(min(tensor.ranges[profile].maximum[0] for tensor in plan.inputs) for profile in profiles)


def choose(
    plan: Plan, profiles: Sequence[int], dims: Mapping[str, Dims], values: Mapping[str, Dims], model: str
) -> int:
    """The profile of `profiles` whose optimum is nearest to a batch, by the sum of the differences, as in Triton.

    `dims` of every input; `values` of the shape tensors. InvalidArg, with the first dimension that does not fit when
    there is only one profile.
    """
    best = -1
    shortest = 0
    problem = ""
    for profile in profiles:
        distance = 0
        for tensor in plan.inputs:
            given = [(dims[tensor.name], tensor.ranges[profile])]
            if tensor.values:
                given.append((values[tensor.name], tensor.values[profile]))
            wrong = next((text for actual, allowed in given if (text := _misfit(actual, allowed))), "")
            if wrong:
                problem = problem or f"request specifies invalid shape for input '{tensor.name}' for {model}. {wrong}"
                break
            distance += sum(_distance(actual, allowed.optimum) for actual, allowed in given)
        else:
            if best < 0 or distance < shortest:
                best, shortest = profile, distance
    if best >= 0:
        return best
    if len(profiles) == 1:
        raise InvalidArg(problem)
    named = "".join(f" {profile}[{profile}]" for profile in profiles)
    raise InvalidArg(
        f"failed to find any Optimization Profile among [{named}] to support the requested dimensions (or shape "
        f"values) for {model}"
    )


def largest_dims(tensor: PlanTensor, profile: int, configured: Dims, rows: int) -> Dims:
    """Dims of an input that the profile and the config allow at most. `configured`: the config's dims without the
    batch dimension, -1 where free; `rows`: max_batch_size, 0 when the model does not batch.
    """
    wanted = (rows, *configured) if rows else configured
    maximum = tensor.ranges[profile].maximum
    fixed = fixed_first(tensor) if rows else 0
    return tuple(
        fixed if fixed and index == 0 else most if want == -1 else min(want, most)
        for index, (want, most) in enumerate(zip(wanted, maximum, strict=True))
    )


def fixed_first(tensor: PlanTensor) -> int:
    """First dimension of a tensor when it is fixed, else 0."""
    return max(0, tensor.dims[0]) if tensor.dims else 0


def _misfit(actual: Dims, allowed: Range) -> str:
    if len(actual) != len(allowed.maximum):
        return f"Error details: model expected {len(allowed.maximum)} dimensions but received {format_dims(actual)}"
    for index, (dim, low, high) in enumerate(zip(actual, allowed.minimum, allowed.maximum, strict=True)):
        if not low <= dim <= high:
            return (
                f"Error details: model expected the shape of dimension {index} to be between {low} and {high} "
                f"but received {dim}"
            )
    return ""


def _distance(actual: Dims, optimum: Dims) -> int:
    return sum(abs(a - b) for a, b in zip(actual, optimum, strict=True))
