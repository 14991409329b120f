"""Model versions as requests write them."""

from __future__ import annotations

import re

from triton_async.errors import InvalidArg

_INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)


def parse_version(text: str) -> int:
    """Version number of a request; -1, the version policy's choice, for "". InvalidArg in Triton's words."""
    if not text:
        return -1
    if _INTEGER.fullmatch(text) is None or int(text) >= 2**63:
        raise InvalidArg(
            f"failed to get model version from specified version string '{text}' (details: stol), "
            "version should be an integral value > 0"
        )
    version = int(text)
    if version < 0:
        raise InvalidArg(
            f"invalid model version specified '{text}' , version should be an integral value > 0"
        )
    return version
