"""The answers of the servers, each asked once per test session."""

from __future__ import annotations

import pytest

from .corpus import GROUPS
from .record import read
from .replay import replay, starter
from .setup_oracle import prepare
from .wire import Answer

# By case id.
Answers = dict[str, Answer]


@pytest.fixture(scope="session")
def recorded() -> Answers:
    """What the real server answered when it was recorded."""
    return {case_id: answer for group in GROUPS for case_id, answer in read(group).items()}


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What we answer. Each group is replayed whole and in order, as it was recorded."""
    start = starter(tmp_path_factory.mktemp("ours"), None)
    return {case.id: answer for group in GROUPS for case, answer in replay(group, start)}


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What the real server answers now."""
    start = starter(tmp_path_factory.mktemp("real"), prepare())
    return {case.id: answer for group in GROUPS for case, answer in replay(group, start)}
