"""From what a config says of requests that differ in shape to the plan that batches are made by. Load threads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from triton_async.backends.base import Backend
from triton_async.config.model_config import ModelConfig
from triton_async.config.padding import Lengths, Padding
from triton_async.errors import Unsupported
from triton_async.infer.plan import BatchPlan

log = logging.getLogger("triton_async.core")


def check_assembly(backend: Backend, config: ModelConfig) -> None:
    """Unsupported when `config` asks for batches of unequal requests that `backend` does not take."""
    asked = {
        "allow_ragged_batch": any(io.ragged for io in config.inputs),
        "batch_input": bool(config.batch_inputs),
        "batch_output": bool(config.batch_outputs),
        "padding": config.padding is not None,
    }
    for field, is_asked in asked.items():
        ignored = backend.gets_requests and field.startswith("batch_")
        if is_asked and not ignored and field not in backend.assembles:
            what = "the parameter 'padding'" if field == "padding" else f"'{field}'"
            taken = ", ".join(sorted(backend.assembles))
            raise Unsupported(
                f"unable to load model '{config.name}': {what} is not for backend '{config.backend}', which takes "
                + (f"{taken} alone" if taken else "requests of equal shapes in a batch: remove it")
            )


def without_ignored(backend: Backend, config: ModelConfig) -> ModelConfig:
    """`config` without what `backend` has no use for, which goes to the log."""
    if not backend.gets_requests or not (config.batch_inputs or config.batch_outputs):
        return config
    log.warning(
        "'batch_input' and 'batch_output' of model '%s' have no effect: it gets each request by itself", config.name
    )
    return replace(config, batch_inputs=(), batch_outputs=())


def make_plan(config: ModelConfig) -> BatchPlan | None:
    """The plan of a model, None when its requests do not differ."""
    padding = config.padding
    ragged = any(io.ragged for io in config.inputs)
    if padding is None and not (ragged or config.batch_inputs or config.batch_outputs):
        return None
    inputs = {io.name: place for place, io in enumerate(config.engine_inputs)}
    outputs = {io.name: place for place, io in enumerate(config.engine_outputs)}
    lengths = [] if padding is None else list(padding.buckets.items())
    plan = BatchPlan(len(inputs), len(outputs), lengths, 0 if padding is None else padding.max_elements)
    for io in config.inputs:
        if io.ragged:
            plan.set_ragged(inputs[io.name])
    for told in config.batch_inputs:
        for name in told.targets:
            plan.set_batch_input(inputs[name], int(told.kind), told.datatype, inputs[told.source])
    by_name = {io.name: io for io in config.outputs}
    for scattered in config.batch_outputs:
        for name in scattered.targets:
            dims = ((-1,) if config.max_batch_size > 0 else ()) + by_name[name].dims
            plan.set_scattered(outputs[name], by_name[name].datatype, dims, inputs[scattered.source])
    if padding is not None:
        _pad(plan, padding, config, inputs, outputs)
    return plan


def _pad(
    plan: BatchPlan, padding: Padding, config: ModelConfig, inputs: Mapping[str, int], outputs: Mapping[str, int]
) -> None:
    numbers = {name: number for number, name in enumerate(padding.buckets)}

    def numbered(lengths: Lengths) -> list[int | None]:
        return [None if length is None else numbers[length] for length in lengths]

    for io in config.inputs:
        if io.name in padding.inputs:
            lengths, pad = padding.inputs[io.name]
            plan.set_padded(inputs[io.name], io.datatype, numbered(lengths), pad)
    for mask in padding.masks:
        plan.set_mask(inputs[mask.name], mask.datatype, mask.dims, numbered(mask.lengths), mask.value, mask.pad)
    for told in padding.length_inputs:
        plan.set_lengths(inputs[told.name], told.datatype, told.dims, numbers[told.length])
    for io in config.outputs:
        if io.name in padding.outputs:
            plan.set_cut(outputs[io.name], io.datatype, numbered(padding.outputs[io.name]))
