"""Model versions as requests write them."""

from __future__ import annotations

import re

from triton_async.errors import InvalidArg

# What C's strtol reads of a string: clients that send "1.0" are served version 1 by Triton.
_INTEGER = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)", re.ASCII)


def parse_version(text: str | None) -> int:
    """Version number of a request; -1, the version policy's choice, for none or "". InvalidArg in Triton's words.
    """
    if not text:
        return -1
    match = _INTEGER.match(text)
    # Twenty digits are out of range; Python would count millions of them first.
    if match is None or len(match[1].lstrip("+-0")) > 19 or not -(2**63) <= int(match[1]) < 2**63:
        raise InvalidArg(
            f"failed to get model version from specified version string '{text}' (details: stol), "
            "version should be an integral value > 0"
        )
    version = int(match[1])
    if version < 0:
        raise InvalidArg(
            f"invalid model version specified '{text}' , version should be an integral value > 0"
        )
    return version
