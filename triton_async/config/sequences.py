"""`sequence_batching` of a config: its rules, defaults and frozen form, and the tensors that it adds to the model's.

Controls and states are inputs and outputs of the model that no client sends or sees: they are not in `input` and
`output`, and the server brings them to each batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from math import prod
from typing import Any

from triton_async import datatypes, defines
from triton_async.config.autocomplete import ModelIO
from triton_async.config.padding import made_tensors
from triton_async.config.paths import safe_name
from triton_async.config.ragged import batch_tensors
from triton_async.errors import InvalidArg

INITIAL_STATE_FOLDER = "initial_state"
_VALUES = ("int32_false_true", "fp32_false_true", "bool_false_true")
_VALUE_TYPES = {"int32_false_true": "INT32", "fp32_false_true": "FP32", "bool_false_true": "BOOL"}
_ID_TYPES = ("UINT64", "INT64", "UINT32", "INT32", "BYTES")


class ControlKind(IntEnum):
    """ModelSequenceBatching.Control.Kind, same values."""

    START = 0
    READY = 1
    END = 2
    CORRID = 3


@dataclass(frozen=True, slots=True)
class Control:
    """A control input. `false_true`: its two values; () for a correlation id. `datatype`: number of `datatypes`."""

    name: str
    kind: ControlKind
    datatype: int
    false_true: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """One implicit state. `dims` without the batch dimension, -1 where steps may differ. `initial_dims`: of the first
    step. `data_file`: in the folder `initial_state` of the model; "" for zeros.
    """

    input_name: str
    output_name: str
    datatype: int
    dims: tuple[int, ...]
    initial_dims: tuple[int, ...]
    data_file: str = ""


@dataclass(frozen=True, slots=True)
class SequenceBatching:
    """`candidates`: sequences that an instance has at a time. `preferred_batch_sizes` ascending. `min_utilization`:
    share of the slots that need not wait for more.
    """

    oldest: bool
    candidates: int
    idle_us: int
    delay_us: int = 0
    min_utilization: float = 0.0
    preferred_batch_sizes: tuple[int, ...] = ()
    preserve_ordering: bool = False
    iterative: bool = False
    controls: tuple[Control, ...] = ()
    states: tuple[State, ...] = ()


def normalise_sequences(proto: Any) -> None:
    """Fills the defaults. Safe to call again."""
    if not proto.HasField("sequence_batching"):
        return
    batching = proto.sequence_batching
    if not batching.max_sequence_idle_microseconds:
        batching.max_sequence_idle_microseconds = defines.SEQUENCE_IDLE_US
    if batching.HasField("oldest") and proto.max_batch_size > 0 and not batching.oldest.preferred_batch_size:
        batching.oldest.preferred_batch_size.append(proto.max_batch_size)


def sequence_problems(proto: Any) -> Iterator[InvalidArg]:
    """What is wrong with its controls and its strategy: the first of each."""
    yield from _problems(proto, _check_controls, _check_strategy)


def state_problems(proto: Any) -> Iterator[InvalidArg]:
    """What is wrong with its states, and with names that it shares with the model's tensors: the first of each."""
    yield from _problems(proto, _check_states, _check_names)


def _problems(proto: Any, *checks: Callable[[Any], None]) -> Iterator[InvalidArg]:
    if not proto.HasField("sequence_batching"):
        return
    for check in checks:
        try:
            check(proto)
        except InvalidArg as error:
            yield error


def freeze_sequences(proto: Any) -> SequenceBatching | None:
    """Its frozen form, of a valid config; None without sequence batching."""
    if not proto.HasField("sequence_batching"):
        return None
    batching = proto.sequence_batching
    rows = max(proto.max_batch_size, 1)
    controls = tuple(_controls(batching))
    states = tuple(_state(state) for state in batching.state)
    if batching.HasField("oldest"):
        oldest = batching.oldest
        return SequenceBatching(
            True, oldest.max_candidate_sequences or rows, batching.max_sequence_idle_microseconds,
            oldest.max_queue_delay_microseconds, 0.0, tuple(sorted(set(oldest.preferred_batch_size))),
            oldest.preserve_ordering, batching.iterative_sequence, controls, states,
        )  # fmt: skip
    direct = batching.direct
    return SequenceBatching(
        False, rows, batching.max_sequence_idle_microseconds, direct.max_queue_delay_microseconds,
        direct.minimum_slot_utilization, (), False, batching.iterative_sequence, controls, states,
    )  # fmt: skip


