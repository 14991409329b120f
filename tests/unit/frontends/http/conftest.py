"""The server under the HTTP front-end is the harness of the core tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "core"))

# What the client of a real port sees must be the same through either lane.
BOTH_LANES = {"test_http_generate", "test_http_infer", "test_http_routes"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__ in BOTH_LANES and "tmp_path" in metafunc.fixturenames:
        metafunc.parametrize("lane", ["express", "slow"], indirect=True)


@pytest.fixture(autouse=True)
def lane(request: pytest.FixtureRequest) -> Iterator[None]:
    """The lane that `http_harness.serving` offers; both for the tests named above."""
    import http_harness

    http_harness.express = getattr(request, "param", "express") == "express"
    yield
    http_harness.express = True
