"""The tests of both front-ends together use the harnesses of each, and of the core."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

for folder in (HERE.parent / "core", HERE / "grpc"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