def with_injected(proto: Any) -> Any:
    """The config as the model sees it: a copy with controls, states and what the server makes for a batch among inputs
    and outputs. `proto` itself where it has none.
    """
    injected = _injected(proto)
    if not injected[0] and not injected[1]:
        return proto
    whole = type(proto)()
    whole.CopyFrom(proto)
    for ios, tensors in zip((whole.input, whole.output), injected, strict=True):
        for name, datatype, dims in tensors:
            io = ios.add(name=name, data_type=datatype, dims=dims or (1,))
            if not dims:
                io.reshape.SetInParent()  # the rows alone
    return whole


def without_injected(model_io: ModelIO, proto: Any) -> ModelIO:
    """The model as its clients see it: without what `with_injected` adds."""
    inputs, outputs = ({name for name, _, _ in tensors} for tensors in _injected(proto))
    if not inputs and not outputs:
        return model_io
    return replace(
        model_io,
        inputs=tuple(tensor for tensor in model_io.inputs if tensor.name not in inputs),
        outputs=tuple(tensor for tensor in model_io.outputs if tensor.name not in outputs),
    )


# Name, data type and dims of the inputs, and of the outputs, that the config adds.
def _injected(proto: Any) -> tuple[list[tuple[str, int, tuple[int, ...]]], list[tuple[str, int, tuple[int, ...]]]]:
    made = [*batch_tensors(proto), *made_tensors(proto)]
    if not proto.HasField("sequence_batching"):
        return made, []
    batching = proto.sequence_batching
    controls: list[tuple[str, int, tuple[int, ...]]] = [
        (control.name, control.datatype, (1,)) for control in _controls(batching)
    ]
    inputs = [(state.input_name, state.data_type, tuple(state.dims)) for state in batching.state]
    # What clients may ask for is an output as it is.
    listed = {io.name for io in proto.output}
    outputs = [
        (state.output_name, state.data_type, tuple(state.dims))
        for state in batching.state
        if state.output_name not in listed
    ]
    return controls + inputs + made, outputs


def _controls(batching: Any) -> Iterator[Control]:
    # Also of a config that is wrong, whose mistakes are to be told all at once: what is no control is left out.
    for tensor in batching.control_input:
        for control in tensor.control:
            if control.kind not in tuple(ControlKind):
                continue
            kind = ControlKind(control.kind)
            if kind is ControlKind.CORRID:
                yield Control(tensor.name, kind, control.data_type)
                continue
            for field in _VALUES:
                if values := tuple(getattr(control, field)):
                    yield Control(tensor.name, kind, datatypes.from_name(_VALUE_TYPES[field]), values)
                    break


def _state(state: Any) -> State:
    first = tuple(1 if dim == -1 else dim for dim in state.dims)
    data_file = ""
    if state.initial_state:
        first = tuple(state.initial_state[0].dims)
        data_file = state.initial_state[0].data_file
    return State(state.input_name, state.output_name, state.data_type, tuple(state.dims), first, data_file)


def _check_controls(proto: Any) -> None:
    name = proto.name
    kinds: set[int] = set()
    tensors: set[str] = set()
    for tensor in proto.sequence_batching.control_input:
        if not tensor.name:
            raise InvalidArg(f"sequence batching control tensor must have a name for {name}")
        if tensor.name in tensors or len(tensor.control) > 1:
            raise InvalidArg(
                f"sequence batching control tensor '{tensor.name}' is specified for multiple control kinds for {name}"
            )
        if not tensor.control:
            raise InvalidArg(f"sequence batching control tensor '{tensor.name}' must specify 'control' for {name}")
        tensors.add(tensor.name)
        for control in tensor.control:
            _check_control(control, tensor.name, name)
            kind = f"CONTROL_SEQUENCE_{ControlKind(control.kind).name}"
            if control.kind in kinds:
                raise InvalidArg(f"sequence batching specifies multiple {kind} tensors for {name}")
            kinds.add(control.kind)


