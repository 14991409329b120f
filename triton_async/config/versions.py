"""Version directories of a model: `<model>/<positive integer>/`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from triton_async.config.paths import is_directory

# Versions are int64 in the config and in requests.
_LARGEST = 2**63 - 1
_DIGITS = len(str(_LARGEST))
# Folders of a model that are none of its versions.
_OTHERS = ("configs", "initial_state", "warmup")


def is_version(name: str) -> bool:
    """Whether a directory name is a version: decimal, no leading zero, at most 2^63-1 (Triton ignores the others)."""
    if not (name.isascii() and name.isdigit() and name[0] != "0" and len(name) <= _DIGITS):
        return False
    return int(name) <= _LARGEST


def look(model_dir: Path) -> tuple[tuple[int, ...], list[str]]:
    """Versions that the model's directory holds, ascending, and the names of its other directories, sorted. Nothing
    when it cannot be read.
    """
    try:
        with os.scandir(model_dir) as entries:
            names = sorted(entry.name for entry in entries if is_directory(entry))
    except OSError:
        return (), []
    versions = sorted(int(name) for name in names if is_version(name))
    return tuple(versions), [name for name in names if not is_version(name)]


def list_versions(model_dir: Path) -> tuple[int, ...]:
    """Versions that the model's directory holds, ascending; () when it cannot be read."""
    versions, _ = look(model_dir)
    return versions


def ignored_versions(others: Iterable[str]) -> list[str]:
    """For each directory of a model that could be meant as a version and is none: a line that says why. `others`: see
    `look`.
    """
    shown = [name for name in others if name not in _OTHERS and not name.startswith(".")]
    return [f"ignore version directory '{name}' {_why_ignored(name)}" for name in shown]


def _why_ignored(name: str) -> str:
    if len(name) > 1 and name[0] == "0":
        return "which contains leading zeros in its directory name"
    if name.isascii() and name.isdigit():
        return f"which is not in the range from 1 to {_LARGEST}"
    return "which fails to convert to integral number"
