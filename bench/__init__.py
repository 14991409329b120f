"""Measurements. Not part of the package."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# `python -m bench…` finds the sources beside it first. Unless they were compiled in place it is the installed package
# that runs and is measured.
if not any((ROOT / "triton_async").glob("datatypes.*.so")):
    _before = sys.path[:]
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    import triton_async  # noqa: F401

    sys.path[:] = _before
