"""Servers in this process share one repository of models."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import embedded_models

from triton_async.infer.request import live_requests


@pytest.fixture(autouse=True)
def servers_are_idle() -> Iterator[None]:
    """A response is there a moment before its request is let go on the server's own thread."""
    before = live_requests()
    yield
    deadline = time.monotonic() + 10
    while live_requests() > before and time.monotonic() < deadline:
        time.sleep(0.005)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded")
    embedded_models.build(folder)
    return folder
