"""Reading documents that nobody vouches for: every field by its type, every complaint with its place. Load threads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_async.backends.fil.ensemble import Fault, Floats, Ints, number


class Fields:
    """An object of a document and its place in it, such as `learner.gradient_booster`."""

    def __init__(self, found: Any, place: str) -> None:
        if not isinstance(found, dict):
            raise Fault(f"'{place}' is {_kind(found)}, expected an object")
        self.found: dict[str, Any] = found
        self.place = place

    def __contains__(self, name: str) -> bool:
        return name in self.found

    def at(self, name: str) -> str:
        """The place of a field."""
        return f"{self.place}.{name}" if self.place else name

    def get(self, name: str) -> Any:
        """Any field. Fault when it is missing."""
        if name not in self.found:
            raise Fault(f"'{self.at(name)}' is missing: the file is not complete, or of another format")
        return self.found[name]

    def object(self, name: str) -> Fields:
        """A field that is an object."""
        return Fields(self.get(name), self.at(name))

    def objects(self, name: str) -> list[Fields]:
        """A field that is an array of objects."""
        found = self.get(name)
        if not isinstance(found, list):
            raise Fault(f"'{self.at(name)}' is {_kind(found)}, expected an array of objects")
        return [Fields(one, f"{self.at(name)}[{i}]") for i, one in enumerate(found)]

    def text(self, name: str, default: str | None = None) -> str:
        """A field that is a string."""
        if default is not None and name not in self.found:
            return default
        found = self.get(name)
        if not isinstance(found, str):
            raise Fault(f"'{self.at(name)}' is {_kind(found)}, expected a string")
        return found

    def number(self, name: str, lowest: int, highest: int, default: int | None = None) -> int:
        """A field that is a whole number, or a string of one."""
        if default is not None and name not in self.found:
            return default
        return number(self.get(name), f"'{self.at(name)}'", lowest, highest)

    def array(self, name: str, count: int | None = None) -> Floats:
        """A field that is an array of numbers, `count` of them where that is known."""
        found = self.get(name)
        made: NDArray[Any]
        if isinstance(found, np.ndarray):
            made = found
        elif isinstance(found, list):
            try:
                made = np.asarray(found)
            except (ValueError, TypeError, OverflowError):
                raise Fault(f"'{self.at(name)}' is no array of numbers") from None
        else:
            raise Fault(f"'{self.at(name)}' is {_kind(found)}, expected an array of numbers")
        if made.ndim != 1 or (made.dtype.kind not in "biuf" and len(made)):
            raise Fault(f"'{self.at(name)}' is no array of numbers")
        if count is not None and len(made) != count:
            raise Fault(f"'{self.at(name)}' has {len(made)} numbers, expected {count}")
        return made.astype(np.float64)

    def integers(self, name: str, count: int | None = None) -> Ints:
        """A field that is an array of whole numbers, which 32 bits hold."""
        made = self.array(name, count)
        if not (np.abs(made) <= 1 << 32).all() or (made != np.floor(made)).any():
            raise Fault(f"'{self.at(name)}' has a number that is no index")
        return made.astype(np.int64)

    def refuse_others(self, known: Iterable[str], remedy: str) -> None:
        """Fault for a field that is not among those that this server reads or knows not to matter."""
        unknown = sorted(set(self.found) - set(known))
        if unknown:
            raise Fault(f"unknown field '{self.at(unknown[0])[:120]}': {remedy}")


def _kind(found: Any) -> str:
    if isinstance(found, (list, np.ndarray)):
        return "an array"
    if isinstance(found, dict):
        return "an object"
    return f"{str(found)[:40]!r}"
