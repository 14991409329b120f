"""What a config says of dynamic batching beyond Triton's fields: entries of `parameters` with names of their own.

Triton ignores them, so that one config.pbtxt serves both.
"""

from __future__ import annotations

from typing import Any

from triton_async.errors import InvalidArg

PREFIX = "dynamic_batching."
DELAY = PREFIX + "max_queue_delay"
STRICT_SIZES = PREFIX + "strict_preferred_batch_size"
BY_DEADLINE = PREFIX + "earliest_deadline_first"
_VALUES = {DELAY: ("auto", "fixed"), STRICT_SIZES: ("true", "false"), BY_DEADLINE: ("true", "false")}


def is_set(proto: Any, key: str) -> bool:
    """Whether a parameter says `true`."""
    return key in proto.parameters and proto.parameters[key].string_value == "true"


def automatic_delay(proto: Any) -> bool | None:
    """Whether the server is to find the delay; None: the config leaves that to the operator."""
    if DELAY in proto.parameters:
        return bool(proto.parameters[DELAY].string_value == "auto")
    batching = proto.dynamic_batching
    return False if batching.max_queue_delay_microseconds or is_set(proto, STRICT_SIZES) else None


def check_batching_parameters(proto: Any) -> None:
    """InvalidArg for a value or a name that there is not, or that contradicts another field."""
    for key in sorted(key for key in proto.parameters if key.startswith(PREFIX)):
        value = proto.parameters[key].string_value
        if key not in _VALUES:
            raise InvalidArg(
                f"parameters '{key}' of model '{proto.name}' is not known: there are {', '.join(sorted(_VALUES))}"
            )
        if value not in _VALUES[key]:
            raise InvalidArg(
                f"parameters '{key}' of model '{proto.name}' must be '{_VALUES[key][0]}' or '{_VALUES[key][1]}', not "
                f"'{value}'"
            )
    _check_combinations(proto)


def check_batching_needs(proto: Any) -> None:
    """InvalidArg for a parameter that the completed config has no use for."""
    for key in sorted(_VALUES):
        if key not in proto.parameters:
            continue
        where = f"parameters '{key}' of model '{proto.name}'"
        if not proto.HasField("dynamic_batching"):
            raise InvalidArg(f"{where} needs 'dynamic_batching' in its config.pbtxt")
        if proto.max_batch_size == 0 and key != BY_DEADLINE:
            raise InvalidArg(f"{where} needs max_batch_size above 0: its requests share no batch")


def _check_combinations(proto: Any) -> None:
    batching = proto.dynamic_batching
    if is_set(proto, STRICT_SIZES):
        where = f"parameters '{STRICT_SIZES}' of model '{proto.name}'"
        if DELAY in proto.parameters and proto.parameters[DELAY].string_value == "auto":
            raise InvalidArg(f"{where} and '{DELAY}: auto' contradict each other: leave out one of them")
        if batching.max_queue_delay_microseconds == 0:
            raise InvalidArg(
                f"{where} needs dynamic_batching.max_queue_delay_microseconds above 0, the longest that a request "
                "waits for a preferred size"
            )
    if is_set(proto, BY_DEADLINE) and batching.preserve_ordering:
        raise InvalidArg(
            f"parameters '{BY_DEADLINE}' of model '{proto.name}' contradicts dynamic_batching.preserve_ordering: leave "
            "out one of them"
        )
