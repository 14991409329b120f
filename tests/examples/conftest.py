"""The example models and scripts, without a server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The examples are scripts that sit side by side, as their users run them, not a package.
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "examples" / "ocr"), str(ROOT / "examples" / "pose")]


@pytest.fixture(scope="session")
def example_models() -> Path:
    """The example repository, built once and kept between runs."""
    import build_models

    repository = ROOT / ".cache" / "example-models"
    build_models.build(repository)
    return repository