def _check_control(control: Any, tensor: str, name: str) -> None:
    if control.kind not in tuple(ControlKind):
        raise InvalidArg(f"sequence batching control '{tensor}' has unknown 'kind' {control.kind} for {name}")
    kind = f"CONTROL_SEQUENCE_{ControlKind(control.kind).name}"
    given = [field for field in _VALUES if len(getattr(control, field))]
    if control.kind == ControlKind.CORRID:
        if given:
            raise InvalidArg(
                "sequence batching must not specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' "
                f"for {kind} for {name}: control '{tensor}'"
            )
        known = datatypes.NAMES[control.data_type] if 0 < control.data_type < len(datatypes.NAMES) else ""
        if known not in _ID_TYPES:
            shown = datatypes.to_config_name(control.data_type) if known else str(control.data_type)
            raise InvalidArg(
                f"unexpected data type {shown} for control '{tensor}' of kind {kind} for {name}. Allowed data types "
                "are TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING"
            )
        return
    if not given:
        raise InvalidArg(
            "sequence batching must specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for "
            f"{kind} for {name}: control '{tensor}'"
        )
    if len(given) > 1:
        raise InvalidArg(
            "sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' and "
            f"'bool_false_true' for {kind} for {name}: control '{tensor}'"
        )
    if len(getattr(control, given[0])) != 2:
        raise InvalidArg(
            f"sequence batching control '{given[0]}' must have exactly 2 entries for {kind} for {name}"
        )
    if control.data_type and control.data_type != datatypes.from_name(_VALUE_TYPES[given[0]]):
        raise InvalidArg(
            f"sequence batching control '{tensor}' has 'data_type' {datatypes.to_config_name(control.data_type)}, but "
            f"its values are {given[0]} for {kind} for {name}"
        )


def _check_strategy(proto: Any) -> None:
    batching, name = proto.sequence_batching, proto.name
    _check_us(batching.max_sequence_idle_microseconds, "max_sequence_idle_microseconds", name)
    if batching.HasField("oldest"):
        oldest = batching.oldest
        for size in oldest.preferred_batch_size:
            if size <= 0:
                raise InvalidArg(f"sequence batching preferred batch size must be positive for {name}")
            if size > proto.max_batch_size:
                raise InvalidArg(f"sequence batching preferred batch size must be <= max batch size for {name}")
        if not 0 <= oldest.max_candidate_sequences <= defines.MAX_CANDIDATE_SEQUENCES:
            raise InvalidArg(
                f"sequence batching 'max_candidate_sequences' must be in range [0, {defines.MAX_CANDIDATE_SEQUENCES}] "
                f"for {name}"
            )
        _check_us(oldest.max_queue_delay_microseconds, "oldest.max_queue_delay_microseconds", name)
    if batching.HasField("direct"):
        if not 0.0 <= batching.direct.minimum_slot_utilization <= 1.0:
            raise InvalidArg(
                f"sequence batching minimum slot utilization must be in range [0.0, 1.0] for {name}"
            )
        _check_us(batching.direct.max_queue_delay_microseconds, "direct.max_queue_delay_microseconds", name)


def _check_us(value: int, field: str, name: str) -> None:
    if value > defines.MAX_DELAY_US:
        raise InvalidArg(f"sequence batching '{field}' must be <= {defines.MAX_DELAY_US} for {name}")


