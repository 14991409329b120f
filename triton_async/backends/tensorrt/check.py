"""A plan and a model config: what the plan adds to the config, and whether the two agree, in Triton's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from triton_async import datatypes
from triton_async.backends.tensorrt.describe import Dims, Plan, PlanTensor
from triton_async.backends.tensorrt.profiles import group_profiles, max_batch_size
from triton_async.config.autocomplete import ModelIO, TensorInfo
from triton_async.errors import InternalError, InvalidArg, Unsupported
from triton_async.infer.signature import format_dims


def model_io(plan: Plan, proto: Any) -> ModelIO:
    """Inputs, outputs and largest batch of a plan, for auto-complete. InvalidArg for a profile that it lacks."""
    return ModelIO(
        tuple(_info(tensor) for tensor in plan.inputs),
        tuple(_info(tensor) for tensor in plan.outputs),
        max_batch_size=max_batch_size(plan, config_profiles(plan, proto)),
        check=lambda completed: check_config(completed, plan),
    )


def _info(tensor: PlanTensor) -> TensorInfo:
    return TensorInfo(tensor.name, tensor.datatype, tensor.dims, shape_tensor=tensor.shape_tensor)


def config_profiles(plan: Plan, proto: Any) -> tuple[int, ...]:
    """Every profile that an instance group of the config uses, ascending."""
    found = {0} if not proto.instance_group else set()
    for group in proto.instance_group:
        found.update(group_profiles(group.profile, plan, group.name or proto.name))
    return tuple(sorted(found))


def check_config(proto: Any, plan: Plan) -> None:
    """InvalidArg, InternalError or Unsupported, as Triton answers, when a complete config does not fit the plan."""
    model = proto.name
    profiles = config_profiles(plan, proto)
    known = {True: {t.name: t for t in plan.inputs}, False: {t.name: t for t in plan.outputs}}
    if len(proto.input) > len(plan.inputs):
        raise InvalidArg(
            f"unable to load model '{model}', configuration expects {len(proto.input)} inputs, model provides at "
            f"most {len(plan.inputs)}"
        )
    for is_input, ios in ((True, proto.input), (False, proto.output)):
        for io in ios:
            if io.name not in known[is_input]:
                what = "input" if is_input else "output"
                raise InvalidArg(
                    f"unexpected inference {what} '{io.name}', allowed {what}s are: "
                    f"{', '.join(sorted(known[is_input]))} for {model}"
                )
    for is_input, ios in ((True, proto.input), (False, proto.output)):
        for io in ios:
            _check_tensor(proto, io, known[is_input][io.name])
        missing = sorted(set(known[is_input]) - {io.name for io in ios})
        if missing:
            what = "input" if is_input else "output"
            raise InvalidArg(f"expected configuration for {what} '{missing[0]}' for {model}")
    _check_batching(proto, plan, profiles)
    for io in proto.input:
        _check_ranges(proto, io, known[True][io.name], profiles)


def _check_tensor(proto: Any, io: Any, tensor: PlanTensor) -> None:
    what = "input" if tensor.is_input else "output"
    if io.data_type != tensor.datatype:
        raise InvalidArg(
            f"unexpected datatype {datatypes.to_config_name(tensor.datatype)} for inference {what} '{io.name}', "
            f"expecting {datatypes.to_config_name(io.data_type)} for {proto.name}"
        )
    if tensor.shape_tensor and not io.is_shape_tensor:
        raise InternalError(
            f"{what} '{io.name}' for model '{proto.name}' is a shape tensor but the model configuration doesn't mark "
            "it as a shape tensor."
        )
    if io.is_shape_tensor and not tensor.shape_tensor:
        raise InternalError(
            f"{what} '{io.name}' for model '{proto.name}' is incorrectly marked as a shape tensor in the model "
            "configuration."
        )
    if not tensor.is_linear:
        raise Unsupported(
            f"{what} '{io.name}' of model '{proto.name}' has the format {tensor.layout} in the plan; only linear "
            "formats are supported: build the plan with linear inputs and outputs"
        )
    if io.is_non_linear_format_io:
        raise InvalidArg(
            f"{what} '{io.name}' of model '{proto.name}' is marked 'is_non_linear_format_io', but the plan has a "
            "linear format for it"
        )
    _check_dims(proto, io, tensor)


def _check_dims(proto: Any, io: Any, tensor: PlanTensor) -> None:
    dims = configured_dims(io)
    where = f"model '{proto.name}', tensor '{io.name}'"
    expects = f"the model expects {len(tensor.dims)} dimensions (shape {format_dims(tensor.dims)})"
    if proto.max_batch_size > 0:
        if not tensor.dims:
            raise InvalidArg(
                f"{where}: for the model to support batching the shape should have at least 1 dimension; but shape "
                f"expected by the model is {format_dims(tensor.dims)}"
            )
        full = (-1, *dims)
        if not _fits(tensor.dims, full):
            raise InvalidArg(
                f"{where}: {expects} but the model configuration specifies {len(full)} dimensions (an initial batch "
                f"dimension because max_batch_size > 0 followed by the explicit tensor shape, making complete shape "
                f"{format_dims(full)})"
            )
    # A config has no word for a scalar, it says [ 1 ] then, as auto-complete does.
    elif not _fits(tensor.dims or (1,), dims):
        raise InvalidArg(
            f"{where}: {expects} but the model configuration specifies {len(dims)} dimensions (shape "
            f"{format_dims(dims)})"
        )


def _check_batching(proto: Any, plan: Plan, profiles: Sequence[int]) -> None:
    if proto.max_batch_size == 0:
        return
    if plan.has_shape_tensors:
        raise Unsupported(
            f"model '{proto.name}' has shape tensors and max_batch_size {proto.max_batch_size}: models with shape "
            "tensors are supported with max_batch_size 0 only"
        )
    most = max_batch_size(plan, profiles)
    if proto.max_batch_size > most:
        raise InvalidArg(
            f"unexpected configuration maximum batch size {proto.max_batch_size} for '{proto.name}', model maximum "
            f"is {most}"
        )


def _check_ranges(proto: Any, io: Any, tensor: PlanTensor, profiles: Sequence[int]) -> None:
    """Some profile in use must take the sizes that the config fixes."""
    start = 1 if proto.max_batch_size > 0 else 0
    problem = ""
    for profile in profiles:
        allowed = tensor.ranges[profile]
        bounds = zip(configured_dims(io), allowed.minimum[start:], allowed.maximum[start:], strict=False)
        wrong = [
            f"dimension {index} to be between {low} and {high} but received {dim}"
            for index, (dim, low, high) in enumerate(bounds, start)
            if dim != -1 and not low <= dim <= high
        ]
        if not wrong:
            return
        problem = problem or wrong[0]
    raise InvalidArg(
        f"model configuration specified invalid shape for input '{io.name}' for model {proto.name}. Error details: "
        f"model expected the shape of {problem}"
    )


def configured_dims(io: Any) -> Dims:
    """Dims that the model sees of a tensor of the config, without the batch dimension."""
    return tuple(io.reshape.shape) if io.HasField("reshape") else tuple(io.dims)


def _fits(model: Sequence[int], config: Sequence[int]) -> bool:
    pairs = zip(model, config, strict=False)
    return len(model) == len(config) and all(-1 in pair or pair[0] == pair[1] for pair in pairs)
