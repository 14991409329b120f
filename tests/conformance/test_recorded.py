"""Replays the corpus against triton-async and compares with the recorded answers of tritonserver."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Answers
from .corpus import GROUPS
from .deviations import DEVIATIONS, disagreement

IDS = [case.id for cases in GROUPS.values() for case in cases]
COMPATIBILITY = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"


@pytest.mark.parametrize("case_id", IDS)
def test_answers_as_the_real_server(case_id: str, ours: Answers, recorded: Answers) -> None:
    """Our answer equals the recorded one, or is the deviation that we declare."""
    found = disagreement(case_id, ours[case_id], recorded[case_id])
    assert not found, found


def test_case_ids_are_unique() -> None:
    """Answers are looked up by id."""
    assert len(IDS) == len(set(IDS))


def test_every_case_is_recorded(recorded: Answers) -> None:
    """A new case is recorded when it is added; an answer without a case is dead."""
    assert set(recorded) == set(IDS)


def test_crashes_are_deviations(recorded: Answers) -> None:
    """Nothing that ends or hangs the real server may go without an answer of our own."""
    for case_id, answer in recorded.items():
        survived = not any(answer.get(key) for key in ("crashed", "stub_crashed", "silent"))
        assert survived or case_id in DEVIATIONS, case_id


def test_deviations_are_documented() -> None:
    """Each deviation names a case that exists, and stands in the compatibility document."""
    text = COMPATIBILITY.read_text()
    assert not [case_id for case_id in DEVIATIONS if case_id not in IDS or f"`{case_id}`" not in text]
