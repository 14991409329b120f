"""Version directories of a model: `<model>/<positive integer>/`."""

from __future__ import annotations

from pathlib import Path

# Versions are int64 in the config.
_MAX_DIGITS = 18


def is_version(name: str) -> bool:
    """Whether a directory name is a version: decimal, no leading zero (Triton ignores the others)."""
    return name.isascii() and name.isdigit() and name[0] != "0" and len(name) <= _MAX_DIGITS


def list_versions(model_dir: Path) -> tuple[int, ...]:
    """Versions that the model's directory holds, ascending; () when it cannot be read."""
    try:
        found = [int(e.name) for e in model_dir.iterdir() if is_version(e.name) and e.is_dir()]
    except OSError:
        return ()
    return tuple(sorted(found))
