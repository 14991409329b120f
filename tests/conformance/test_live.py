"""Runs the corpus live against the real tritonserver and against us, side by side."""

from __future__ import annotations

import pytest

from .conftest import Answers
from .corpus import GROUPS
from .deviations import disagreement
from .normalise import canonical

pytestmark = pytest.mark.conformance


@pytest.mark.parametrize("group", GROUPS)
def test_recorded_answers_are_true(group: str, real: Answers, recorded: Answers) -> None:
    """The real server answers each case as recorded."""
    ids = [case.id for case in GROUPS[group]]
    assert not {
        case_id: (real[case_id], recorded[case_id])
        for case_id in ids
        if canonical(real[case_id]) != canonical(recorded[case_id])
    }


@pytest.mark.parametrize("group", GROUPS)
def test_both_servers_agree(group: str, real: Answers, ours: Answers) -> None:
    """We answer each case as the real server does now, or as we declare to."""
    found = (disagreement(case.id, ours[case.id], real[case.id]) for case in GROUPS[group])
    assert not [text for text in found if text]
