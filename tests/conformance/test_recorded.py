"""Replays the corpus against triton-async and compares with the recorded answers of tritonserver."""

from __future__ import annotations

from pathlib import Path

import pytest

from .cases import Case
from .corpus import GROUPS
from .deviations import DEVIATIONS
from .normalise import canonical
from .record import read
from .replay import replay, starter
from .wire import Answer

CASES = [pytest.param(group, case, id=case.id) for group, cases in GROUPS.items() for case in cases]
COMPATIBILITY = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"


@pytest.fixture(scope="session")
def recorded() -> dict[str, Answer]:
    """The real server's answers by case id."""
    return {case_id: answer for group in GROUPS for case_id, answer in read(group).items()}


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """Our answers by case id. Each group is replayed whole and in order, as it was recorded."""
    start = starter(tmp_path_factory.mktemp("conformance"), None)
    return {case.id: answer for group in GROUPS for case, answer in replay(group, start)}


@pytest.mark.parametrize(("group", "case"), CASES)
def test_answers_as_the_real_server(
    group: str, case: Case, ours: dict[str, Answer], recorded: dict[str, Answer]
) -> None:
    """Our answer equals the recorded one, or is the deviation that we declare."""
    check(case, ours[case.id], recorded[case.id])


def check(case: Case, answer: Answer, real: Answer) -> None:
    """Fails with both answers when ours is neither the real one nor what we declare to answer."""
    deviation = DEVIATIONS.get(case.id)
    if deviation is None:
        assert canonical(answer) == canonical(real)
    else:
        assert deviation.allows(answer), f"{answer} is not {deviation}"


def test_case_ids_are_unique() -> None:
    """Answers are looked up by id."""
    ids = [case.id for cases in GROUPS.values() for case in cases]
    assert len(ids) == len(set(ids))


def test_every_case_is_recorded(recorded: dict[str, Answer]) -> None:
    """A new case is recorded when it is added; an answer without a case is dead."""
    assert set(recorded) == {case.id for cases in GROUPS.values() for case in cases}


def test_crashes_are_deviations(recorded: dict[str, Answer]) -> None:
    """Nothing that ends or hangs the real server may go without an answer of our own."""
    bad = ("crashed", "stub_crashed", "silent")
    assert not [
        case_id
        for case_id, answer in recorded.items()
        if any(map(answer.get, bad)) and case_id not in DEVIATIONS
    ]


def test_deviations_are_documented() -> None:
    """Each deviation names a case that exists, and stands in the compatibility document."""
    text = COMPATIBILITY.read_text()
    ids = {case.id for cases in GROUPS.values() for case in cases}
    assert not [case_id for case_id in DEVIATIONS if case_id not in ids or f"`{case_id}`" not in text]
