"""Runs the corpus against the real tritonserver: the recorded answers still are what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from .corpus import GROUPS
from .normalise import canonical
from .record import read
from .replay import replay, starter
from .setup_oracle import prepare

pytestmark = pytest.mark.conformance


@pytest.mark.parametrize("group", GROUPS)
def test_recorded_answers_are_true(group: str, tmp_path: Path) -> None:
    """The real server answers each case as recorded."""
    recorded = read(group)
    start = starter(tmp_path, prepare())
    changed = {
        case.id: (answer, recorded.get(case.id))
        for case, answer in replay(group, start)
        if canonical(answer) != canonical(recorded.get(case.id, {}))
    }
    assert not changed
