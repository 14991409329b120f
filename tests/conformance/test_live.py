"""Runs the corpus live against the real tritonserver and against us, side by side."""

from __future__ import annotations

import pytest

from .conftest import Asked
from .corpus import GROUPS
from .deviations import disagreement
from .normalise import canonical

pytestmark = pytest.mark.conformance


@pytest.mark.parametrize("group", GROUPS)
def test_recorded_answers_are_true(group: str, real: Asked, recorded: Asked) -> None:
    """The real server answers each case as recorded."""
    now, then = real(group), recorded(group)
    assert not [
        f"{case_id}:\n  it answers {now[case_id]}\n  and not    {then[case_id]}"
        for case_id in now
        if canonical(now[case_id]) != canonical(then[case_id])
    ]


@pytest.mark.parametrize("group", GROUPS)
def test_both_servers_agree(group: str, real: Asked, ours: Asked) -> None:
    """We answer each case as the real server does now, or as we declare to."""
    found = (disagreement(case.id, ours(group)[case.id], real(group)[case.id]) for case in GROUPS[group])
    assert not [text for text in found if text]
