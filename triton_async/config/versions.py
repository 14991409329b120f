"""Version directories of a model: `<model>/<positive integer>/`."""

from __future__ import annotations

import os
from pathlib import Path

from triton_async.config.paths import is_directory

# Versions are int64 in the config.
_MAX_DIGITS = 18


def is_version(name: str) -> bool:
    """Whether a directory name is a version: decimal, no leading zero (Triton ignores the others)."""
    return name.isascii() and name.isdigit() and name[0] != "0" and len(name) <= _MAX_DIGITS


def list_versions(model_dir: Path) -> tuple[int, ...]:
    """Versions that the model's directory holds, ascending; () when it cannot be read."""
    try:
        with os.scandir(model_dir) as entries:
            found = [int(entry.name) for entry in entries if is_version(entry.name) and is_directory(entry)]
    except OSError:
        return ()
    return tuple(sorted(found))
