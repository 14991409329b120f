"""Which input of a config is which argument of the model, and which output which result: Triton's conventions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from triton_async.backends.pytorch.program import Port, Program
from triton_async.errors import InternalError, InvalidArg

_INDEXED = re.compile(r".*?__([0-9]{1,9})\Z", re.ASCII | re.DOTALL)


def bind_inputs(model: str, names: Sequence[str], program: Program, warnings: list[str]) -> tuple[int, ...]:
    """Argument of each input; its own place when the model takes a dictionary. Any thread.

    All are named as the arguments of forward() are, or by their place in the call, or all end in `__<index>`; else
    they stand in the order of the arguments, and a line is added to `warnings`. InvalidArg when they do not fit.
    """
    arguments = program.arguments
    if not names:
        raise InternalError("model configuration must contain at least one input, none were specified.")
    if program.takes_dictionary:
        return tuple(range(len(names)))
    if len(names) != len(arguments):
        raise InvalidArg(
            f"unable to load model '{model}', configuration expects {len(names)} inputs, model provides "
            f"{len(arguments)}"
        )
    places = _by_name(names, arguments)
    if places is None:
        places = _by_index(names)
        if places is None:
            warnings.append(
                f"input '{_odd_one(names, arguments)}' of model '{model}' is neither an argument of the model nor does "
                "it follow the <name>__<index> naming convention; inputs are taken in the order of the configuration"
            )
            places = tuple(range(len(names)))
    _check_places(model, "input", names, places, len(arguments))
    return places


def bind_outputs(model: str, names: Sequence[str], program: Program, warnings: list[str]) -> tuple[int, ...]:
    """Result of each output, as `bind_inputs` says. Names of a dictionary are looked up after each run."""
    if not names:
        raise InternalError("model configuration must contain at least one output, none were specified.")
    results = program.results
    places = None if results is None else _by_name(names, results)
    if places is None:
        places = _by_index(names)
    if places is None:
        if results is not None:  # of others it may be that they return a dictionary
            warnings.append(
                f"output '{_odd_one(names, results)}' of model '{model}' is neither a result of the model nor does it "
                "follow the <name>__<index> naming convention; outputs are taken in the order of the configuration"
            )
        places = tuple(range(len(names)))
    _check_places(model, "output", names, places, None if results is None else len(results))
    return places


def missing_result(name: str, count: int) -> InvalidArg:
    """The error of an output that the model did not return, in Triton's words."""
    return InvalidArg(
        f"The output {name} in the model configuration refers to an output index which doesn't exist. This model has "
        f"{count} outputs"
    )


def _by_name(names: Sequence[str], ports: Sequence[Port]) -> tuple[int, ...] | None:
    for attribute in ("name", "path"):
        known = {getattr(port, attribute): place for place, port in enumerate(ports) if getattr(port, attribute)}
        if all(name in known for name in names):
            return tuple(known[name] for name in names)
    return None


def _by_index(names: Sequence[str]) -> tuple[int, ...] | None:
    found = [_INDEXED.match(name) for name in names]
    if any(match is None for match in found):
        return None
    return tuple(int(match[1]) for match in found if match is not None)


def _odd_one(names: Sequence[str], ports: Sequence[Port]) -> str:
    known = {port.name for port in ports} | {port.path for port in ports}
    return next(name for name in names if name not in known)


def _check_places(model: str, what: str, names: Sequence[str], places: Sequence[int], count: int | None) -> None:
    taken: dict[int, str] = {}
    for name, place in zip(names, places, strict=True):
        if count is not None and place >= count:
            if what == "output":
                raise missing_result(name, count)
            raise InvalidArg(
                f"unable to load model '{model}', input '{name}' refers to argument {place}, but the model has "
                f"{count} arguments"
            )
        if place in taken:
            raise InvalidArg(
                f"unable to load model '{model}', {what}s '{taken[place]}' and '{name}' are both number {place} of the "
                f"model's {what}s"
            )
        taken[place] = name
