"""What every test needs: the installed package, never the sources beside the tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Servers that tests start as `python -m triton_async.cli` must not find the uncompiled sources in the current
# directory; nor must the tests, unless the sources were compiled in place.
os.environ.setdefault("PYTHONSAFEPATH", "1")
if not list((ROOT / "triton_async").glob("datatypes.*.so")):
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` run only where the NVIDIA driver is."""
    if Path("/dev/nvidiactl").exists():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))