def _check_states(proto: Any) -> None:
    name = proto.name
    for state in proto.sequence_batching.state:
        if not state.input_name or not state.output_name:
            raise InvalidArg(f"sequence batching state must specify 'input_name' and 'output_name' for {name}")
        where = f"sequence batching state '{state.input_name}'"
        if not 0 < state.data_type < len(datatypes.NAMES):
            raise InvalidArg(f"{where} must specify 'data_type' for {name}")
        if not state.dims:
            raise InvalidArg(f"{where} must specify 'dims' for {name}")
        most = defines.MAX_RANK - (1 if proto.max_batch_size > 0 else 0)
        if len(state.dims) > most:
            raise InvalidArg(f"{where} has more than {most} dimensions for {name}")
        if any(dim < 1 and dim != -1 for dim in state.dims):
            raise InvalidArg(
                f"{where} dimension must be integer >= 1, or -1 to indicate a variable-size dimension for {name}"
            )
        for field in ("use_same_buffer_for_input_output", "use_growable_memory"):
            if getattr(state, field) and field == "use_growable_memory":
                raise InvalidArg(
                    f"{where}: 'use_growable_memory' is for CUDA memory, and states are kept in host memory here: "
                    f"remove it for {name}"
                )
        _check_initial(state, where, name)


def _check_initial(state: Any, where: str, name: str) -> None:
    if len(state.initial_state) > 1:
        raise InvalidArg(
            f"initial_state field for state input '{state.input_name}' must contain exactly one or zero element. Found "
            f"'{len(state.initial_state)}' elements for {name}"
        )
    first = state.initial_state[0].dims if state.initial_state else [1 if dim == -1 else dim for dim in state.dims]
    if state.initial_state:
        initial = state.initial_state[0]
        where = f"{where}: 'initial_state' '{initial.name}'"
        if initial.data_type != state.data_type:
            raise InvalidArg(f"{where} must have the 'data_type' of the state for {name}")
        fits = len(first) == len(state.dims) and all(
            ours > 0 and theirs in (-1, ours) for ours, theirs in zip(first, state.dims, strict=True)
        )
        if not fits:
            raise InvalidArg(f"{where} has dims {list(first)}, which do not fit {list(state.dims)} for {name}")
        if initial.WhichOneof("state_data") is None:
            raise InvalidArg(f"{where} must specify 'zero_data' or 'data_file' for {name}")
        if initial.WhichOneof("state_data") == "data_file":
            safe_name(initial.data_file, f"'data_file' of an initial state of model '{name}'")
    if prod(first) > defines.MAX_STATE_ELEMENTS:
        raise InvalidArg(f"{where} has more than {defines.MAX_STATE_ELEMENTS} elements for {name}")


def _check_listed(proto: Any) -> None:
    """States among the outputs, which are the same tensor twice."""
    outputs = {io.name: io for io in proto.output}
    seen: set[str] = set()
    for state in proto.sequence_batching.state:
        if state.output_name in seen:
            raise InvalidArg(f"sequence batching has '{state.output_name}' twice as a state for {proto.name}")
        seen.add(state.output_name)
        io = outputs.get(state.output_name)
        if io is None:
            continue
        alike = io.data_type in (0, state.data_type) and not io.HasField("reshape")
        if not alike or (len(io.dims) and list(io.dims) != list(state.dims)):
            raise InvalidArg(
                f"output '{io.name}' is a state of sequence batching too, and must have its 'data_type' and 'dims', "
                f"and no 'reshape', for {proto.name}"
            )


def _check_names(proto: Any) -> None:
    for what, ios, tensors in zip(("input", "output"), (proto.input, proto.output), _injected(proto), strict=True):
        taken = {io.name for io in ios}
        for tensor, _, _ in tensors:
            if tensor in taken:
                raise InvalidArg(
                    f"sequence batching has '{tensor}' as a control or state, which is {what} of the model as well, or "
                    f"twice a state, for {proto.name}"
                )
            taken.add(tensor)
        if len(taken) > defines.MAX_TENSORS_PER_REQUEST:
            raise InvalidArg(
                f"model configuration has {len(taken)} inputs, controls and states, at most "
                f"{defines.MAX_TENSORS_PER_REQUEST} are supported for {proto.name}"
            )
    _check_listed(proto)
