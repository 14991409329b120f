"""What it is to answer otherwise than the real server on purpose."""

from __future__ import annotations

import dataclasses
import re

from .wire import Answer


@dataclasses.dataclass(frozen=True)
class Deviation:
    """What we answer: a status or code out of `results`, and an error that `error` matches in full.

    `error` "" asks for no error at all, None for any. With `or_real` the real server's answer is right too. With
    `lacks` we answer as the real server, but without this header; with `instead` as it does, but for these texts in the
    canonical form of its answer, each of which stands there.
    """

    why: str
    results: tuple[object, ...] = ()
    error: str | None = None
    or_real: bool = False
    lacks: str = ""
    instead: tuple[tuple[str, str], ...] = ()

    def allows(self, given: Answer) -> bool:
        """True when `given` is what we mean to answer."""
        if given.get("dropped"):
            return "dropped" in self.results
        if given.get("status", given.get("code")) not in self.results:
            return False
        document = given.get("json")
        text = document.get("error", "") if isinstance(document, dict) else given.get("message", "")
        return self.error is None or re.fullmatch(self.error, text, re.DOTALL) is not None
